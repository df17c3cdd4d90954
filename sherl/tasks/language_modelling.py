"""Language modelling: each next token of the text itself."""

from __future__ import annotations

import math
from typing import Any, ClassVar, final

import numpy as np
from torch import Tensor
from torch.nn.functional import cross_entropy

from sherl.backbones.writing import PADDING
from sherl.forms import TensorForm
from sherl.metrics import Targets, Vector
from sherl.shapes import Float, Int
from sherl.tasks.base import TASKS, Predicts, Task
from sherl.tasks.token_sums import SUMMED_LOSS, TOKENS, as_vector, scores


@final
@TASKS.register("language-modelling")
class LanguageModelling(Task):
    """Cross entropy of every token but the first, each predicted from those before it.

    Labels are int64 token ids [rows, tokens], the input's own, -100 where nothing is to be predicted (padding, or a prompt
    that is given); of left-padded rows the first token's too, as nothing stands before it. Logits at a position are of the
    label behind it. Outputs are float32 [rows, 3], summed over each row (:mod:`sherl.tasks.token_sums`).
    """

    predicts: ClassVar[Predicts] = "next_tokens"
    targets: Targets = "tokens"

    def labels_form(self, rows: int, tokens: int, targets: int) -> TensorForm:
        """int64 [rows, tokens]."""
        del targets
        return TensorForm((rows, tokens))

    def loss(self, logits: Float[Tensor, "batch tokens words"], labels: Int[Tensor, "batch tokens"]) -> Tensor:
        """Mean cross entropy of all predicted tokens, 0 where there is none; logits of any float dtype are taken to float32.

        The logits of the last position may be left out: they predict nothing.
        """
        following = labels[:, 1:]
        read = logits[:, : following.shape[1]].float().flatten(0, 1)
        return cross_entropy(read, following.flatten(), ignore_index=PADDING, reduction="sum") / self.loss_weight(
            labels
        )

    def loss_weight(self, labels: Int[Tensor, "batch tokens"]) -> Tensor:
        """The number of predicted tokens (at least 1), a scalar on the labels' device."""
        return (labels[:, 1:] != PADDING).sum().clamp(min=1).float()

    def predictions(self, logits: Float[Tensor, "rows 3"]) -> Vector:
        """Mean nats a token of each row, float64; 0 for a row without a predicted token."""
        sums = as_vector(logits)
        return np.asarray(sums[:, SUMMED_LOSS] / np.maximum(sums[:, TOKENS], 1.0))

    def decode(self, logits: Float[Tensor, "rows 3"]) -> list[dict[str, Any]]:
        """``{"loss": nats a token, "perplexity": number, "tokens": number of predicted tokens}`` for each row."""
        tokens = logits[:, TOKENS].tolist()
        return [
            {"loss": loss, "perplexity": math.exp(loss), "tokens": int(count)}
            for loss, count in zip(self.predictions(logits).tolist(), tokens, strict=True)
        ]

    def metrics(self, logits: Float[Tensor, "rows 3"], labels: Int[Tensor, "rows tokens"]) -> dict[str, float]:
        """Every metric over the tokens of all rows together; all NaN where a row's loss is not finite.

        Raises:
            DataError: there is no predicted token, or outputs and labels differ in their number of rows.
        """
        return scores(self.metric_names, logits, labels)
