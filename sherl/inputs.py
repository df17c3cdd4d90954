"""What a person hands a fine-tuned model, checked and made into batches: texts, pairs, sentences of words, images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sherl.data.batching import longest_first
from sherl.data.encoding import Encoded
from sherl.data.image_part import normalisation, normalised
from sherl.data.image_settings import ImageSettings
from sherl.data.pictures import PictureError, pixels
from sherl.data.rows import encode_filled
from sherl.data.tagged import encode_words
from sherl.errors import DataError
from sherl.spec import TaskSpec

Batch: TypeAlias = dict[str, Tensor]

_PROBLEMS_SHOWN = 10


class Inputs(ABC):
    """The rows of one call, ready to be batched."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def batch(self, rows: Sequence[int]) -> Batch:
        """The batch of these rows, in this order."""

    @property
    def order(self) -> list[int]:
        """All rows, those that take most memory first."""
        return list(range(len(self)))


@final
class Tokens(Inputs):
    """Rows of token ids; ``begun`` is the word that each token begins, where rows are words (-1 for none)."""

    def __init__(self, encoded: Encoded, tokenizer: Any, begun: NDArray[np.int64] | None = None) -> None:
        self._encoded, self._begun = encoded, begun
        self._pads = (tokenizer.pad_token_id or 0, getattr(tokenizer, "pad_token_type_id", 0) or 0)

    def __len__(self) -> int:
        return len(self._encoded.lengths)

    @property
    def order(self) -> list[int]:
        """Longest first: little padding, and too large a batch size shows at once."""
        return [int(row) for row in longest_first(self._encoded.lengths)]

    def words(self, row: int) -> NDArray[np.int64]:
        """For each token of a row the word that it begins, or -1."""
        assert self._begun is not None
        return self._begun[self._encoded.offsets[row] : self._encoded.offsets[row + 1]]

    def batch(self, rows: Sequence[int]) -> Batch:
        """Right-padded to the longest of the rows."""
        encoded = self._encoded
        flat = {"input_ids": (encoded.ids, self._pads[0])}
        if len(encoded.token_types):
            flat["token_type_ids"] = (encoded.token_types, self._pads[1])
        lengths = torch.as_tensor(encoded.lengths)[torch.as_tensor(rows)]
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        batch = {"attention_mask": mask.to(torch.int64)}
        for name, (values, padding) in flat.items():
            batch[name] = torch.full(mask.shape, padding, dtype=torch.int64)
            pieces = [values[encoded.offsets[row] : encoded.offsets[row + 1]] for row in rows]
            batch[name][mask] = torch.from_numpy(np.concatenate(pieces).astype(np.int64))
        return batch


@final
class Images(Inputs):
    """Rows of pixels, uint8 [rows, 3, height, width], normalised batch by batch."""

    def __init__(self, stored: NDArray[np.uint8], task: TaskSpec) -> None:
        self._stored, self._scale = stored, normalisation(task.image_mean, task.image_std)

    def __len__(self) -> int:
        return len(self._stored)

    def batch(self, rows: Sequence[int]) -> Batch:
        """``pixel_values``, float32 [rows, 3, height, width]."""
        return {"pixel_values": normalised(self._stored[list(rows)], self._scale)}


def texts_of(given: Any, task: TaskSpec, tokenizer: Any, max_length: int | None) -> Tokens:
    """Texts, or pairs of texts where the task is on pairs; with the task's template where it has one.

    Raises:
        DataError: something is no text, or no pair; the message has its index.
    """
    if task.pair:
        rows = _checked(given, "Texts", "a pair of strings is needed", _pair)
    else:
        rows = _checked(given, "Texts", "a string is needed", _clean)
    if not rows:
        return Tokens(_NOTHING, tokenizer)
    return Tokens(encode_filled(tokenizer, task.template, rows, max_length), tokenizer)


def sentences_of(given: Any, tokenizer: Any, max_length: int | None) -> tuple[Tokens, list[list[str]]]:
    """Sentences as lists of words, or as strings that are split at blanks; with their words.

    Raises:
        DataError: something is neither, or without a word; the message has its index.
    """
    rows = _checked(given, "Sentences", "a string, or a list of words that are not empty, is needed", _words)
    if not rows:
        return Tokens(_NOTHING, tokenizer, np.zeros(0, np.int64)), []
    encoded, begun = encode_words(tokenizer, rows, max_length)
    return Tokens(encoded, tokenizer, begun), rows


def images_of(given: Any, task: TaskSpec) -> Images:
    """Paths, images of Pillow, or arrays, decoded as in training.

    Raises:
        DataError: something is no image; all are named by their index.
    """
    height, width = task.image_size
    settings = ImageSettings((height, width), task.image_mean, task.image_std, task.image_resample)

    def read(picture: Any) -> NDArray[np.uint8] | None:
        if isinstance(picture, str):
            picture = Path(picture)
        if not (isinstance(picture, Path | np.ndarray | bytes) or hasattr(picture, "convert")):
            return None
        return pixels(picture, settings)[0]

    rows = _checked(given, "Images", "a path, an image of Pillow or an array is needed", read)
    return Images(np.stack(rows) if rows else np.zeros((0, 3, height, width), np.uint8), task)


def is_single(given: object, task: TaskSpec, *, words: bool) -> bool:
    """Whether what was given is one row and not a list of rows."""
    if task.image_size:
        return isinstance(given, str | Path | bytes) or hasattr(given, "convert") or getattr(given, "ndim", 4) < 4
    if isinstance(given, str):
        return True
    strings = isinstance(given, tuple) and bool(given) and all(isinstance(text, str) for text in given)
    return strings and (words or (task.pair and len(given) == 2))  # type: ignore[arg-type]  # strings has looked


_NOTHING = Encoded(np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(1, np.int64), 0)


def _checked(given: Any, what: str, wanted: str, read: Callable[[Any], Any]) -> list[Any]:
    """Every row as ``read`` gives it; what it has None or an error for is named."""
    if isinstance(given, bytes | dict) or not isinstance(given, Iterable):
        raise DataError(f"{what} must be a string or a list, {type(given).__name__} was given.")
    rows: list[Any] = []
    problems = []
    for index, row in enumerate(given):
        try:
            made = read(row)
        except PictureError as error:
            problems.append(f"index {index}: {_described(row)}: {error}")
            continue
        if made is None:
            problems.append(f"index {index}: {wanted}, {_described(row)} was given")
        else:
            rows.append(made)
    if problems:
        left = len(problems) - _PROBLEMS_SHOWN
        more = [f"and {left} more"] if left > 0 else []
        raise DataError([*problems[:_PROBLEMS_SHOWN], *more], where=what.lower())
    return rows


def _clean(text: object) -> str | None:
    """The text with half surrogate pairs, which no tokenizer takes, as U+FFFD."""
    if not isinstance(text, str):
        return None
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _pair(texts: object) -> tuple[str, str] | None:
    if not isinstance(texts, tuple | list) or len(texts) != 2:
        return None
    first, second = _clean(texts[0]), _clean(texts[1])
    return None if first is None or second is None else (first, second)


def _words(sentence: object) -> list[str] | None:
    parts = sentence.split() if isinstance(sentence, str) else sentence
    if not isinstance(parts, list | tuple) or not parts:
        return None
    words = [_clean(part) for part in parts]
    return [word for word in words if word is not None] if all(word and word.strip() for word in words) else None


def _described(given: object) -> str:
    shown = repr(given)
    return f"{type(given).__name__} {shown if len(shown) <= 60 else shown[:57] + '...'}"
