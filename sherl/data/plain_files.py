"""Files that only some tasks read: words and tags of CoNLL for token classification, plain text for language modelling."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sherl.data.problems import Problems, shorten
from sherl.data.table import Table
from sherl.errors import DataError


def plain_reader(path: Path, task: str) -> Callable[[Path], Table] | None:
    """The reader of a file that only this task reads; None where there is none."""
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]
    ending = suffixes[-1] if suffixes else ""
    if task == "token-classification" and ending in (".conll", ".bio", ".iob", ".iob2", ".txt"):
        return read_conll
    if task == "language-modelling" and ending in (".txt", ".text", ".md"):
        return read_lines
    return None


def tasks_of_plain(path: Path) -> list[str]:
    """The tasks that read such a file."""
    return [task for task in ("language-modelling", "token-classification") if plain_reader(path, task) is not None]


def read_lines(path: Path) -> Table:
    """Each line as a row of the column ``text``, empty ones too: a stream needs them.

    Raises:
        DataError: the file cannot be read, or has no text.
    """
    content, text = _text(path)
    lines = text.split("\n")
    if lines and not lines[-1]:
        lines.pop()
    if not text.strip():
        raise DataError(f"{path}: there is no text in it.")
    rows: dict[str, list[Any]] = {"text": [line.rstrip("\r") for line in lines]}
    return Table(path.name, rows, range(1, len(lines) + 1), hashlib.sha256(content).hexdigest())


def _text(path: Path) -> tuple[bytes, str]:
    try:
        content = path.read_bytes()
        if path.suffix.lower() == ".gz":
            content = gzip.decompress(content)
        return content, content.decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}).") from error


def read_conll(path: Path) -> Table:
    """A word a line: the first cell is the word, the last its tag, apart by tabs or blanks; empty lines end sentences.

    Lines that begin with ``-DOCSTART-`` or, in files of tabs, with ``# `` (comments of CoNLL-U) are passed over.

    Raises:
        DataError: the file cannot be read, or lines have no tag; all are named.
    """
    content, text = _text(path)
    problems = Problems(path.name)
    sentences: list[tuple[int, list[str], list[str]]] = []
    open_sentence = False
    for number, line in enumerate(text.split("\n"), start=1):
        cells = line.strip().split("\t") if "\t" in line else line.split()
        if not line.strip() or cells[0] == "-DOCSTART-" or line.startswith("# "):
            open_sentence = False
            continue
        if len(cells) < 2:
            problems.add(f"{path.name} line {number}: {shorten(line.strip())} was given; a word and its tag are needed")
            continue
        if not open_sentence:
            sentences.append((number, [], []))
            open_sentence = True
        sentences[-1][1].append(cells[0])
        sentences[-1][2].append(cells[-1])
    problems.raise_any()
    if not sentences:
        raise DataError(f"{path}: there is no sentence in it.")
    columns: dict[str, list[Any]] = {"tokens": [row[1] for row in sentences], "tags": [row[2] for row in sentences]}
    return Table(path.name, columns, [row[0] for row in sentences], hashlib.sha256(content).hexdigest())
