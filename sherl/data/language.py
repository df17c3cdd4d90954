"""Language modelling data: texts whose own tokens are what is learnt, row by row or as one stream cut in blocks.

unit "row": every text is a row, with its end token, cut at max_length. unit "stream": the tokens of all texts of a part
in their order, with an end token between texts (the lines of a plain text file are one text), cut in blocks of max_length
tokens; the last, shorter block stays. Parts that are not given are then taken off the stream's end, so that no block's
text goes on in another part.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sherl.data.columns import check_columns, find_text
from sherl.data.encoding import Encoded, encode
from sherl.data.examples import Examples, Reading, strings
from sherl.data.parting import PARTS, make_parts
from sherl.data.problems import Problems
from sherl.data.rows import Encoding, TaskRows
from sherl.data.sources import Sources
from sherl.data.splits import MIN_ROWS, part_sizes
from sherl.data.table import Table
from sherl.errors import DataError, SpecError
from sherl.metrics import DEFAULT_METRICS
from sherl.spec import TaskSpec

LEAST_TOKENS = 2
"""A row of one token has nothing to predict."""


def language_rows(sources: Sources, encoding: Encoding) -> TaskRows:
    """Token ids of each row; these are its labels too, so none are stored beside them."""
    reading = _read(sources, encoding)
    make = _blocks if encoding.spec.unit == "stream" else _rows
    reading, encoded = make(reading, sources, encoding)
    task = TaskSpec(kind="language-modelling", metric=encoding.spec.metric or DEFAULT_METRICS["tokens"])
    return TaskRows(reading, task, encoded, {part: {} for part in encoded})


def _read(sources: Sources, encoding: Encoding) -> Reading:
    """The texts of all parts; of plain text files, whose lines are numbered without a gap, empty lines too."""
    problems = Problems(", ".join(dict.fromkeys(table.source for table in sources.tables.values())))
    columns = find_text(sources.tables["train"], encoding.spec, problems)
    if columns is None:
        raise problems.error()
    parts: dict[str, Examples] = {}
    for part, table in sources.tables.items():
        if check_columns(table, columns, problems):
            texts = _lines(table, encoding) if is_plain(table) else strings(table, columns.text, problems)
            parts[part] = Examples(list(texts), [None] * len(texts))
    problems.raise_any("Nothing was prepared. Mend the rows or leave them out; --text chooses the column.")
    return Reading(parts, "texts", (), columns, list(sources.notes))


def is_plain(table: Table) -> bool:
    """Whether a table is a plain text file: its rows are its lines."""
    return isinstance(table.lines, range)


def _lines(table: Table, encoding: Encoding) -> list[str]:
    lines: list[str] = table.columns["text"]
    if encoding.spec.unit == "stream":
        return ["\n".join(lines)]
    return [line for line in lines if line.strip()]


def _rows(reading: Reading, sources: Sources, encoding: Encoding) -> tuple[Reading, dict[str, Encoded]]:
    reading = make_parts(reading, encoding.spec, sources.rows)
    encoded: dict[str, Encoded] = {}
    notes: list[str] = []
    parts: dict[str, Examples] = {}
    further = encoding.counts(reading)
    for part, rows in reading.parts.items():
        made = ended(encode(encoding.tokenizer, rows.texts, encoding.max_length, further=further), encoding)
        kept = np.flatnonzero(made.lengths >= LEAST_TOKENS)
        if len(kept) < len(made.lengths):
            notes.append(
                f"{len(made.lengths) - len(kept)} rows of {part} have one token, which predicts none: left out"
            )
        if len(kept) < MIN_ROWS:
            raise DataError(f"{part} has {len(kept)} rows of at least {LEAST_TOKENS} tokens, {MIN_ROWS} are needed.")
        pieces = [made.ids[made.offsets[row] : made.offsets[row + 1]] for row in kept]
        encoded[part], parts[part] = _encoded(pieces, made.truncated), rows.take(kept.tolist())
    return Reading(parts, "texts", (), reading.columns, [*reading.notes, *notes]), encoded


def ended(made: Encoded, encoding: Encoding) -> Encoded:
    """Rows with the tokenizer's end token behind them, where it has one and there is room."""
    end = encoding.tokenizer.eos_token_id
    rows = [made.ids[start:stop] for start, stop in zip(made.offsets[:-1], made.offsets[1:], strict=True)]
    if end is None:
        return made
    room = encoding.max_length
    return _encoded(
        [
            row if row[-1] == end or (room is not None and len(row) >= room) else np.append(row, np.int32(end))
            for row in rows
        ],
        made.truncated,
    )


def _blocks(reading: Reading, sources: Sources, encoding: Encoding) -> tuple[Reading, dict[str, Encoded]]:
    if encoding.max_length is None:
        raise SpecError(
            "A stream is cut in blocks of max_length tokens, and the backbone has no limit: give max_length."
        )
    streams = {part: _stream(rows.texts, encoding.tokenizer) for part, rows in reading.parts.items()}
    cut = {part: _cut(stream, encoding.max_length) for part, stream in streams.items()}
    wanted = {part: getattr(encoding.spec, f"{part}_rows") or sources.rows.get(part) for part in PARTS}
    split = [part for part in PARTS if part == "train" or part not in cut]
    sizes = part_sizes(len(cut["train"]), split, wanted)
    begin, train = 0, cut["train"]
    for part in split:
        cut[part] = train[begin : begin + sizes[part]]
        begin += sizes[part]
    for part in set(PARTS) - set(split):
        cut[part] = cut[part][: wanted[part]]
    small = [f"{part} {len(cut[part])}" for part in PARTS if len(cut[part]) < MIN_ROWS]
    if small:
        raise DataError(
            f"{len(train)} blocks of {encoding.max_length} tokens are too few: {', '.join(small)} of at least {MIN_ROWS}. Give "
            "more text or a smaller max_length."
        )
    decode = encoding.tokenizer.decode
    parts = {part: Examples([decode(block) for block in cut[part]], [None] * len(cut[part])) for part in PARTS}
    notes = [*reading.notes, f"one stream of text, cut in blocks of {encoding.max_length} tokens"]
    return Reading(parts, "texts", (), reading.columns, notes), {part: _encoded(cut[part], 0) for part in PARTS}


def _stream(texts: Sequence[Any], tokenizer: Any) -> NDArray[np.int32]:
    """All tokens, without special ones but an end token behind each text, where the tokenizer has one."""
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    made = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    return np.fromiter(chain.from_iterable((*row, *end) for row in made), dtype=np.int32)


def _cut(stream: NDArray[np.int32], size: int) -> list[NDArray[np.int32]]:
    blocks = [stream[start : start + size] for start in range(0, len(stream), size)]
    return [block for block in blocks if len(block) >= LEAST_TOKENS]


def _encoded(rows: Sequence[NDArray[np.int32]], truncated: int) -> Encoded:
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum([len(row) for row in rows], dtype=np.int64)])
    return Encoded(np.concatenate(rows), np.zeros(0, np.int32), offsets, truncated)
