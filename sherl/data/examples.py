"""From tables to texts and labels: what every cell means, and everything that is wrong with any of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sherl.data.columns import Columns, check_columns, find_columns
from sherl.data.encoded import Text
from sherl.data.label_columns import check_values, read_classes, read_values
from sherl.data.labels import decide_targets, is_missing
from sherl.data.problems import Problems
from sherl.data.settings import TARGETS_OF_TASK, DataSpec
from sherl.data.sources import Sources
from sherl.data.splits import Key, text_key
from sherl.data.table import Table
from sherl.data.target_texts import read_targets
from sherl.data.templates import needs_pair
from sherl.metrics import METRICS, Targets


@dataclass(frozen=True)
class Examples:
    """Rows of one part: inputs, and labels as class names, numbers, target texts or tuples of tags.

    keys: what makes two rows the same; by default their texts, see :func:`sherl.data.splits.text_key`.
    """

    texts: list[Text]
    labels: list[Any]
    keys: list[Key] | None = None

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: Sequence[int]) -> Examples:
        """These rows."""
        keys = None if self.keys is None else [self.keys[row] for row in rows]
        return Examples([self.texts[row] for row in rows], [self.labels[row] for row in rows], keys)

    def split_keys(self) -> list[Key]:
        """By which rows are kept together when parts are made."""
        return [text_key(text) for text in self.texts] if self.keys is None else self.keys


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
    notes = list(sources.notes)
    tables = _with_labels(sources, columns, notes)
    usable = {part: table for part, table in tables.items() if check_columns(table, columns, problems)}
    texts = {part: _texts(table, columns, problems) for part, table in usable.items()}
    targets: Targets
    classes: tuple[str, ...]
    if spec.task == "text-to-text":
        _check_template(spec, columns, problems)
        targets, labels, classes = read_targets(usable, columns.label, spec, problems)
    elif (targets := _targets(spec, train.columns[columns.label])) == "values":
        labels = {part: read_values(table, columns.label, problems) for part, table in usable.items()}
        classes = ()
        check_values([label for label in labels["train"] if label is not None], train, columns.label, problems)
    else:
        labels, classes = read_classes(usable, columns.label, problems)
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


def _check_template(spec: DataSpec, columns: Columns, problems: Problems) -> None:
    if spec.template is None:
        return
    if needs_pair(spec.template) and columns.pair is None:
        problems.add(
            f"template {spec.template!r} names {{pair}}, but there is one text a row; name the second with --pair"
        )
    elif columns.pair is not None and not needs_pair(spec.template):
        problems.add(
            f"template {spec.template!r} lacks {{pair}}, so that the column {columns.pair!r} would be lost; "
            "name {pair} in it, or name the text's column alone with --text"
        )


def _texts(table: Table, columns: Columns, problems: Problems) -> list[Text]:
    first = strings(table, columns.text, problems)
    if columns.pair is None:
        return list(first)
    return list(zip(first, strings(table, columns.pair, problems), strict=True))


def strings(table: Table, column: str, problems: Problems) -> list[str]:
    """The texts of a column; those that are none are added to ``problems``."""
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


def with_parts(reading: Reading, parts: dict[str, Examples], notes: list[str]) -> Reading:
    """The reading with other rows and further notes."""
    return replace(reading, parts=parts, notes=[*reading.notes, *notes])
