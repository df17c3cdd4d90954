"""One part (train, valid or test) of prepared images: pixels on disk, read through a memory map, made into batches."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sherl.data.batching import Indices
from sherl.data.part import Batch, Part
from sherl.errors import DataError
from sherl.forms import hollow


class ImagePart(Part):
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

    @property
    def has_token_types(self) -> bool:
        """Never: batches hold no tokens."""
        return False

    @cached_property
    def texts(self) -> Sequence[str]:
        """What each row's image is called, in row order; read on first use."""
        with self._texts_path.open(encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]

    def batch(self, rows: Sequence[int] | Indices) -> Batch:
        """The batch of these rows, in this order."""
        index = np.asarray(rows, dtype=np.int64)
        return {
            "pixel_values": normalised(np.asarray(self.pixels[index]), self._scale),
            "labels": self.labels[torch.from_numpy(index)],
        }

    def hollow_batch(self, rows: Sequence[int] | Indices) -> Batch:
        """The same with images of which there is the shape alone: none is read from the disk."""
        index = np.asarray(rows, dtype=np.int64)
        return {
            "pixel_values": hollow((len(index), *self.pixels.shape[1:]), torch.float32),
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
