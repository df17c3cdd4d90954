"""A rehearsal under :class:`TensorMemory`: what a trial measures and what the predictor traces are this one function."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from autotune.memory.allocated import TensorMemory
from autotune.memory.labels import labelled
from sherl.evaluation import Batch
from sherl.model import TaskModel
from sherl.spec import TrainingConfig
from sherl.training import rehearse


def measure_rehearsal(
    model: TaskModel,
    train_batch: Batch,
    eval_batch: Batch,
    training: TrainingConfig,
    *,
    restore: Literal["snapshot", "none"] = "snapshot",
    record_events: bool = False,
) -> TensorMemory:
    """Two training steps and one evaluation step on these batches; weights, batches and all that comes to life count.

    Returns the memory, left: ``peak_bytes`` and ``peak_parts`` are what a run with no larger batch takes. See
    :func:`sherl.training.rehearse` for what is put back, and for what it raises.
    """
    memory = TensorMemory(record_events=record_events)
    with followed(memory, model, train_batch, eval_batch):
        rehearse(model, train_batch, eval_batch, training, restore=restore)
    return memory


@contextmanager
def followed(memory: TensorMemory, model: TaskModel, *batches: Batch) -> Iterator[None]:
    """The model and the batches count as held; so does all that comes to life inside."""
    with memory, labelled(memory, model):
        memory.track(model, *batches)
        yield
