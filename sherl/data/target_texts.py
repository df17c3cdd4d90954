"""Targets of text-to-text: what their cells mean, and their tokens.

What scores them, where no metric is named: targets of which the training part has few different ones, as
:mod:`sherl.data.labels` counts whole numbers, are classes if the other parts have no further ones; all others are free
texts. A metric that was named decides; one of values takes targets that are numbers, each written in one way, and for one of
tokens all targets are free texts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from sherl.data.label_columns import read_classes
from sherl.data.labels import (
    FEW_WHOLE_NUMBERS,
    MANY_WHOLE_NUMBERS,
    ROWS_OF_A_CLASS,
    ClassReader,
    as_number,
    is_missing,
)
from sherl.data.problems import Problems
from sherl.data.settings import DataSpec
from sherl.data.table import Table
from sherl.errors import DataError
from sherl.metrics import METRICS, Targets

MANY_NUMBERS = 500
"""Different written numbers that a task scores as values; more are better learnt by regression."""


def read_targets(
    tables: dict[str, Table], column: str, spec: DataSpec, problems: Problems
) -> tuple[Targets, dict[str, list[Any]], tuple[str, ...]]:
    """What scores the targets, each part's targets as strings, and the different ones where these are few."""
    reader = ClassReader(cell for table in tables.values() for cell in table.columns[column])
    texts = {part: [_text(cell, reader) for cell in table.columns[column]] for part, table in tables.items()}
    wanted = METRICS.get(spec.metric).targets if spec.metric is not None else None
    if wanted is None:
        wanted = "classes" if _are_classes(texts) else "texts"
    elif wanted == "tokens":
        wanted = "texts"
    if wanted == "classes":
        labels, classes = read_classes(tables, column, problems)
        return wanted, labels, classes
    for part, table in tables.items():
        for row, text in enumerate(texts[part]):
            if text is None:
                cell = table.columns[column][row]
                problems.add_cell(table.place(row), column, cell, "a target text that is not empty is needed")
            elif wanted == "values" and as_number(text) is None:
                problems.add_cell(table.place(row), column, text, f"{spec.metric} scores numbers; one is needed")
    if wanted == "texts":
        return wanted, dict(texts), ()
    numbers = sorted(
        {text for rows in texts.values() for text in rows if text is not None and as_number(text) is not None},
        key=lambda text: (float(text), text),
    )
    _check_numbers(numbers, tables["train"], column, problems)
    return wanted, dict(texts), tuple(numbers)


def _text(cell: Any, reader: ClassReader) -> str | None:
    if is_missing(cell):
        return None
    return cell.strip() if isinstance(cell, str) else reader.name(cell)


def _are_classes(texts: dict[str, list[str | None]]) -> bool:
    counts = Counter(text for text in texts["train"] if text is not None)
    rows, different = counts.total(), len(counts)
    if any(text not in counts for rows_of_part in texts.values() for text in rows_of_part if text is not None):
        return False
    repeated = different <= 2 or different < 0.9 * rows
    few = different <= FEW_WHOLE_NUMBERS and repeated
    return different > 1 and (few or (different <= MANY_WHOLE_NUMBERS and rows >= ROWS_OF_A_CLASS * different))


def _check_numbers(numbers: list[str], train: Table, column: str, problems: Problems) -> None:
    place = f"{train.source}, column {column!r}"
    if len(numbers) > MANY_NUMBERS:
        problems.add(
            f"{place}: {len(numbers)} different numbers, at most {MANY_NUMBERS} can be scored as written ones; round them, or "
            "take the task regression"
        )
    elif len({float(text) for text in numbers}) < len(numbers):
        twice = next(text for text, other in pairwise(numbers) if float(text) == float(other))
        problems.add(f"{place}: {float(twice):g} is written in more than one way; write each number in one way")
    elif len(numbers) == 1:
        problems.add(f"{place}: every target is {numbers[0]}; at least two different ones are needed to learn anything")


def encode_targets(tokenizer: Any, texts: Sequence[str], *, decoder: bool) -> list[tuple[int, ...]]:
    """The token ids of each target, with its end token.

    decoder: the model has no encoder, so that a target goes on behind its input: no start token stands before it.
    Encoder-decoders get what their tokenizer puts around a target (BART's targets begin with its start token).

    Raises:
        DataError: the tokenizer has no end token, or makes no token of a target.
    """
    end = tokenizer.eos_token_id
    if end is None:
        raise DataError(
            "The tokenizer has no end token (eos_token), so a model could not learn where a target ends: set one and save "
            "the tokenizer beside the model."
        )
    if not texts:
        return []
    if decoder:
        made = tokenizer(list(texts), add_special_tokens=False, verbose=False)
    else:
        made = tokenizer(text_target=list(texts), verbose=False)
    bare = made if decoder else tokenizer(text_target=list(texts), add_special_tokens=False, verbose=False)
    empty = [text for text, ids in zip(texts, bare["input_ids"], strict=True) if not ids]
    if empty:
        raise DataError(
            f"The tokenizer makes no token of {len(empty)} target(s), such as {empty[0]!r}: leave them out."
        )
    return [tuple(ids) if ids[-1] == end else (*ids, end) for ids in made["input_ids"]]


def checked_lengths(
    ids: dict[str, list[tuple[int, ...]]], texts: dict[str, list[str]], *, asked: int | None, limit: int | None
) -> int:
    """The most tokens that a target has, or ``asked``: targets are never cut.

    Raises:
        DataError: targets have more tokens than were asked for, or than the backbone takes (``limit``); all are named.
    """
    longest = max(len(row) for rows in ids.values() for row in rows)
    bounds = [bound for bound in (asked, limit) if bound is not None]
    allowed = min(bounds, default=longest)
    if longest <= allowed:
        return longest if asked is None else asked
    problems = Problems("targets")
    for part, rows in ids.items():
        for row, target in enumerate(rows):
            if len(target) > allowed:
                problems.add(f"{part} row {row + 1}: {len(target)} tokens; the target begins {texts[part][row][:40]!r}")
    whose = "target_length" if allowed == asked else "the backbone"
    raise problems.error(
        f"{whose} allows {allowed} tokens with the end token, and targets are never cut: give a target_length of "
        f"{longest}, or shorten or leave out these rows."
        if whose == "target_length" and (limit is None or longest <= limit)
        else f"{whose} allows {allowed} tokens with the end token, and targets are never cut: shorten or leave out these rows."
    )


def ragged(rows: Sequence[Sequence[int]]) -> dict[str, np.ndarray[Any, np.dtype[np.int64]]]:
    """Rows of ids one after the other as ``labels``, with where each begins as ``label_offsets``."""
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    flat = np.array([token for row in rows for token in row], dtype=np.int64)
    return {"labels": flat, "label_offsets": np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])}
