"""The cells of a label column as classes or as numbers, and what is wrong with them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from sherl.data.labels import ClassReader, as_number, is_missing, looks_like_row_numbers, ordered_classes
from sherl.data.problems import Problems, listing, shorten
from sherl.data.table import Table


def read_values(table: Table, column: str, problems: Problems) -> list[float | None]:
    values = [as_number(cell) for cell in table.columns[column]]
    for row, (cell, value) in enumerate(zip(table.columns[column], values, strict=True)):
        if value is None:
            problems.add_cell(table.place(row), column, cell, "a finite number is needed (regression)")
    return values


def check_values(values: list[float], train: Table, column: str, problems: Problems) -> None:
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


def read_classes(
    tables: dict[str, Table], column: str, problems: Problems
) -> tuple[dict[str, list[Any]], tuple[str, ...]]:
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
