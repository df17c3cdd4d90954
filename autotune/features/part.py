"""A part of prepared data whose batches bring stored features along."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autotune.features.ahead import read_ahead, side_stream
from autotune.features.reader import Reader
from sherl.data.batching import Indices
from sherl.data.part import Batch, Part
from sherl.features import SHAPE_ALONE, feature_name
from sherl.forms import is_hollow, without_values


class FeaturePart(Part):
    """Batches of another part, and beside each of their tensors ``features.<stack>.<n>``: ``[batch, tokens, width]`` with zeros
    at padding, or ``[batch, *shape]``. Images have no values then (:func:`sherl.forms.hollow`). Everything else that the other part
    has (texts, longest_label, ...) is its own.
    """

    def __init__(
        self,
        part: Part,
        reader: Reader,
        *,
        device: torch.device | str | None = None,
        ahead: bool | None = None,
    ) -> None:
        """part, reader: of the same rows. device: where :meth:`batches` and :meth:`eval_batches` bring their batches; on a GPU
        through pinned memory and a stream of their own. ahead: make each batch in a thread while the one before it is in use;
        by default on a GPU only, since a CPU that computes has no time to spare, and it costs the memory of one more batch.

        Raises:
            ValueError: the features are of another number of rows.
        """
        self._part = part
        self._reader = reader
        self._device = torch.device(device or "cpu")
        self.ahead = self._device.type == "cuda" if ahead is None else ahead
        """Whether a batch is read while the one before it is in use."""
        self.name = part.name
        self.labels = part.labels
        self.lengths = part.lengths
        for place in reader.places:
            rows = reader.layout(place).rows
            if rows != len(part):
                raise ValueError(
                    f"Features {feature_name(place)} are of {rows} rows, part {part.name!r} has {len(part)}: build them anew."
                )

    def __getattr__(self, name: str) -> Any:
        """Called for what this class itself lacks."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._part, name)

    def batch(self, rows: Sequence[int] | Indices) -> Batch:
        """The batch of these rows, in this order, on the CPU; in pinned memory where the device is a GPU."""
        made = self._part.hollow_batch(rows)
        index = np.asarray(rows, dtype=np.int64)
        if self._device.type != "cuda":
            for place in self._reader.places:
                made[feature_name(place)] = self._read(place, index, self._reader.shape(place, index))
            return made
        with torch.cuda.device(self._device):  # pinning would else begin to use the first GPU
            made = {name: tensor if is_hollow(tensor) else tensor.pin_memory() for name, tensor in made.items()}
            for place in self._reader.places:
                shape = self._reader.shape(place, index)
                made[feature_name(place)] = self._read(place, index, shape, pinned=True)
        return made

    def largest_batch(self, batch_size: int) -> Batch:
        """As of the other part; features are as wide as those of their longest row, wherever it stands.

        Raises:
            SpecError: the batch size is below 1.
        """
        made = without_values(self._part.largest_batch(batch_size), SHAPE_ALONE)
        index = self.order[:batch_size]
        for place in self._reader.places:
            layout = self._reader.layout(place)
            made[feature_name(place)] = self._read(place, index, layout.batch_shape(len(index), layout.longest))
        return made

    def batches(self, batch_size: int, *, seed: int | None, epoch: int = 0) -> Iterator[Batch]:
        """As of every part.

        Raises:
            SpecError: the batch size is below 1.
        """
        made = super().batches(batch_size, seed=seed, epoch=epoch)
        made = read_ahead(made) if self.ahead else made
        if self._device.type != "cuda":
            return made
        side = side_stream(self._device)
        return (side.bring(batch) for batch in made)

    def eval_batches(self, batch_size: int) -> Iterator[tuple[Batch, Tensor]]:
        """As of every part; the indices of rows stay on the CPU.

        Raises:
            SpecError: the batch size is below 1.
        """
        made = super().eval_batches(batch_size)
        made = read_ahead(made) if self.ahead else made
        if self._device.type != "cuda":
            return made
        side = side_stream(self._device)
        return ((side.bring(batch), rows) for batch, rows in made)

    def _read(self, place: tuple[str, int], rows: Indices, shape: tuple[int, ...], *, pinned: bool = False) -> Tensor:
        out = torch.empty(shape, dtype=self._reader.layout(place).dtype, pin_memory=pinned)
        self._reader.read(place, rows, out)
        return out
