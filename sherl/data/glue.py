"""GLUE's eight tasks by the protocol that T5, LST and SHERL were compared with (Diao et al. 2024, section 4; Sung et al. 2022).

``train="glue:rte"`` takes a task from the hub (nyu-mll/glue), ``train="glue:rte@FOLDER"`` from the files of GLUE's own
download: FOLDER holds RTE/train.tsv and RTE/dev.tsv, or these files themselves.

Text-to-text: input and target are strings ("rte sentence1: ... sentence2: ...", and the class index), STS-B's ratings are
rounded to steps of 0.2. Test labels are not public, so the validation part becomes the test part: of the small sets (RTE,
MRPC, STS-B, CoLA) one half, the other half is for validation; of the others all of it, and 1,000 training rows are held
out for validation. Both choices follow the seed. MNLI is tested on its matched part.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sherl.data.glue_files import read_glue_files
from sherl.data.hub import read_hub
from sherl.data.labels import as_number, is_missing
from sherl.data.problems import shorten
from sherl.data.settings import DataSpec
from sherl.data.splits import split_rows, text_key
from sherl.data.table import Table
from sherl.errors import DataError
from sherl.registry import Registry

PREFIX = "glue:"
HUB_NAME = "nyu-mll/glue"
HELD_OUT_ROWS = 1000
STSB_STEPS = 5
"""Ratings are rounded to fifths, so that there are 26 different ones in [0, 5]."""


@dataclass(frozen=True)
class GlueTask:
    """One of the tasks, as a row.

    folder: of GLUE's download. columns: of the hub's data set, the text and the second text. fields: how the prompt names
    them. class_names: in the order of their indices; empty for STS-B. epochs: that the protocol trains.
    """

    folder: str
    columns: tuple[str, ...]
    fields: tuple[str, ...]
    class_names: tuple[str, ...]
    metric: str
    small: bool
    epochs: int

    def template(self, name: str) -> str:
        """The prompt, e.g. "cola sentence: {text}"."""
        places = ("{text}", "{pair}")
        return " ".join([name, *(f"{field}: {place}" for field, place in zip(self.fields, places, strict=False))])


SENTENCE = ("sentence",)
SENTENCES = ("sentence1", "sentence2")
QUESTIONS = ("question1", "question2")
NLI = ("entailment", "not_entailment")

GLUE: Registry[GlueTask] = Registry("task of GLUE")
"""The eight tasks by the names that ``train="glue:NAME"`` takes."""

for _name, _row in {
    "cola": GlueTask("CoLA", SENTENCE, SENTENCE, ("unacceptable", "acceptable"), "matthews", True, 20),
    "sst2": GlueTask("SST-2", SENTENCE, SENTENCE, ("negative", "positive"), "accuracy", False, 10),
    "mrpc": GlueTask("MRPC", SENTENCES, SENTENCES, ("not_equivalent", "equivalent"), "accuracy_f1", True, 20),
    "qqp": GlueTask("QQP", QUESTIONS, QUESTIONS, ("not_duplicate", "duplicate"), "accuracy_f1", False, 10),
    "stsb": GlueTask("STS-B", SENTENCES, SENTENCES, (), "pearson_spearman", True, 20),
    "mnli": GlueTask(
        "MNLI",
        ("premise", "hypothesis"),
        ("premise", "hypothesis"),
        ("entailment", "neutral", "contradiction"),
        "accuracy",
        False,
        10,
    ),
    "qnli": GlueTask("QNLI", ("question", "sentence"), ("question", "sentence"), NLI, "accuracy", False, 10),
    "rte": GlueTask("RTE", SENTENCES, SENTENCES, NLI, "accuracy", True, 20),
}.items():
    GLUE.register(_name)(_row)


def is_glue(source: str | None) -> bool:
    """Whether a source names a task of GLUE."""
    return source is not None and source.startswith(PREFIX)


def glue_spec(spec: DataSpec) -> DataSpec:
    """The settings with what the protocol says where a person says nothing: columns, metric, prompt.

    Raises:
        UnknownNameError: GLUE has no such task.
        DataError: columns, parts or a task were given that this task of GLUE does not have.
    """
    name, _ = _named(spec)
    row = GLUE.get(name)
    problems = []
    if spec.valid is not None or spec.test is not None:
        problems.append("it brings its own validation and test rows: leave out --valid and --test")
    if any(value is not None for value in (spec.text, spec.pair, spec.label)):
        problems.append("its columns are known: leave out --text, --pair and --label")
    task = "classification" if row.class_names else "regression"
    if spec.task not in ("auto", "text-to-text", task):
        problems.append(f"it is a task of text-to-text or {task}; {spec.task} was given")
    if problems:
        raise DataError(f"{spec.train}: {'; '.join(problems)}.")
    template = spec.template
    if spec.task == "text-to-text" and template is None:
        template = row.template(name)
    kind: Any = task if spec.task == "auto" else spec.task
    return replace(
        spec,
        task=kind,
        metric=spec.metric or row.metric,
        template=template,
        text=row.columns[0],
        pair=row.columns[1] if len(row.columns) > 1 else None,
        label="label",
    )


def read_glue(spec: DataSpec) -> tuple[dict[str, Table], dict[str, int | None], tuple[str, ...]]:
    """Tables of the parts, the default numbers of their rows, and what a person should know of the reading.

    Raises:
        DataError: files are missing or malformed, or the hub has no such data set.
    """
    name, folder = _named(spec)
    row = GLUE.get(name)
    if folder is None:
        tables = read_hub(f"{HUB_NAME}:{name}", "train")
        tables.pop("test", None)  # its labels are hidden
        missing = [part for part in ("train", "valid") if part not in tables]
        if missing:
            raise DataError(f"{spec.train}: {HUB_NAME} gave no {' and no '.join(missing)} rows.")
    else:
        tables = read_glue_files(name, row.folder, row.columns, Path(folder).expanduser())
    notes: list[str] = []
    texts = spec.task == "text-to-text"
    tables = {part: _labelled(_without_gaps(table, row, notes), row, texts=texts) for part, table in tables.items()}
    if row.small:
        valid, test = _halves(tables["valid"], row, spec.seed)
        return {"train": tables["train"], "valid": valid, "test": test}, {}, tuple(notes)
    return {"train": tables["train"], "test": tables["valid"]}, {"valid": HELD_OUT_ROWS}, tuple(notes)


def _named(spec: DataSpec) -> tuple[str, str | None]:
    name, at, folder = (spec.train or "").removeprefix(PREFIX).partition("@")
    if at and not folder:
        raise DataError(f"{spec.train}: no folder stands behind '@'; give {PREFIX}{name}@FOLDER, or {PREFIX}{name}.")
    GLUE.get(name)
    return name, folder or None


def _without_gaps(table: Table, row: GlueTask, notes: list[str]) -> Table:
    """Without rows that lack a text or a label: QQP's files have a few, and MNLI's label is "-" where raters disagreed."""
    missing = [name for name in (*row.columns, "label") if name not in table.columns]
    if missing:
        raise DataError(f"{table.source}: the columns {missing} are missing; it has {list(table.columns)}.")
    cells = list(zip(*(table.columns[name] for name in (*row.columns, "label")), strict=True))
    kept = [place for place, found in enumerate(cells) if not any(is_missing(cell) or cell == "-" for cell in found)]
    if len(kept) < len(cells):
        notes.append(f"{len(cells) - len(kept)} rows of {table.source} lack a text or a label and are left out")
    return _rows(table, kept)


def _rows(table: Table, rows: list[int]) -> Table:
    columns = {name: [cells[row] for row in rows] for name, cells in table.columns.items()}
    lines = [table.lines[row] for row in rows] if len(table.lines) else ()
    return Table(table.source, columns, lines, table.identity, table.class_orders)


def _labelled(table: Table, row: GlueTask, *, texts: bool) -> Table:
    """The table with labels as class names or ratings; as strings that can be written where ``texts``."""
    made: list[Any] = []
    for place, cell in enumerate(table.columns["label"]):
        if not row.class_names:
            number = as_number(cell)
            if number is None or not 0 <= number <= 5:
                raise DataError(f"{table.place(place)}: {shorten(cell)} was given; a rating in [0, 5] is needed.")
            made.append(f"{round(number * STSB_STEPS) / STSB_STEPS:.1f}" if texts else number)
            continue
        written = str(cell)
        known = row.class_names.index(written) if written in row.class_names else None
        index = int(written) if known is None and written.isdigit() else known
        if index is None or index >= len(row.class_names):
            raise DataError(
                f"{table.place(place)}: the label {shorten(cell)} was given; allowed are {', '.join(row.class_names)} "
                f"or their indices from 0 to {len(row.class_names) - 1}."
            )
        made.append(str(index) if texts else row.class_names[index])
    orders = {} if texts or not row.class_names else {"label": list(row.class_names)}
    wanted = {name: table.columns[name] for name in row.columns}
    return Table(table.source, {**wanted, "label": made}, table.lines, table.identity, orders)


def _halves(table: Table, row: GlueTask, seed: int) -> tuple[Table, Table]:
    texts = list(zip(*(table.columns[name] for name in row.columns), strict=True))
    keys = [text_key(text if len(text) > 1 else text[0]) for text in texts]
    strata = table.columns["label"] if row.class_names else None
    half = len(table) // 2
    chosen = split_rows(keys, strata, {"valid": half, "test": len(table) - half}, seed=seed)
    return _rows(table, chosen["valid"]), _rows(table, chosen["test"])
