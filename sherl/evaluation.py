"""Scoring a model: logits in the order of the rows, metrics of the task.

Nothing here needs gradients. ``no_grad`` is used and not ``inference_mode``: what a model caches during an evaluation
(tables of positions, for instance) must be usable in a later training step, and the memory predictor runs
:func:`eval_step` on fake tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from sherl.backbones.writing import PADDING
from sherl.errors import DataError
from sherl.forms import moved
from sherl.model import TaskModel
from sherl.tasks import task_for

Batch = dict[str, Tensor]


class EvaluationPart(Protocol):
    """What is scored: a part of a data set, e.g. :class:`sherl.data.EncodedPart`."""

    def __len__(self) -> int: ...

    def eval_batches(self, batch_size: int) -> Iterator[tuple[Batch, Any]]:
        """Batches and, with each, the row number of each of its rows; every row once, in any order."""
        ...


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards every submodule has the training flag that it had before."""
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, flag in flags:
            module.training = flag


def to_device(batch: Batch, model: nn.Module) -> Batch:
    """The batch on the device of the model's parameters (the same tensors where they are there already)."""
    device = next(model.parameters()).device
    return {name: moved(tensor, device) for name, tensor in batch.items()}


def eval_step(model: TaskModel, batch: Batch, *, whole_length: bool = False) -> Tensor:
    """Outputs of one batch, in evaluation mode and without gradients; training flags are put back.

    Logits [batch, outputs], or the tokens [batch, target_length] of a task that writes text; ``whole_length`` goes on
    until then, so that what a step takes does not depend on what is written.
    """
    with evaluating(model), torch.no_grad():
        return model.outputs(to_device(batch, model), whole_length=whole_length)


def predict_logits(model: TaskModel, part: EvaluationPart, batch_size: int) -> Tensor:
    """Outputs of all rows on the CPU, row i of the part in row i; ``[0, outputs]`` of a part without rows.

    Raises:
        DataError: the part's batches do not cover each of its rows.
    """
    outputs, _ = _run(model, part, batch_size)
    return outputs


def evaluate(model: TaskModel, part: EvaluationPart, batch_size: int) -> dict[str, float]:
    """The task's metrics over a part; higher is better.

    Logits that are not finite give NaN for every metric, so that a diverged model shows as one and never as a score.

    Raises:
        DataError: the part has no rows, or rows without labels.
    """
    if len(part) == 0:
        raise DataError("A part without rows cannot be scored: give a data source with at least one row in it.")
    outputs, labels = _run(model, part, batch_size)
    if labels is None:
        raise DataError("A part without labels cannot be scored: give a data source that has a label column.")
    return task_for(model.task).metrics(outputs, labels)


def _run(model: TaskModel, part: EvaluationPart, batch_size: int) -> tuple[Tensor, Tensor | None]:
    """Outputs and labels (None if a batch has none) in the order of the rows, on the CPU."""
    outputs, labels = _Rows(len(part)), _Rows(len(part))
    labelled = True
    with evaluating(model):
        for batch, indices in part.eval_batches(batch_size):
            rows = _row_numbers(indices)
            made = eval_step(model, batch).cpu()
            outputs.put(rows, made.float() if made.is_floating_point() else made)
            if "labels" not in batch:
                labelled = False
                continue
            labels.put(rows, batch["labels"].cpu())
    if not bool(outputs.seen.all()):
        raise DataError(f"Only {int(outputs.seen.sum())} of {len(part)} rows came in the batches of this part.")
    empty = torch.empty(0, model.task.num_outputs)
    made = empty if outputs.values is None else outputs.values
    return made, labels.values if labelled else None


class _Rows:
    """A tensor of all rows that batches fill; where widths differ, shorter rows end in -100, as targets do."""

    def __init__(self, count: int) -> None:
        self.values: Tensor | None = None
        self.seen = torch.zeros(count, dtype=torch.bool)

    def put(self, rows: Tensor, made: Tensor) -> None:
        if self.values is None:
            self.values = made.new_zeros((len(self.seen), *made.shape[1:]))
        missing = made.shape[-1] - self.values.shape[-1] if made.ndim > 1 else 0
        if missing > 0:
            self.values = functional.pad(self.values, (0, missing), value=PADDING)
        elif missing < 0:
            made = functional.pad(made, (0, -missing), value=PADDING)
        self.values[rows] = made
        self.seen[rows] = True


def _row_numbers(indices: Tensor | Sequence[int]) -> Tensor:
    return torch.as_tensor(indices, dtype=torch.int64)
