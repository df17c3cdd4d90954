"""One part (train, valid or test) of prepared images: pixels on disk, read through a memory map, made into batches."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sherl.data.batching import Indices, checked_batch_size, evaluation_plan, training_plan
from sherl.errors import DataError
from sherl.forms import TensorForm, form_of

Batch: TypeAlias = dict[str, Tensor]


class ImagePart:
    """Rows of images with labels; the counterpart of :class:`sherl.data.EncodedPart`.

    A batch is ``pixel_values``, float32 ``[batch, 3, height, width]`` normalised with the backbone's mean and deviation,
    and ``labels``, int64 ``[batch]``.
    """

    def __init__(self, folder: Path, *, name: str, mean: Sequence[float], std: Sequence[float]) -> None:
        """Raises:
        DataError: a file is missing or cannot be read.
        """
        self.name = name
        self._texts_path = folder / f"{name}.texts.jsonl"
        try:
            self.labels: Tensor = load_file(folder / f"{name}.safetensors")["labels"]
            """All labels in row order, int64 class indices."""
            self.pixels: NDArray[np.uint8] = np.load(folder / f"{name}.npy", mmap_mode="r")
            """Values of all rows, uint8 [rows, 3, height, width]."""
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise DataError(f"Prepared data: {folder} cannot be read ({error}); prepare the data again.") from error
        self._scale = normalisation(mean, std)
        self.lengths: NDArray[np.int64] = np.ones(len(self.labels), dtype=np.int64)
        """1 for each row: all images are of one size."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def has_token_types(self) -> bool:
        """Never: batches hold no tokens."""
        return False

    @cached_property
    def texts(self) -> Sequence[str]:
        """What each row's image is called, in row order; read on first use."""
        with self._texts_path.open(encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]

    @property
    def order(self) -> Indices:
        """Row indices in the order of evaluation."""
        return np.arange(len(self), dtype=np.int64)

    def num_batches(self, batch_size: int) -> int:
        """Number of batches of an epoch; a short last one counts.

        Raises:
            SpecError: the batch size is below 1.
        """
        return -(-len(self) // checked_batch_size(batch_size))

    def batches(self, batch_size: int, *, seed: int | None, epoch: int = 0) -> Iterator[Batch]:
        """Every row once, in an order drawn from (seed, epoch); with ``seed=None`` in row order.

        Raises:
            SpecError: the batch size is below 1.
        """
        if seed is None:
            plan = evaluation_plan(self.lengths, batch_size)
        else:
            plan = training_plan(self.lengths, batch_size, seed=seed, epoch=epoch)
        return (self.batch(rows) for rows in plan)

    def eval_batches(self, batch_size: int) -> Iterator[tuple[Batch, Tensor]]:
        """Batches in row order, each with the int64 indices of its rows.

        Raises:
            SpecError: the batch size is below 1.
        """
        plan = evaluation_plan(self.lengths, batch_size)
        return ((self.batch(rows), torch.from_numpy(rows)) for rows in plan)

    def largest_shape(self, batch_size: int) -> tuple[int, int, int]:
        """(rows, height, width) that no batch of this size exceeds.

        Raises:
            SpecError: the batch size is below 1.
        """
        height, width = self.pixels.shape[2:]
        return min(checked_batch_size(batch_size), len(self)), int(height), int(width)

    def largest_form(self, batch_size: int) -> dict[str, TensorForm]:
        """Shapes and types that no batch of this size exceeds.

        Raises:
            SpecError: the batch size is below 1.
        """
        return form_of(self.largest_batch(batch_size))

    def largest_batch(self, batch_size: int) -> Batch:
        """A batch of that shape.

        Raises:
            SpecError: the batch size is below 1.
        """
        return self.batch(self.order[: checked_batch_size(batch_size)])

    def batch(self, rows: Sequence[int] | Indices) -> Batch:
        """The batch of these rows, in this order."""
        index = np.asarray(rows, dtype=np.int64)
        return {
            "pixel_values": normalised(np.asarray(self.pixels[index]), self._scale),
            "labels": self.labels[torch.from_numpy(index)],
        }


def normalisation(mean: Sequence[float], std: Sequence[float]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Factor and summand [3, 1, 1] that take uint8 values to normalised ones."""
    deviation = np.asarray(std, dtype=np.float64)
    factor, summand = 1 / (255 * deviation), -np.asarray(mean, dtype=np.float64) / deviation
    return factor.astype(np.float32).reshape(3, 1, 1), summand.astype(np.float32).reshape(3, 1, 1)


def normalised(pixels: NDArray[np.uint8], scale: tuple[NDArray[np.float32], NDArray[np.float32]]) -> Tensor:
    """(values / 255 - mean) / deviation as float32 [rows, 3, height, width]."""
    made = pixels.astype(np.float32)
    made *= scale[0]
    made += scale[1]
    return torch.from_numpy(made)
