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

from sherl.errors import DataError
from sherl.model import TaskModel
from sherl.shapes import Float
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
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}


def eval_step(model: TaskModel, batch: Batch) -> Float[Tensor, "batch outputs"]:
    """Logits of one batch, in evaluation mode and without gradients; training flags are put back."""
    with evaluating(model), torch.no_grad():
        logits: Tensor = model(to_device(batch, model))
    return logits


def predict_logits(model: TaskModel, part: EvaluationPart, batch_size: int) -> Float[Tensor, "rows outputs"]:
    """Logits of all rows on the CPU, row i of the part in row i; ``[0, outputs]`` of a part without rows.

    Raises:
        DataError: the part's batches do not cover each of its rows.
    """
    logits, _ = _run(model, part, batch_size)
    return logits


def evaluate(model: TaskModel, part: EvaluationPart, batch_size: int) -> dict[str, float]:
    """The task's metrics over a part; higher is better.

    Logits that are not finite give NaN for every metric, so that a diverged model shows as one and never as a score.

    Raises:
        DataError: the part has no rows, or rows without labels.
    """
    if len(part) == 0:
        raise DataError("A part without rows cannot be scored: give a data source with at least one row in it.")
    logits, labels = _run(model, part, batch_size)
    if labels is None:
        raise DataError("A part without labels cannot be scored: give a data source that has a label column.")
    return task_for(model.task).metrics(logits, labels)


def _run(model: TaskModel, part: EvaluationPart, batch_size: int) -> tuple[Tensor, Tensor | None]:
    """Logits and labels (None if a batch has none) in the order of the rows, on the CPU."""
    logits = torch.empty(len(part), model.task.num_outputs)
    seen = torch.zeros(len(part), dtype=torch.bool)
    labels: Tensor | None = None
    labelled = True
    with evaluating(model):
        for batch, indices in part.eval_batches(batch_size):
            rows = _row_numbers(indices)
            logits[rows] = eval_step(model, batch).to("cpu", torch.float32)
            seen[rows] = True
            if "labels" not in batch:
                labelled = False
                continue
            values = batch["labels"].cpu()
            if labels is None:
                labels = torch.zeros(len(part), dtype=values.dtype)
            labels[rows] = values
    if not bool(seen.all()):
        raise DataError(f"Only {int(seen.sum())} of {len(part)} rows came in the batches of this part.")
    return logits, labels if labelled else None


def _row_numbers(indices: Tensor | Sequence[int]) -> Tensor:
    return torch.as_tensor(indices, dtype=torch.int64)
