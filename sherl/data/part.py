"""What every part (train, valid or test) of prepared data has, whatever its rows are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, TypeAlias

import torch
from numpy.typing import NDArray
from torch import Tensor

from sherl.data.batching import Indices, checked_batch_size, evaluation_plan, longest_first, training_plan
from sherl.features import SHAPE_ALONE
from sherl.forms import TensorForm, form_of, with_rows, without_values

Batch: TypeAlias = dict[str, Tensor]


class Part(ABC):
    """Rows that become batches.

    name: of the part. labels: all labels, in row order. lengths: of each row, in row order; rows of one length stand together
    in a batch.
    """

    name: str
    labels: Tensor
    lengths: NDArray[Any]

    def __len__(self) -> int:
        return len(self.lengths)

    @abstractmethod
    def batch(self, rows: Sequence[int] | Indices) -> Batch:
        """The batch of these rows, in this order."""

    def hollow_batch(self, rows: Sequence[int] | Indices) -> Batch:
        """The same without the values that nobody reads where hidden states of these rows are brought beside it
        (:data:`sherl.features.SHAPE_ALONE`)."""
        return without_values(self.batch(rows), SHAPE_ALONE)

    @cached_property
    def order(self) -> Indices:
        """Row indices in the order of evaluation, the longest row first, equally long ones in row order."""
        return longest_first(self.lengths)

    def num_batches(self, batch_size: int) -> int:
        """Number of batches of an epoch; a short last one counts.

        Raises:
            SpecError: the batch size is below 1.
        """
        return -(-len(self) // checked_batch_size(batch_size))

    def batches(self, batch_size: int, *, seed: int | None, epoch: int = 0) -> Iterator[Batch]:
        """Every row once, in batches of rows of similar length whose order is drawn from (seed, epoch).

        With ``seed=None`` rows come in the order of :attr:`order`, as in :meth:`eval_batches`.

        Raises:
            SpecError: the batch size is below 1.
        """
        if seed is None:
            plan = evaluation_plan(self.lengths, batch_size)
        else:
            plan = training_plan(self.lengths, batch_size, seed=seed, epoch=epoch)
        return (self.batch(rows) for rows in plan)

    def eval_batches(self, batch_size: int) -> Iterator[tuple[Batch, Tensor]]:
        """Batches from the longest rows to the shortest, each with the int64 indices of its rows.

        Raises:
            SpecError: the batch size is below 1.
        """
        plan = evaluation_plan(self.lengths, batch_size)
        return ((self.batch(rows), torch.from_numpy(rows)) for rows in plan)

    def largest_batch(self, batch_size: int) -> Batch:
        """A batch that none of this size exceeds, in training or evaluation: the longest rows.

        Raises:
            SpecError: the batch size is below 1.
        """
        return self.batch(self.order[: checked_batch_size(batch_size)])

    def largest_form(self, batch_size: int) -> dict[str, TensorForm]:
        """Its shapes and types.

        Raises:
            SpecError: the batch size is below 1.
        """
        return with_rows(self._largest_row, min(checked_batch_size(batch_size), len(self)))

    @cached_property
    def _largest_row(self) -> dict[str, TensorForm]:
        """Of one row, so that no batch is read for its shapes alone."""
        return form_of(self.largest_batch(1))
