"""Reads csv, tsv, json, jsonl and parquet files, each also gzipped, into a :class:`~sherl.data.table.Table`.

A format is a registered function from the file's bytes to a table. All problems of a file are reported at once.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from sherl.data.delimited import read_csv, read_tsv
from sherl.data.plain_files import tasks_of_plain
from sherl.data.problems import Problems, shorten
from sherl.data.table import Table
from sherl.errors import DataError
from sherl.registry import Registry

Reader = Callable[[bytes, str], Table]

FORMATS: Registry[Reader] = Registry("file format")
"""Readers by extension without its dot: ``reader(content, source name) -> Table``."""

FORMATS.register("csv")(read_csv)
FORMATS.register("tsv")(read_tsv)


def file_format(path: Path) -> str | None:
    """The format that a path's extension names (any case, ``.gz`` aside), or None."""
    suffixes = [suffix.lower().lstrip(".") for suffix in path.suffixes]
    if suffixes and suffixes[-1] == "gz":
        suffixes.pop()
    return suffixes[-1] if suffixes and suffixes[-1] in FORMATS else None


def read_file(path: Path) -> Table:
    """All rows of a file.

    Raises:
        DataError: it is missing, a folder, of an unknown format, empty or malformed; all malformed rows are named.
    """
    name = file_format(path)
    known = ", ".join(f".{known}" for known in FORMATS)
    if name is None:
        tasks = tasks_of_plain(path)
        hint = (
            f" The task{'s' if len(tasks) > 1 else ''} {' and '.join(tasks)} would read it: see --task."
            if tasks
            else ""
        )
        raise DataError(
            f"{path}: the extension {path.suffix!r} is no known format; known are {known}, also with .gz.{hint}"
        )
    try:
        content = path.read_bytes()
        if path.suffix.lower() == ".gz":
            content = gzip.decompress(content)
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file (the working folder is {Path.cwd()}).") from None
    except IsADirectoryError:
        raise DataError(f"{path} is a folder; give one file ({known}).") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: it is no complete gzip file ({error}).") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
    table = FORMATS.get(name)(content, path.name)
    if not len(table):
        raise DataError(f"{path}: there is no row; a header or an empty file alone is no data.")
    return Table(table.source, table.columns, table.lines, hashlib.sha256(content).hexdigest())


@FORMATS.register("jsonl")
def read_jsonl(content: bytes, source: str) -> Table:
    """One JSON object a line; blank lines are passed over."""
    problems = Problems(source)
    records: list[dict[str, Any]] = []
    lines: list[int] = []
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            problems.add(f"{source} row {len(records) + 1} (line {number}): {_utf8_problem(error)}")
            record = {}
        except (ValueError, RecursionError) as error:
            problems.add(f"{source} row {len(records) + 1} (line {number}): no JSON object ({error})")
            record = {}
        if not isinstance(record, dict):
            problems.add(
                f"{source} row {len(records) + 1} (line {number}): {shorten(record)} was given; a JSON object is needed"
            )
            record = {}
        records.append(record)
        lines.append(number)
    problems.raise_any()
    return Table(source, _columns(records), lines)


@FORMATS.register("json")
def read_json(content: bytes, source: str) -> Table:
    """A list of objects, an object that holds one such list (under any key), or lines as in jsonl."""
    content = content.removeprefix(b"\xef\xbb\xbf")
    try:
        document = json.loads(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(f"{source}: {_utf8_problem(error)}.") from error
    except (ValueError, RecursionError) as error:
        if content.lstrip().startswith(b"{") and b"}\n" in content.replace(b"\r", b"").strip():
            return read_jsonl(content, source)
        raise DataError(f"{source}: this is no JSON ({error}).") from error
    if isinstance(document, dict):
        lists = {key: value for key, value in document.items() if isinstance(value, list)}
        holding = [key for key, value in lists.items() if value and all(isinstance(record, dict) for record in value)]
        if not lists:
            return Table(source, _columns([document]))
        if len(holding) != 1:
            raise DataError(
                f"{source}: an object with the keys {sorted(document)} was given; "
                "a list of objects is needed, or an object that holds one such list."
            )
        document = document[holding[0]]
    if not isinstance(document, list):
        raise DataError(f"{source}: {shorten(document)} was given; a list of objects is needed.")
    problems = Problems(source)
    for number, record in enumerate(document, start=1):
        if not isinstance(record, dict):
            problems.add(f"{source} row {number}: {shorten(record)} was given; a JSON object is needed")
    problems.raise_any()
    return Table(source, _columns(document))


@FORMATS.register("parquet")
def read_parquet(content: bytes, source: str) -> Table:
    """All columns of a parquet file; dictionary columns are decoded."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(io.BytesIO(content))
        columns = {name: table.column(place).to_pylist() for place, name in enumerate(table.column_names)}
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{source}: this is no readable parquet file ({error}).") from error
    if len(columns) != table.num_columns:
        raise DataError(f"{source}: columns must have different names, {table.column_names} was given.")
    return Table(source, columns)


def _columns(records: Iterable[dict[str, Any]]) -> dict[str, list[Any]]:
    records = list(records)
    names = list(dict.fromkeys(name for record in records for name in record))
    return {name: [record.get(name) for record in records] for name in names}


def _utf8_problem(error: UnicodeDecodeError) -> str:
    byte = error.object[error.start]
    return f"byte 0x{byte:02x} at position {error.start} is no UTF-8; save the file as UTF-8"
