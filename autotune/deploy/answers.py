"""Answers for all rows of a file or of standard input, as JSON lines, a batch at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sherl.data.columns import PAIR_NAMES, TEXT_NAMES
from sherl.data.files import read_file
from sherl.data.image_sources import IMAGE_NAMES
from sherl.data.plain_files import read_lines
from sherl.data.problems import Problems, listing
from sherl.data.table import Table
from sherl.data.tagged import WORD_NAMES
from sherl.errors import DataError
from sherl.spec import TaskSpec

if TYPE_CHECKING:
    from sherl.predictor import Predictor

_ROWS_AT_ONCE = 1024
"""So many rows of a file are sorted by length together."""


def rows_of_file(
    file: Path, task: TaskSpec, *, text: str | None = None, pair: str | None = None, image: str | None = None
) -> list[Any]:
    """What a model of this task is handed: a text, pair, sentence or path of an image for each row of a file.

    A txt file has one of them a line (of pairs apart by a tab); other files are read as training rows are. Columns are found
    by obvious names unless they are named.

    Raises:
        DataError: the file cannot be read, a column is not there, or cells are no texts; all such rows are named.
    """
    if file.suffix.lower() in (".txt", ".text"):
        table = read_lines(file)
        return list(rows_of_lines(table.columns["text"], task, file.name, folder=file.parent))
    table = read_file(file)
    if task.image_size:
        (names,) = _columns(table, [("--image", image, IMAGE_NAMES)])
        return [str(file.parent / Path(cell).expanduser()) for cell in _texts(table, names)]
    if task.pair:
        firsts, seconds = zip(*PAIR_NAMES, strict=True)
        columns = _columns(table, [("--text", text, firsts), ("--pair", pair, seconds)])
        return list(zip(*(_texts(table, name) for name in columns), strict=True))
    obvious = tuple(name for tier in TEXT_NAMES for name in tier)
    words = task.kind == "token-classification"
    (column,) = _columns(table, [("--text", text, (*WORD_NAMES, *obvious) if words else obvious)])
    return _texts(table, column, words=words)


def rows_of_lines(lines: Iterable[str], task: TaskSpec, source: str, *, folder: Path = Path()) -> Iterator[Any]:
    """One row a line, its line break aside; of pairs the two texts apart by a tab.

    Raises:
        DataError: a line holds no pair.
    """
    for number, line in enumerate(lines, start=1):
        row = line.rstrip("\r\n")
        if not task.pair:
            yield str(folder / Path(row).expanduser()) if task.image_size else row
            continue
        first, tab, second = row.partition("\t")
        if not tab:
            raise DataError(
                f"{source} line {number}: a pair of texts is needed, apart by a tab; {row[:60]!r} was given."
            )
        yield first, second


def answer_rows(
    predictor: Predictor,
    rows: Iterable[Any],
    write: Callable[[str], object],
    *,
    source: str,
    batch_size: int,
    soon: bool = False,
) -> int:
    """Writes a line of JSON for each row, in their order; returns how many.

    soon: answer each batch when its rows are there, instead of sorting many rows by length first.

    Raises:
        DataError: a row cannot be answered; the message says among which.
    """
    if batch_size < 1:
        raise DataError(f"batch_size must be at least 1, {batch_size!r} was given.")
    waiting, done = iter(rows), 0
    while chunk := list(islice(waiting, batch_size if soon else max(batch_size, _ROWS_AT_ONCE))):
        try:
            answers = predictor.predict(chunk, batch_size)
        except DataError as error:
            raise DataError(
                f"{source}, of rows {done + 1} to {done + len(chunk)} (index 0 is row {done + 1}): {error}"
            ) from error
        write("".join(json.dumps(answer, ensure_ascii=False) + "\n" for answer in answers))
        done += len(chunk)
    return done


def _columns(table: Table, wanted: Sequence[tuple[str, str | None, Sequence[str]]]) -> list[str]:
    """The columns that options name, else those with obvious names, else the only one."""
    there = {name.strip().lower(): name for name in table.columns}
    found, problems = [], []
    for option, named, obvious in wanted:
        known = [there[name] for name in dict.fromkeys(obvious) if name in there]
        if not known and len(table.columns) == len(wanted) == 1:
            known = list(table.columns)
        if named is not None and named not in table.columns:
            problems.append(f"{option} names the column {named!r}; it has the columns {listing(table.columns)}")
        elif named is None and len(known) != 1:
            problems.append(f"say with {option} which column to read; it has {listing(table.columns)}")
        else:
            found.append(named or known[0])
    if problems:
        raise DataError(problems, where=table.source)
    return found


def _texts(table: Table, column: str, *, words: bool = False) -> list[Any]:
    """The cells of a column; with words also lists of texts."""
    problems = Problems(table.source)
    cells = [cell.tolist() if hasattr(cell, "tolist") else cell for cell in table.columns[column]]
    for row, cell in enumerate(cells):
        listed = words and isinstance(cell, list) and all(isinstance(word, str) for word in cell)
        if not isinstance(cell, str) and not listed:
            problems.add_cell(table.place(row), column, cell, "a text is needed")
    problems.raise_any()
    return cells
