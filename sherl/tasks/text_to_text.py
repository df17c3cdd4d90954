"""A text for a text: the backbone writes the target, token by token."""

from __future__ import annotations

import math
from typing import Any, ClassVar, final

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from sherl.backbones.writing import NOT_FINITE, PADDING
from sherl.errors import DataError, SpecError
from sherl.forms import TensorForm
from sherl.metrics import METRICS, Targets, Vector, metric_for
from sherl.shapes import Float, Int
from sherl.spec import TaskSpec
from sherl.tasks.base import TASKS, Predicts, Task
from sherl.tasks.token_sums import scores

NO_CLASS = -1
"""Stands for an answer that is none of the class names."""
NO_NUMBER = -1.0
"""What an answer that is none of the numbers counts as where values are scored, as in T5's evaluation of STS-B."""


@final
@TASKS.register("text-to-text")
class TextToText(Task):
    """Cross entropy over the target's tokens; what is scored is what the model writes by itself, greedily.

    Labels are int64 token ids [rows, targets], each with its end token, then -100. With ``class_names`` an answer is the
    class whose tokens it is, exactly, and class metrics score it (GLUE's protocol for T5: the target is the class index
    as a string); an answer that is none of them is wrong. Without, ``exact_match`` of the tokens is the metric. Where the
    metric scores values, the class names are the numbers that may be written (STS-B's in steps of 0.2); an answer that is
    none of them counts as :data:`NO_NUMBER`. Where the metric scores tokens (``neg_perplexity``), nothing is written to
    score: outputs of rows with labels are float32 [rows, 3], summed over the target's tokens
    (:mod:`sherl.tasks.token_sums`), each predicted behind those before it, and ``exact_match`` comes of the same pass.
    """

    predicts: ClassVar[Predicts] = "target_text"

    def __init__(self, spec: TaskSpec) -> None:
        self.targets: Targets = "classes" if spec.class_names else "texts"
        judged_by = METRICS.get(spec.metric).targets
        if judged_by == "tokens" or (spec.class_names and judged_by == "values"):
            self.targets = judged_by
        super().__init__(spec)
        problems = []
        if spec.target_length < 1:
            problems.append(
                f"target_length, the tokens that are written at most, must be at least 1, {spec.target_length!r} was given"
            )
        if len(spec.label_tokens) != len(spec.class_names):
            problems.append(
                f"label_tokens must be given for each class name: {len(spec.label_tokens)} for {len(spec.class_names)}"
            )
        if len(set(spec.label_tokens)) != len(spec.label_tokens):
            problems.append("two class names have the same tokens: the model could not tell them apart")
        long = [ids for ids in spec.label_tokens if len(ids) > spec.target_length]
        if long:
            problems.append(f"a class name of {len(long[0])} tokens is longer than target_length {spec.target_length}")
        if self.targets == "values" and not all(map(_is_number, spec.class_names)):
            wrong = [name for name in spec.class_names if not _is_number(name)]
            problems.append(f"{spec.metric} scores numbers, but {wrong[:5]} among the class names are none")
        if problems:
            raise SpecError("Text-to-text: " + "; ".join(problems) + ".")

    @property
    def metric_names(self) -> tuple[str, ...]:
        """All metrics that :meth:`metrics` gives, the default one first."""
        names = super().metric_names
        return (*names, "exact_match") if self.targets == "tokens" else names

    def labels_form(self, rows: int, tokens: int, targets: int) -> TensorForm:
        """int64 [rows, targets]."""
        del tokens
        return TensorForm((rows, targets))

    def loss(self, logits: Float[Tensor, "batch targets words"], labels: Int[Tensor, "batch targets"]) -> Tensor:
        """Mean cross entropy of all target tokens; logits of any float dtype are taken to float32 first."""
        return cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=PADDING)

    def loss_weight(self, labels: Int[Tensor, "batch targets"]) -> Tensor:
        """The number of target tokens, a scalar on the labels' device."""
        return (labels != PADDING).sum().clamp(min=1).float()

    def predictions(self, logits: Int[Tensor, "rows written"]) -> Vector:
        """With class names the index of each row's class, -1 for none (or the number that it is, :data:`NO_NUMBER` for
        none); without, a number for each different text."""
        if self.targets == "values":
            return self._values(self._named(logits))
        return self._named(logits) if self.spec.class_names else _numbered(_texts(logits))[0]

    def decode(self, logits: Int[Tensor, "rows written"]) -> list[dict[str, Any]]:
        """``{"tokens": [...]}`` for each row, without padding; with class names also ``"label"``, None for none."""
        rows = [{"tokens": list(text)} for text in _texts(logits)]
        if not self.spec.class_names:
            return rows
        names = self._named(logits).tolist()
        return [
            {**row, "label": None if name == NO_CLASS else self.spec.class_names[name]}
            for row, name in zip(rows, names, strict=True)
        ]

    def metrics(
        self, logits: Int[Tensor, "rows written"] | Float[Tensor, "rows 3"], labels: Int[Tensor, "rows targets"]
    ) -> dict[str, float]:
        """Every metric over all rows; all NaN where logits were not finite while a row was written or predicted.

        Raises:
            DataError: there is no row, outputs and labels differ in their number, or a label is none of the classes.
        """
        if self.targets == "tokens":
            return scores(self.metric_names, logits, labels)
        if len(logits) != len(labels):
            raise DataError(f"{len(logits)} written rows but {len(labels)} labels; give one label for each row.")
        if not len(labels):
            raise DataError("There is no row to score; at least 1 is needed.")
        if bool((logits == NOT_FINITE).any()):
            return dict.fromkeys(self.metric_names, math.nan)
        if self.spec.class_names:
            truth, predicted = self._named(labels), self._named(logits)
            if (truth == NO_CLASS).any():
                row = int((truth == NO_CLASS).argmax())
                raise DataError(f"The target in row {row} is none of the classes {list(self.spec.class_names)}.")
            if self.targets == "values":
                truth, predicted = self._values(truth), self._values(predicted)
        else:
            truth, predicted = _numbered(_texts(labels), _texts(logits))
        found = {name: metric_for(name, self.targets) for name in self.metric_names}
        return {name: metric(truth, predicted, self.spec.num_outputs) for name, metric in found.items()}

    def _values(self, named: Vector) -> Vector:
        """The numbers of class indices; the last place is what -1 takes."""
        return np.array([*map(float, self.spec.class_names), NO_NUMBER], dtype=np.float64)[named]

    def _named(self, tokens: Tensor) -> Vector:
        places = {ids: place for place, ids in enumerate(self.spec.label_tokens)}
        return np.array([places.get(text, NO_CLASS) for text in _texts(tokens)], dtype=np.int64)


def _is_number(name: str) -> bool:
    try:
        return math.isfinite(float(name))
    except ValueError:
        return False


def _texts(tokens: Int[Tensor, "rows width"]) -> list[tuple[int, ...]]:
    """Each row's tokens up to its padding."""
    lengths = (tokens != PADDING).to(torch.int64).cumprod(dim=1).sum(dim=1).tolist()
    return [tuple(row[:length]) for row, length in zip(tokens.tolist(), lengths, strict=True)]


def _numbered(*columns: list[tuple[int, ...]]) -> tuple[Vector, ...]:
    """The same number for the same text, over all columns."""
    numbers: dict[tuple[int, ...], int] = {}
    return tuple(
        np.array([numbers.setdefault(text, len(numbers)) for text in column], dtype=np.int64) for column in columns
    )
