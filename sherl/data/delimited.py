"""Comma- and tab-separated text: quotes, byte order marks, other separators, and what is wrong in which row."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sherl.data.problems import Problems, shorten
from sherl.data.table import Table
from sherl.errors import DataError


@dataclass
class _Parsed:
    """Records of a file with the line each starts in; ``broken`` says why the quoting does not hold, if so."""

    records: list[list[str]] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    broken: str | None = None

    @property
    def even(self) -> bool:
        """Whether every record has as many cells as the first."""
        return len({len(record) for record in self.records}) <= 1

    @property
    def spans_lines(self) -> bool:
        return any("\n" in cell or "\r" in cell or "\t" in cell for record in self.records for cell in record)


def read_csv(content: bytes, source: str) -> Table:
    """A csv file with a header line; separated by ``;`` or tabs where the header has these and no comma.

    Raises:
        DataError: no header, columns of one name, rows with other numbers of cells, a quote that is not closed, bytes
            that are not UTF-8; all at once.
    """
    text = _decode(content, source)
    header = text.lstrip().partition("\n")[0]
    delimiter = next((mark for mark in (",", "\t", ";") if mark in header), ",")
    if delimiter == "\t":
        return _table(_parse_tabs(text), source)
    return _table(_parse(text, delimiter, quoted=True), source)


def read_tsv(content: bytes, source: str) -> Table:
    """A tab-separated file with a header line, with csv's quoting or without any (as GLUE's files have it).

    Raises:
        DataError: as for :func:`read_csv`.
    """
    return _table(_parse_tabs(_decode(content, source)), source)


def _parse_tabs(text: str) -> _Parsed:
    """Quotes count as such only where that reads better than taking every line as it stands.

    A lone quote at the start of a text would else swallow the lines up to the next one.
    """
    quoted = _parse(text, "\t", quoted=True)
    plain = _parse(text, "\t", quoted=False)
    if plain.even and (quoted.broken is not None or not quoted.even or quoted.spans_lines):
        return plain
    return quoted


def _decode(content: bytes, source: str) -> str:
    """The text; bytes that are no UTF-8 become lone surrogates, so that their rows can be named."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        try:
            return content.decode("utf-16")
        except UnicodeDecodeError as error:
            raise DataError(f"{source}: it begins as UTF-16 but is none ({error}); save it as UTF-8.") from error
    return content.removeprefix(codecs.BOM_UTF8).decode("utf-8", errors="surrogateescape")


def _parse(text: str, delimiter: str, *, quoted: bool) -> _Parsed:
    parsed = _Parsed()
    if not quoted:
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip(" \r"):
                parsed.records.append(line.rstrip("\r").split(delimiter))
                parsed.lines.append(number)
        return parsed
    with _unlimited_fields():
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        start = 1
        for record in reader:
            if len(record) > 1 or any(cell.strip() for cell in record):
                parsed.records.append(record)
                parsed.lines.append(start)
            start = reader.line_num + 1
        parsed.broken = _unclosed_quote(text, delimiter)
    return parsed


def _unclosed_quote(text: str, delimiter: str) -> str | None:
    """What is wrong where the last quoted cell has no end: it swallows all that follows it."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    start = 1
    while True:
        try:
            next(reader)
        except StopIteration:
            return None
        except csv.Error as error:
            if "end of data" in str(error):
                return f"the quote that opens in line {start} is never closed"
        start = reader.line_num + 1


@contextmanager
def _unlimited_fields() -> Iterator[None]:
    """csv refuses cells over 128 KiB, by a limit that is global; long documents are data like any other."""
    before = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _table(parsed: _Parsed, source: str) -> Table:
    if not parsed.records:
        raise DataError(f"{source}: the file is empty; a header line with the column names is needed.")
    header = [cell.strip() or f"column {place}" for place, cell in enumerate(parsed.records[0], start=1)]
    rows, lines = parsed.records[1:], parsed.lines[1:]
    problems = Problems(source)
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        problems.add(f"{source} header: columns must have different names, {repeated} stand there more than once")
    if parsed.broken is not None:
        problems.add(f"{source}: {parsed.broken}")
    undecoded: list[str] = []
    for number, (row, line) in enumerate(zip(rows, lines, strict=True), start=1):
        if len(row) != len(header):
            problems.add(
                f"{source} row {number} (line {line}): {len(row)} cells were given, the header names {len(header)} "
                f"columns; the row begins {shorten(row[0])}"
            )
        cell = next((cell for cell in row if _surrogate(cell)), None)
        if cell is not None:
            undecoded.append(f"{source} row {number} (line {line}): {_bytes_shown(cell)} is no UTF-8")
    if undecoded:  # one cause, so one problem
        others = f", nor are cells of {len(undecoded) - 1} more rows" if len(undecoded) > 1 else ""
        problems.add(
            f"{undecoded[0]}{others}; save the file as UTF-8 (what a Windows program saved, `iconv -f WINDOWS-1252 -t UTF-8` "
            "converts)"
        )
    problems.raise_any()
    columns: dict[str, list[Any]] = {name: [row[place] for row in rows] for place, name in enumerate(header)}
    return Table(source, columns, lines)


def _surrogate(cell: str) -> bool:
    try:
        cell.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def _bytes_shown(cell: str) -> str:
    return shorten(cell.encode("utf-8", errors="surrogateescape"))
