"""The interface of a task and the registry of all tasks."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from sherl.errors import DataError
from sherl.forms import TensorForm
from sherl.metrics import DEFAULT_METRICS, Targets, Vector, metric_for, metric_names
from sherl.registry import Registry
from sherl.shapes import Float
from sherl.spec import TaskSpec

Predicts: TypeAlias = Literal["label", "each_token", "target_text", "next_tokens"]


class Task(ABC):
    """How logits ``[batch, outputs]`` become a loss, scores and answers. Holds no tensors and no state.

    predicts: ``label``: something about a row, with a new head. ``each_token``: something about every token of the input,
        with a new head on unpooled hidden states; logits are ``[batch, tokens, outputs]``, outputs what :meth:`answers`
        makes of them, int64 ``[batch, tokens]``. ``target_text``: a text that the backbone writes with its own language
        head; logits are ``[batch, targets, words]`` while it learns, outputs the tokens that were written,
        ``[batch, target_length]``. ``next_tokens``: each next token of the input, with the same head; logits are
        ``[batch, tokens, words]``, outputs sums over each row.
    writes_text, per_token: whether that is ``target_text``, ``each_token``.
    """

    targets: Targets
    predicts: ClassVar[Predicts] = "label"
    writes_text: ClassVar[bool] = False
    per_token: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.writes_text = cls.predicts == "target_text"
        cls.per_token = cls.predicts == "each_token"

    def __init__(self, spec: TaskSpec) -> None:
        """Raises:
        UnknownNameError: no metric has the name ``spec.metric``.
        SpecError: the metric scores other targets, or the specification lacks what the task needs.
        """
        metric_for(spec.metric, self.targets)
        self.spec = spec

    @property
    def metric_names(self) -> tuple[str, ...]:
        """All metrics that :meth:`metrics` gives, the default one first."""
        return metric_names(self.targets)

    @property
    def default_metric(self) -> str:
        """The metric that is taken where a person names none."""
        return DEFAULT_METRICS[self.targets]

    @abstractmethod
    def loss(self, logits: Float[Tensor, "batch outputs"], labels: Tensor) -> Float[Tensor, ""]:
        """Mean loss of a batch, a float32 scalar whatever the logits' dtype."""

    def labels_form(self, rows: int, tokens: int, targets: int) -> TensorForm:
        """Shape and type of a batch's labels: one a row here. tokens: of the longest row; targets: of the longest text
        that is to be written.

        Raises:
            ValueError: a number that counts here is below 1.
        """
        del tokens, targets
        return TensorForm((rows,), "float32" if self.targets == "values" else "int64")

    def loss_weight(self, labels: Tensor) -> float | Tensor:
        """How much a micro-batch counts beside others of its batch: by what :meth:`loss` is a mean over."""
        return float(len(labels))

    def answers(self, logits: Tensor) -> Tensor:
        """What is kept of a batch's logits in evaluation: of a task ``per_token`` the best output of each token."""
        return logits

    @abstractmethod
    def predictions(self, logits: Float[Tensor, "rows outputs"]) -> Vector:
        """One prediction a row: class indices, or values in the data's own units."""

    @abstractmethod
    def decode(self, logits: Float[Tensor, "rows outputs"]) -> list[dict[str, Any]]:
        """One JSON-able answer a row, in the person's own labels and units."""

    def metrics(self, logits: Float[Tensor, "rows outputs"], labels: Tensor) -> dict[str, float]:
        """Every metric of the task over all rows; all NaN where a logit is not finite (see :mod:`sherl.metrics`).

        Raises:
            DataError: there is no row, or logits and labels differ in their number of rows.
        """
        if len(logits) != len(labels):
            raise DataError(f"{len(logits)} rows of logits but {len(labels)} labels; give one label for each row.")
        if not len(labels):
            raise DataError("There is no row to score; at least 1 is needed.")
        if not bool(torch.isfinite(logits).all()):
            return dict.fromkeys(self.metric_names, math.nan)
        dtype = np.int64 if self.targets == "classes" else np.float64
        truth = labels.detach().cpu().numpy().astype(dtype)
        predicted = self.predictions(logits)
        scores = {name: metric_for(name, self.targets) for name in self.metric_names}
        return {name: metric(truth, predicted, self.spec.num_outputs) for name, metric in scores.items()}


TASKS: Registry[type[Task]] = Registry("task")
"""All tasks by the name that stands in ``TaskSpec.kind``."""


def task_for(spec: TaskSpec) -> Task:
    """The task of a specification.

    Raises:
        UnknownNameError: no task or no metric has the name that the specification gives.
        SpecError: the specification lacks what the task needs.
    """
    return TASKS.get(spec.kind)(spec)
