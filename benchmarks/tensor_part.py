"""One part of a data set that lies in memory as tensors: images, or features of speech."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

Batch = dict[str, Tensor]


class TensorPart:
    """Rows of one size with labels; what :func:`sherl.training.fit` and :func:`sherl.evaluation.evaluate` ask of a part.

    inputs: by the name that the backbone reads, each [rows, ...]. labels: int64 [rows].
    """

    def __init__(self, inputs: Mapping[str, Tensor], labels: Tensor) -> None:
        lengths = {name: len(tensor) for name, tensor in inputs.items()}
        if set(lengths.values()) != {len(labels)}:
            raise ValueError(f"{len(labels)} labels were given for inputs of {lengths} rows.")
        self._inputs = dict(inputs)
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, rows: Any) -> Batch:
        """The batch of these rows, in this order."""
        index = torch.as_tensor(rows, dtype=torch.int64)
        return {**{name: tensor[index] for name, tensor in self._inputs.items()}, "labels": self.labels[index]}

    def num_batches(self, batch_size: int) -> int:
        """Number of batches of an epoch; a short last one counts."""
        return -(-len(self) // batch_size)

    def batches(self, batch_size: int, *, seed: int | None, epoch: int = 0) -> Iterator[Batch]:
        """Every row once, in an order drawn from (seed, epoch); with ``seed=None`` in row order."""
        order = np.arange(len(self))
        if seed is not None:
            order = np.random.default_rng([seed, epoch]).permutation(order)
        return (self.batch(order[first : first + batch_size]) for first in range(0, len(self), batch_size))

    def eval_batches(self, batch_size: int) -> Iterator[tuple[Batch, Tensor]]:
        """Batches in row order, each with the numbers of its rows."""
        order = torch.arange(len(self))
        return ((self.batch(rows), rows) for rows in order.split(batch_size))

    def largest_batch(self, batch_size: int) -> Batch:
        """A batch that none exceeds: all rows are of one size."""
        return self.batch(range(min(batch_size, len(self))))
