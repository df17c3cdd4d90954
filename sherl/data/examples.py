"""From tables to texts and labels: what every cell means, and everything that is wrong with any of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sherl.data.columns import Columns, check_columns, find_columns
from sherl.data.encoded import Text
from sherl.data.labels import (
    ClassReader,
    as_number,
    decide_targets,
    is_missing,
    looks_like_row_numbers,
    ordered_classes,
)
from sherl.data.problems import Problems, listing, shorten
from sherl.data.settings import TARGETS_OF_TASK, DataSpec
from sherl.data.sources import Sources
from sherl.data.table import Table
from sherl.metrics import METRICS, Targets


@dataclass(frozen=True)
class Examples:
    """Rows of one part: texts, and labels as class names or as numbers."""

    texts: list[Text]
    labels: list[Any]

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: Sequence[int]) -> Examples:
        """These rows."""
        return Examples([self.texts[row] for row in rows], [self.labels[row] for row in rows])


@dataclass(frozen=True)
class Reading:
    """What was read: rows of each part, what their labels are, and which columns they came from."""

    parts: dict[str, Examples]
    targets: Targets
    classes: tuple[str, ...]
    columns: Columns
    notes: list[str]


def read_examples(sources: Sources, spec: DataSpec) -> Reading:
    """Texts and labels of all parts.

    Raises:
        DataError: with all problems of all parts at once.
    """
    problems = Problems(", ".join(dict.fromkeys(table.source for table in sources.tables.values())))
    train = sources.tables["train"]
    columns = find_columns(train, spec, problems)
    if columns is None:
        raise problems.error()
    notes: list[str] = []
    tables = _with_labels(sources, columns, notes)
    usable = {part: table for part, table in tables.items() if check_columns(table, columns, problems)}
    texts = {part: _texts(table, columns, problems) for part, table in usable.items()}
    targets = _targets(spec, train.columns[columns.label])
    if targets == "values":
        labels = {part: _values(table, columns.label, problems) for part, table in usable.items()}
        classes: tuple[str, ...] = ()
        _check_values([label for label in labels["train"] if label is not None], train, columns.label, problems)
    else:
        labels, classes = _classes(usable, columns.label, problems)
    problems.raise_any(
        "Nothing was prepared. Mend the rows or leave them out; --text, --pair and --label choose columns."
    )
    parts = {part: Examples(texts[part], labels[part]) for part in usable}
    return Reading(parts, targets, classes, columns, notes)


def _with_labels(sources: Sources, columns: Columns, notes: list[str]) -> dict[str, Table]:
    """The tables without implied parts whose labels are hidden (None or -1 in every row, as in GLUE's test parts)."""
    kept = {}
    for part, table in sources.tables.items():
        cells = table.columns.get(columns.label, [])
        if part in sources.implied and all(is_missing(cell) or cell == -1 for cell in cells):
            notes.append(f"{table.source} holds no labels; the {part} part is split off the training part instead")
        else:
            kept[part] = table
    return kept


def _targets(spec: DataSpec, cells: list[Any]) -> Targets:
    if spec.task != "auto":
        return TARGETS_OF_TASK[spec.task]
    if spec.metric is not None:
        return METRICS.get(spec.metric).targets
    return decide_targets([cell for cell in cells if not is_missing(cell)])


def _texts(table: Table, columns: Columns, problems: Problems) -> list[Text]:
    first = _strings(table, columns.text, problems)
    if columns.pair is None:
        return list(first)
    return list(zip(first, _strings(table, columns.pair, problems), strict=True))


def _strings(table: Table, column: str, problems: Problems) -> list[str]:
    texts = []
    for row, cell in enumerate(table.columns[column]):
        if isinstance(cell, int | float) and not isinstance(cell, bool) and not is_missing(cell):
            cell = str(cell)  # a title such as 1984 comes as a number from json
        text = cell if isinstance(cell, str) else ""
        if is_missing(cell) or not text.strip():
            problems.add_cell(table.place(row), column, cell, "a text that is not empty is needed")
        elif any("\ud800" <= letter <= "\udfff" for letter in text):
            problems.add_cell(
                table.place(row), column, cell, "it holds half of a surrogate pair, which is no character"
            )
        texts.append(text)
    return texts


def _values(table: Table, column: str, problems: Problems) -> list[float | None]:
    values = [as_number(cell) for cell in table.columns[column]]
    for row, (cell, value) in enumerate(zip(table.columns[column], values, strict=True)):
        if value is None:
            problems.add_cell(table.place(row), column, cell, "a finite number is needed (regression)")
    return values


def _check_values(values: list[float], train: Table, column: str, problems: Problems) -> None:
    if not values:
        return
    spread = float(np.std(values))
    place = f"{train.source}, column {column!r}"
    if len(set(values)) == 1:
        problems.add(
            f"{place}: every target is {values[0]!r}; at least two different ones are needed to learn anything"
        )
    elif max(map(abs, values)) * np.finfo(np.float32).eps > spread / 100:
        problems.add(
            f"{place}: targets around {np.mean(values):g} that vary by {spread:g} cannot be told apart in float32; "
            "subtract a constant from the column first"
        )
    elif len(values) > 20 and looks_like_row_numbers(values):
        problems.add(
            f"{place}: it counts the rows from {min(values):g} to {max(values):g}; name the label's column with --label"
        )


def _classes(tables: dict[str, Table], column: str, problems: Problems) -> tuple[dict[str, list[Any]], tuple[str, ...]]:
    reader = ClassReader(cell for table in tables.values() for cell in table.columns[column])
    labels: dict[str, list[Any]] = {}
    for part, table in tables.items():
        labels[part] = []
        for row, cell in enumerate(table.columns[column]):
            name = None if is_missing(cell) else reader.name(cell)
            if name is None:
                problems.add_cell(table.place(row), column, cell, "a class (text, number, true or false) is needed")
            labels[part].append(name)
    train = tables["train"]
    counts = Counter(name for name in labels["train"] if name is not None)
    classes = ordered_classes(counts, train.class_orders.get(column))
    _check_classes(counts, train, column, problems)
    for part, table in tables.items():
        for row, name in enumerate(labels[part]):
            if name is not None and name not in counts:
                allowed = f"the training part has only the classes {listing(classes)}"
                problems.add_cell(table.place(row), column, name, allowed)
    return labels, classes


def _check_classes(counts: Counter[str], train: Table, column: str, problems: Problems) -> None:
    place = f"{train.source}, column {column!r}"
    rows = counts.total()
    if len(counts) == 1:
        problems.add(f"{place}: every label is {shorten(next(iter(counts)))}; at least two classes are needed")
    elif len(counts) > 2 and len(counts) >= 0.9 * rows:
        problems.add(
            f"{place}: {len(counts)} different classes in {rows} rows, such as {listing(list(counts)[:3])}; this looks like "
            "an id or a free text: name the label's column with --label, or choose regression if it holds numbers"
        )


def with_parts(reading: Reading, parts: dict[str, Examples], notes: list[str]) -> Reading:
    """The reading with other rows and further notes."""
    return replace(reading, parts=parts, notes=[*reading.notes, *notes])
