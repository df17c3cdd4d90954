"""A tag for each word of a sentence: named entities, parts of speech."""

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
from sherl.metrics import Targets, Vector, metric_for
from sherl.shapes import Float, Int
from sherl.spans import BREAK
from sherl.spec import TaskSpec
from sherl.tasks.base import TASKS, Predicts, Task


@final
@TASKS.register("token-classification")
class TokenClassification(Task):
    """Cross entropy over ``TaskSpec.class_names`` at the first token of each word.

    Labels are int64 [rows, tokens]: the index of the word's tag at its first token, -100 at its further tokens, at
    special tokens and at padding. Outputs are int64 [rows, tokens]: the best tag at every token.
    """

    targets: Targets = "tags"
    predicts: ClassVar[Predicts] = "each_token"

    def __init__(self, spec: TaskSpec) -> None:
        super().__init__(spec)
        names = spec.class_names
        if len(names) < 2 or len(set(names)) != len(names) or not all(names):
            raise SpecError(f"Token classification needs at least two different tags, {list(names)} was given.")

    def labels_form(self, rows: int, tokens: int, targets: int) -> TensorForm:
        """int64 [rows, tokens]."""
        del targets
        return TensorForm((rows, tokens))

    def loss(self, logits: Float[Tensor, "batch tokens tags"], labels: Int[Tensor, "batch tokens"]) -> Tensor:
        """Mean cross entropy over all words; logits of any float dtype are taken to float32 first."""
        total = cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=PADDING, reduction="sum")
        return total / self.loss_weight(labels)

    def loss_weight(self, labels: Int[Tensor, "batch tokens"]) -> Tensor:
        """The number of words, a scalar on the labels' device."""
        return (labels != PADDING).sum().clamp(min=1).float()

    def answers(self, logits: Float[Tensor, "batch tokens tags"]) -> Int[Tensor, "batch tokens"]:
        """Index of the best tag at each token; -1 where a logit is not finite."""
        finite = torch.isfinite(logits).all(dim=-1)
        return logits.argmax(dim=-1).masked_fill(~finite, NOT_FINITE)

    def predictions(self, logits: Int[Tensor, "rows tokens"]) -> Vector:
        """The outputs themselves, without padding, row after row."""
        flat = logits.detach().cpu().flatten().numpy()
        return np.asarray(flat[flat != PADDING], dtype=np.int64)

    def decode(self, logits: Int[Tensor, "rows tokens"]) -> list[dict[str, Any]]:
        """``{"tags": [...]}`` for each row, a tag for each token; which tokens begin words the caller knows."""
        names = self.spec.class_names
        return [
            {"tags": [names[tag] if tag >= 0 else None for tag in row if tag != PADDING]} for row in logits.tolist()
        ]

    def metrics(self, logits: Int[Tensor, "rows tokens"], labels: Int[Tensor, "rows tokens"]) -> dict[str, float]:
        """Every metric over the words of all rows; all NaN where logits of a word were not finite.

        Raises:
            DataError: there is no row, or outputs and labels differ in their shape.
        """
        if logits.shape != labels.shape:
            raise DataError(
                f"Outputs of shape {list(logits.shape)} but labels of shape {list(labels.shape)} were given."
            )
        if not len(labels):
            raise DataError("There is no row to score; at least 1 is needed.")
        counts = labels != PADDING
        if bool((logits[counts] == NOT_FINITE).any()):
            return dict.fromkeys(self.metric_names, math.nan)
        truth, predicted = self._tags(labels, counts), self._tags(logits, counts)
        scores = {name: metric_for(name, self.targets) for name in self.metric_names}
        return {name: metric(truth, predicted, self.spec.num_outputs) for name, metric in scores.items()}

    def _tags(self, indices: Int[Tensor, "rows tokens"], counts: Tensor) -> Vector:
        """The tags of all words as strings, with a break behind each sentence."""
        names = self.spec.class_names
        made: list[str] = []
        for row, kept in zip(indices.tolist(), counts.tolist(), strict=True):
            made += [names[tag] for tag, counted in zip(row, kept, strict=True) if counted]
            made.append(BREAK)
        return np.array(made, dtype=object)
