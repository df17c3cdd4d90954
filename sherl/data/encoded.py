"""One part (train, valid or test) of prepared data: token ids on disk, read through a memory map, made into batches."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn.functional import pad

from sherl.data.batching import Indices
from sherl.data.part import Batch, Part
from sherl.errors import DataError
from sherl.forms import NO_LABEL

Text: TypeAlias = str | tuple[str, ...]
"""A text, a pair of texts, or the words of a sentence."""


class EncodedPart(Part):
    """Rows of token ids with labels. Opening one costs little: ids are read from a memory map as batches need them.

    A batch is ``input_ids`` and ``attention_mask`` (int64 ``[batch, tokens]``), ``labels`` (int64 or float32
    ``[batch]``; of text-to-text int64 target tokens ``[batch, targets]``, of token classification int64 tags and of
    language modelling the token ids ``[batch, tokens]``, each with -100 where nothing is to be learnt) and, where the
    tokenizer marks the second text of a pair, ``token_type_ids``; padding is on the right and only to the longest row of the
    batch.
    """

    def __init__(self, tensors: Path, texts: Path, *, name: str, pad_token_id: int, pad_token_type_id: int = 0) -> None:
        """Raises:
        DataError: a file is missing or cannot be read.
        """
        self.name = name
        self._texts_path = texts
        self._pads = {"input_ids": pad_token_id, "token_type_ids": pad_token_type_id}
        try:
            with safe_open(tensors, framework="pt") as stored:
                loaded = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118 - it is no dictionary
        except (OSError, SafetensorError) as error:
            raise DataError(f"Prepared data: {tensors} cannot be read ({error}); prepare the data again.") from error
        labels = loaded.pop("labels", None)
        self.labels: Tensor = loaded["input_ids"] if labels is None else labels
        """All labels in row order: int64 class indices, or float32 values in the data's own units; of rows with a label
        for each token, those of all rows one after the other."""
        label_offsets = loaded.pop("label_offsets", loaded["offsets"] if labels is None else None)
        self._label_offsets: NDArray[np.int64] | None = None if label_offsets is None else label_offsets.numpy()
        self._offsets: NDArray[np.int64] = loaded.pop("offsets").numpy()
        self._flat: dict[str, NDArray[Any]] = {key: tensor.numpy() for key, tensor in loaded.items()}
        self.lengths: NDArray[np.int64] = np.diff(self._offsets)
        """Tokens of each row, in row order."""

    @property
    def longest_label(self) -> int:
        """Tokens of the longest row of labels; 0 where a row has one label."""
        return 0 if self._label_offsets is None else int(np.diff(self._label_offsets).max(initial=0))

    @property
    def has_token_types(self) -> bool:
        """Whether batches hold ``token_type_ids``."""
        return "token_type_ids" in self._flat

    @cached_property
    def texts(self) -> Sequence[Text]:
        """The raw texts in row order, pairs as tuples; read on first use."""
        with self._texts_path.open(encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        return [tuple(row) if isinstance(row, list) else row for row in rows]

    def largest_batch(self, batch_size: int) -> Batch:
        """As of every part; target tokens are padded to the part's longest target.

        Raises:
            SpecError: the batch size is below 1.
        """
        made = super().largest_batch(batch_size)
        missing = self.longest_label - made["labels"].shape[-1]
        if self._label_offsets is not None and missing > 0:
            made["labels"] = pad(made["labels"], (0, missing), value=NO_LABEL)
        return made

    def batch(self, rows: Sequence[int] | Indices) -> Batch:
        """The batch of these rows, in this order."""
        index = np.asarray(rows, dtype=np.int64)
        lengths = self.lengths[index]
        kept, positions = _spread(self._offsets[index], lengths)
        made: Batch = {}
        for key, flat in self._flat.items():
            padded = np.full(kept.shape, self._pads[key], dtype=np.int64)
            padded[kept] = flat[positions]
            made[key] = torch.from_numpy(padded)
        made["attention_mask"] = torch.from_numpy(kept.astype(np.int64))
        made["labels"] = self._labels(index)
        return made

    def _labels(self, index: Indices) -> Tensor:
        if self._label_offsets is None:
            return self.labels[torch.from_numpy(index)]
        begin = self._label_offsets[index]
        kept, positions = _spread(begin, self._label_offsets[index + 1] - begin)
        padded = np.full(kept.shape, NO_LABEL, dtype=np.int64)
        padded[kept] = self.labels.numpy()[positions]
        return torch.from_numpy(padded)


def _spread(begin: NDArray[np.int64], lengths: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Which places of ``[rows, longest]`` hold something, and where each of these lies in the flat array."""
    columns = np.arange(lengths.max(initial=0))
    kept = columns < lengths[:, None]
    return kept, (begin[:, None] + columns)[kept]
