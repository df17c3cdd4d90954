"""From texts to token ids on disk: a flat array of ids with the offset of each row, and the raw texts beside it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from sherl.data.encoded import Text
from sherl.errors import DataError, SpecError

ROWS_AT_ONCE = 4096
UNBOUNDED = 1_000_000
"""Tokenizers without a limit of their own say a number of this size or above."""


@dataclass(frozen=True)
class Encoded:
    """Token ids of all rows one after the other; row i is ``ids[offsets[i]:offsets[i + 1]]``."""

    ids: NDArray[np.int32]
    token_types: NDArray[np.int32]
    offsets: NDArray[np.int64]
    truncated: int

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.diff(self.offsets)


def effective_max_length(tokenizer: Any, max_length: int | None, max_tokens: int | None) -> int | None:
    """The longest row in tokens: what was asked, else what backbone and tokenizer take; None where nothing bounds it.

    Raises:
        SpecError: more was asked than the backbone takes, or so little that no token of a text is left.
    """
    own = getattr(tokenizer, "model_max_length", None)
    limits = [limit for limit in (max_tokens, own) if limit is not None and limit < UNBOUNDED]
    limit = min(limits, default=None)
    special = tokenizer.num_special_tokens_to_add(pair=True)
    if max_length is None:
        return limit
    if isinstance(max_length, bool) or not isinstance(max_length, int) or max_length < special + 2:
        raise SpecError(
            f"max_length must be a whole number of at least {special + 2} tokens ({special} are special tokens), "
            f"{max_length!r} was given."
        )
    if limit is not None and max_length > limit:
        raise SpecError(f"max_length {max_length} was given, but the backbone takes at most {limit} tokens.")
    return max_length


def encode(
    tokenizer: Any, texts: Sequence[Text], max_length: int | None, *, further: Callable[[int], None] | None = None
) -> Encoded:
    """All rows as token ids, cut at ``max_length`` (of a pair the longer text first). further: hears of rows as they are done.

    Raises:
        DataError: the tokenizer makes no token of a row.
    """
    ids: list[NDArray[np.int32]] = []
    types: list[NDArray[np.int32]] = []
    truncated = 0
    for start in range(0, len(texts), ROWS_AT_ONCE):
        made = _tokenize(tokenizer, texts[start : start + ROWS_AT_ONCE], max_length)
        truncated += sum(bool(row.overflowing) for row in made.encodings or ())
        ids += [np.asarray(row, dtype=np.int32) for row in made["input_ids"]]
        types += [np.asarray(row, dtype=np.int32) for row in made.get("token_type_ids", ())]
        if further is not None:
            further(len(made["input_ids"]))
    lengths = np.array([len(row) for row in ids], dtype=np.int64)
    if (lengths == 0).any():
        empty = [text for text, length in zip(texts, lengths, strict=True) if length == 0]
        raise DataError(f"The tokenizer makes no token of {len(empty)} text(s), such as {empty[0]!r}: leave them out.")
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    empty_types = np.zeros(0, np.int32)
    return Encoded(np.concatenate(ids), np.concatenate(types) if types else empty_types, offsets, truncated)


def _tokenize(tokenizer: Any, texts: Sequence[Text], max_length: int | None) -> Any:
    pairs = [text for text in texts if isinstance(text, tuple)]
    given = ([first for first, _ in pairs], [second for _, second in pairs]) if pairs else (list(texts),)
    return tokenizer(*given, truncation=max_length is not None, max_length=max_length, padding=False, verbose=False)


def save_part(
    folder: Path, name: str, encoded: Encoded, texts: Sequence[Text], labels: dict[str, torch.Tensor], *, types: bool
) -> None:
    """Writes ``NAME.safetensors`` and ``NAME.texts.jsonl``; the same rows give the same bytes.

    labels: ``labels`` of each row; or of all rows' tokens, with ``label_offsets``; or nothing, where a row's token ids are
    its labels.
    """
    tensors = {"input_ids": encoded.ids, "offsets": encoded.offsets}
    if types:
        tensors["token_type_ids"] = encoded.token_types
    save_file(
        {**labels, **{key: torch.from_numpy(array) for key, array in tensors.items()}},
        folder / f"{name}.safetensors",
    )
    save_texts(folder / f"{name}.texts.jsonl", texts)


def save_texts(path: Path, texts: Sequence[Text]) -> None:
    """One JSON value a line."""
    with path.open("w", encoding="utf-8", newline="\n") as lines:
        for text in texts:
            lines.write(json.dumps(text, ensure_ascii=False) + "\n")


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """A sha256 of what decides the ids: vocabulary, merges, normalisation and special tokens.

    Truncation and padding are left out, since every call of a fast tokenizer changes them.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise SpecError(f"{type(tokenizer).__name__} is no fast tokenizer; only those are supported (tokenizer.json).")
    state = json.loads(backend.to_str())
    state.pop("truncation", None)
    state.pop("padding", None)
    state["pad_token_id"] = tokenizer.pad_token_id
    state["sides"] = [tokenizer.truncation_side, tokenizer.model_input_names]
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode("utf-8")).hexdigest()
