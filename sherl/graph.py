"""A tuned model as a graph without Python: ONNX, or torch.export's archive; compared with the model before it is kept.

The graph takes what a batch holds (token ids and mask, or pixels), of any number of rows and tokens, and gives logits; of
regression the values in the data's own units. What a method does in hooks is in the graph as any other operation.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from uuid import uuid4

import torch
from torch import Tensor, nn

from sherl.errors import SherlError, SpecError
from sherl.evaluation import evaluating
from sherl.inputs import Images, Inputs, texts_of
from sherl.model import TaskModel
from sherl.precision import precision_of

if TYPE_CHECKING:
    from sherl.predictor import Predictor

Form = Literal["onnx", "pt2"]
FILES: Mapping[Form, str] = {"onnx": "model.onnx", "pt2": "model.pt2"}
#: Largest difference to the model, as a share of the largest output: both round in float32, in another order.
TOLERANCE = 1e-4
MOST_ROWS = 1 << 16
_TEXTS = ("A text.", "A longer text, of some more words than that.", "Yes", "no no no no no no no no no no no no")
_OF_IMAGES = (1, 3)
_MODULES = ("onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True, kw_only=True)
class GraphReport:
    """What was written. largest_difference: to the model's outputs, over ``rows`` rows in batches of other sizes than the
    traced one. inputs: names in the order in which the graph takes them."""

    file: Path
    form: Form
    inputs: tuple[str, ...]
    largest_difference: float
    rows: int


class GraphError(SherlError):
    """The model cannot be written as a graph; nothing was written."""


class _Outputs(nn.Module):
    """The model on tensors by place."""

    def __init__(self, model: TaskModel, names: Sequence[str]) -> None:
        super().__init__()
        self.model, self._names = model, tuple(names)
        regression = model.task.kind == "regression"
        self._units = (model.task.target_std, model.task.target_mean) if regression else None

    def forward(self, *tensors: Tensor) -> Tensor:
        logits: Tensor = self.model(dict(zip(self._names, tensors, strict=True)))
        return logits if self._units is None else logits * self._units[0] + self._units[1]


def export_graph(predictor: Predictor, path: str | Path, *, form: Form) -> GraphReport:
    """Write the model as ``form`` into the file ``path``, whole or not at all.

    The model is moved to the CPU. ``onnx`` needs the packages onnx, onnxscript and onnxruntime (the extra ``onnx``).

    Raises:
        GraphError: the task writes text or scores texts, torch cannot trace the model, or the graph's outputs differ from
            the model's; nothing is written then.
        SpecError: the form is unknown, or a package is missing.
    """
    model, path = predictor.model, Path(path)
    if form not in FILES:
        raise SpecError(f"form must be one of {', '.join(FILES)}, {form!r} was given.")
    if model.task.kind in ("text-to-text", "language-modelling"):
        raise GraphError(
            f"A model of the task {model.task.kind} is no single graph: it works token by token, with a loop around the model. "
            "Serve it with sherl.load or MLflow instead (autotune export --register)."
        )
    if form == "onnx":
        _require_packages()
    model.to("cpu")
    first, *others = sample_batches(predictor)
    outputs = _Outputs(model, list(first)).eval()
    scratch = path.with_name(f".{uuid4().hex[:8]}{path.suffix}")
    try:
        with evaluating(model), torch.no_grad(), _still():
            program = _traced(outputs, first, model)
            run = _write(program, scratch, form, list(first))
            difference, rows = _compared(outputs, run, [first, *others], model)
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)
    return GraphReport(file=path, form=form, inputs=tuple(first), largest_difference=difference, rows=rows)


def _require_packages() -> None:
    from importlib.util import find_spec

    missing = [name for name in _MODULES if find_spec(name) is None]
    if missing:
        raise SpecError(
            f"ONNX needs the package{'s' if len(missing) > 1 else ''} {', '.join(missing)}, which {'are' if len(missing) > 1 else 'is'} "
            "not installed: pip install 'memory-autotune[onnx]', or write torch's own form instead (--torch-export)."
        )


def sample_batches(predictor: Predictor) -> list[dict[str, Tensor]]:
    """The batch that is traced, and others of other sizes: a single row, shorter and longer rows."""
    task = predictor.model.task
    inputs: Inputs
    if task.image_size:
        import numpy as np

        height, width = task.image_size
        drawn = np.random.default_rng(0).integers(0, 256, (sum(_OF_IMAGES) + 2, 3, height, width), dtype=np.uint8)
        inputs, groups = Images(drawn, task), [[0, 1], [2], [3, 4, 5]]
    else:
        texts: list[Any] = [(text, _TEXTS[0]) for text in _TEXTS] if task.pair else list(_TEXTS)
        if task.kind == "token-classification":
            from sherl.inputs import sentences_of

            inputs = sentences_of(texts, predictor.tokenizer, predictor.max_length)[0]
        else:
            inputs = texts_of(texts, task, predictor.tokenizer, predictor.max_length)
        groups = [[0, 1, 3], [2], [0, 1], [3, 2, 1, 0]]
    return [inputs.batch(rows) for rows in groups]


def _traced(outputs: _Outputs, batch: Mapping[str, Tensor], model: TaskModel) -> Any:
    rows = torch.export.Dim("rows", min=1, max=MOST_ROWS)
    most = model.tuned.backbone.max_tokens or 1 << 15
    tokens = torch.export.Dim("tokens", min=2, max=most)
    shapes = tuple({0: rows} if name == "pixel_values" else {0: rows, 1: tokens} for name in batch)
    try:
        return torch.export.export(outputs, tuple(batch.values()), dynamic_shapes=(shapes,), strict=False)
    except Exception as error:
        raise GraphError(
            f"torch cannot trace a {model.tuned.backbone.family} model with {model.tuned.config.name} for any number of rows "
            f"and tokens: {_first(error)} Serve it with sherl.load or MLflow instead (autotune export --register)."
        ) from error


def _write(program: Any, path: Path, form: Form, names: list[str]) -> Callable[..., Tensor]:
    """Write the program; gives a function that computes with what was written."""
    if form == "pt2":
        torch.export.save(program, path)
        loaded: Callable[..., Tensor] = torch.export.load(path).module()
        return loaded
    import onnxruntime

    try:
        torch.onnx.export(
            program, (), str(path), dynamo=True, external_data=False, verbose=False, input_names=names, output_names=["outputs"]
        )  # fmt: skip
    except Exception as error:
        raise GraphError(
            f"The model has no ONNX form: {_first(error)} Write torch's own form instead (--torch-export)."
        ) from error
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(*tensors: Tensor) -> Tensor:
        given = {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}
        return torch.from_numpy(session.run(None, given)[0])

    return run


def _compared(
    outputs: _Outputs, run: Callable[..., Tensor], batches: list[dict[str, Tensor]], model: TaskModel
) -> tuple[float, int]:
    """The largest difference over all batches, and their rows.

    Raises:
        GraphError: it is more than rounding.
    """
    largest = scale = 0.0
    rows = 0
    for batch in batches:
        expected, got = outputs(*batch.values()).float(), run(*batch.values()).float()
        keep = torch.ones_like(expected, dtype=torch.bool)
        if expected.ndim == 3:  # of padding nothing is asked
            keep &= batch["attention_mask"].bool()[:, :, None]
        largest = max(largest, float((expected - got).abs()[keep].max()))
        scale = max(scale, float(expected.abs()[keep].max()))
        rows += len(expected)
    allowed = TOLERANCE if precision_of(model.tuned.backbone.model) == "fp32" else 500 * TOLERANCE
    if not largest <= allowed * max(scale, 1.0):
        raise GraphError(
            f"The graph does not compute what the model does: outputs differ by {largest:.2g}, and at most "
            f"{allowed * max(scale, 1.0):.2g} was expected from rounding. It was not kept."
        )
    return largest, rows


@contextmanager
def _still() -> Iterator[None]:
    """The exporters' warnings are about their own insides."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _first(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{lines[0][:300].rstrip('.')}." if lines else f"{type(error).__name__}."
