"""One part of a data set that lies in memory as tensors: images, or features of speech."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sherl.data import Part
from sherl.features import SHAPE_ALONE
from sherl.forms import hollow


class TensorPart(Part):
    """Rows of one size with labels; what :func:`sherl.training.fit` and :func:`sherl.evaluation.evaluate` ask of a part.

    inputs: by the name that the backbone reads, each [rows, ...]. labels: int64 [rows].
    """

    def __init__(self, inputs: Mapping[str, Tensor], labels: Tensor) -> None:
        lengths = {name: len(tensor) for name, tensor in inputs.items()}
        if set(lengths.values()) != {len(labels)}:
            raise ValueError(f"{len(labels)} labels were given for inputs of {lengths} rows.")
        self.name = "rows in memory"
        self._inputs = dict(inputs)
        self.labels = labels
        self.lengths = np.ones(len(labels), dtype=np.int64)  # all rows are of one size

    def batch(self, rows: Any) -> dict[str, Tensor]:
        """The batch of these rows, in this order."""
        index = torch.as_tensor(rows, dtype=torch.int64)
        return {**{name: tensor[index] for name, tensor in self._inputs.items()}, "labels": self.labels[index]}

    def hollow_batch(self, rows: Any) -> dict[str, Tensor]:
        """The same with the shape alone of images."""
        index = torch.as_tensor(rows, dtype=torch.int64)
        inputs = {
            name: hollow((len(index), *tensor.shape[1:]), tensor.dtype) if name in SHAPE_ALONE else tensor[index]
            for name, tensor in self._inputs.items()
        }
        return {**inputs, "labels": self.labels[index]}
