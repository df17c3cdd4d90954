"""How fast a model answers: one row alone, and full batches."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import torch

from sherl.data.part import Part
from sherl.evaluation import Batch, eval_step
from sherl.model import TaskModel

WARM_UP = 3
MOST_REPEATS, LEAST_REPEATS = 50, 5
REPEAT_SECONDS = 2.0
"""After this long no further answer is timed, where the least were."""
BATCHES = 5


def unlabelled(batch: Batch) -> Batch:
    """The batch as a predictor has it: with labels a model that is judged by target tokens would write nothing."""
    return {name: tensor for name, tensor in batch.items() if name != "labels"}


def answer(model: TaskModel, batch: Batch) -> float:
    """Answers a batch as a predictor does; the seconds from prepared tensors to the answer's tensors on the CPU."""
    given = unlabelled(batch)
    began = time.perf_counter()
    eval_step(model, given).cpu()  # waits for the device
    return time.perf_counter() - began


def latency_of(model: TaskModel, row: Batch) -> float:
    """Median seconds of the answer to one row."""
    for _ in range(WARM_UP):
        answer(model, row)
    took: list[float] = []
    while len(took) < LEAST_REPEATS or (len(took) < MOST_REPEATS and sum(took) < REPEAT_SECONDS):
        took.append(answer(model, row))
    return statistics.median(took)


def rows_per_second_of(model: TaskModel, part: Part, batch_rows: int) -> float:
    """Over a few full batches from the longest rows to the shortest, the same ones for every model."""
    batches = [part.batch(part.order[start : start + batch_rows]) for start in _starts(len(part), batch_rows)]
    answer(model, batches[0])
    took = sum(answer(model, batch) for batch in batches)
    return batch_rows * len(batches) / took


def _starts(rows: int, batch_rows: int) -> Sequence[int]:
    """Where full batches begin, spread over all rows; at least one."""
    full = max(1, rows // batch_rows)
    count = min(full, BATCHES)
    chosen = torch.linspace(0, full - 1, count).round().to(torch.int64).tolist()
    return [int(index) * batch_rows for index in chosen]
