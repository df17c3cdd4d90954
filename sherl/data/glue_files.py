"""The files of GLUE's own download: tab-separated, quotes are letters, some without a header."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from sherl.data.problems import Problems
from sherl.data.table import Table
from sherl.errors import DataError


@dataclass(frozen=True)
class Layout:
    """Where a file holds the texts and the label: names of its header, or places (0-based) where it has none.

    ragged: whether lines with other numbers of cells than the header are known to stand in the published file; they are
    left out, as by everybody.
    """

    texts: tuple[str, ...] | tuple[int, ...]
    label: str | int
    ragged: bool = False


LAYOUTS: dict[str, Layout] = {
    "cola": Layout((3,), 1),
    "sst2": Layout(("sentence",), "label"),
    "mrpc": Layout(("#1 String", "#2 String"), "Quality"),
    "qqp": Layout(("question1", "question2"), "is_duplicate", ragged=True),
    "stsb": Layout(("sentence1", "sentence2"), "score"),
    "mnli": Layout(("sentence1", "sentence2"), "gold_label"),
    "qnli": Layout(("question", "sentence"), "label"),
    "rte": Layout(("sentence1", "sentence2"), "label"),
}

PARAPHRASES = ("msr_paraphrase_train.txt", "dev_ids.tsv")
"""MRPC as it is downloaded, before GLUE's script makes train.tsv and dev.tsv of it."""


def read_glue_files(name: str, folder_name: str, columns: tuple[str, ...], folder: Path) -> dict[str, Table]:
    """train and valid of a task, with the columns that the hub's data set has and ``label``.

    Raises:
        DataError: the folder or a file is missing (all that was looked for is named), or lines are malformed.
    """
    dev = "dev_matched.tsv" if name == "mnli" else "dev.tsv"
    own = folder / folder_name
    where = own if own.is_dir() else folder
    paths = {"train": where / "train.tsv", "valid": where / dev}
    if all(path.is_file() for path in paths.values()):
        return {part: _read(path, LAYOUTS[name], columns) for part, path in paths.items()}
    if name == "mrpc" and all((where / file).is_file() for file in PARAPHRASES):
        return _paraphrases(where, columns)
    looked = " and ".join(str(path) for path in paths.values())
    further = f"; or {' and '.join(PARAPHRASES)} in that folder" if name == "mrpc" else ""
    lacks = ", ".join(str(path) for path in paths.values() if not path.is_file())
    raise DataError(
        f"GLUE's task {name!r} was looked for in {folder}{'' if folder.is_dir() else ', which is no folder'}: {lacks} is "
        f"missing. Needed are {looked}{further}. Give the folder of GLUE's download, which holds {folder_name}/."
    )


def _read(path: Path, layout: Layout, columns: tuple[str, ...]) -> Table:
    content = path.read_bytes()
    problems = Problems(path.name)
    lines = _lines(content, path.name, problems)
    places, begin, width = _places(lines, layout, path.name)
    made: dict[str, list[str | None]] = {column: [] for column in (*columns, "label")}
    numbers = []
    for number, cells in lines[begin:]:
        if len(cells) != width:
            if not layout.ragged:
                problems.add(f"{path.name} line {number}: {len(cells)} cells were given, {width} are expected")
            cells = [""] * width  # it is left out, and counted, with the rows that lack a text
        numbers.append(number)
        for column, place in zip(made, places, strict=True):
            made[column].append(cells[place].strip() or None)
    problems.raise_any()
    if not numbers:
        raise DataError(f"{path}: there is no row; a header or an empty file alone is no data.")
    return Table(path.name, dict(made), numbers, hashlib.sha256(content).hexdigest())


def _lines(content: bytes, name: str, problems: Problems) -> list[tuple[int, list[str]]]:
    made = []
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        try:
            text = line.decode("utf-8").rstrip("\r")
        except UnicodeDecodeError as error:
            problems.add(f"{name} line {number}: byte 0x{error.object[error.start]:02x} is no UTF-8")
            continue
        if text.strip():
            made.append((number, text.split("\t")))
    return made


def _places(lines: list[tuple[int, list[str]]], layout: Layout, name: str) -> tuple[list[int], int, int]:
    """Where texts and label stand, the first line of data, and how many cells each has."""
    wanted = (*layout.texts, layout.label)
    width = len(lines[0][1]) if lines else 0
    if all(isinstance(place, int) for place in wanted):
        places = [int(place) for place in wanted]
        if lines and width <= max(places):
            raise DataError(f"{name}: its lines have {width} cells, at least {max(places) + 1} are expected.")
        return places, 0, width
    header = [cell.strip() for cell in lines[0][1]] if lines else []
    missing = [place for place in wanted if place not in header]
    if missing:
        raise DataError(f"{name}: the header lacks {missing}; it holds {header}.")
    return [header.index(str(place)) for place in wanted], 1, width


def _paraphrases(folder: Path, columns: tuple[str, ...]) -> dict[str, Table]:
    """The training file in two: rows whose two ids stand in dev_ids.tsv are for validation, as GLUE's script does it."""
    path = folder / PARAPHRASES[0]
    table = _read(path, LAYOUTS["mrpc"], columns)
    ids = _read(path, Layout(("#1 ID", "#2 ID"), "Quality"), ("first", "second"))
    problems = Problems(PARAPHRASES[1])
    content = (folder / PARAPHRASES[1]).read_bytes()
    held = {tuple(cell.strip() for cell in cells[:2]) for _, cells in _lines(content, PARAPHRASES[1], problems)}
    problems.raise_any()
    pairs = list(zip(ids.columns["first"], ids.columns["second"], strict=True))
    chosen = {
        "train": [row for row, pair in enumerate(pairs) if pair not in held],
        "valid": [row for row, pair in enumerate(pairs) if pair in held],
    }
    if not chosen["valid"]:
        raise DataError(f"{folder / PARAPHRASES[1]} names no pair of ids that stands in {path.name}.")
    identity = hashlib.sha256(table.identity.encode() + content).hexdigest()
    return {
        part: Table(
            f"{table.source} ({part})",
            {name: [cells[row] for row in rows] for name, cells in table.columns.items()},
            [table.lines[row] for row in rows],
            identity,
        )
        for part, rows in chosen.items()
    }
