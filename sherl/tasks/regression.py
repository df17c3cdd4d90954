"""A number for a text or a pair of texts."""

from __future__ import annotations

import math
from typing import Any, final

import numpy as np
from torch import Tensor
from torch.nn.functional import mse_loss

from sherl.errors import SpecError
from sherl.metrics import Targets, Vector
from sherl.shapes import Float
from sherl.spec import TaskSpec
from sherl.tasks.base import TASKS, Task


@final
@TASKS.register("regression")
class Regression(Task):
    """Mean squared error of standardised targets; labels are float32 in the data's own units.

    The head's output is (value - target_mean) / target_std, with the training part's statistics from the TaskSpec.
    So the loss of predicting the mean is about 1 whatever the units, and learning rates carry over between data sets.
    """

    targets: Targets = "values"

    def __init__(self, spec: TaskSpec) -> None:
        super().__init__(spec)
        if not (math.isfinite(spec.target_mean) and math.isfinite(spec.target_std) and spec.target_std > 0):
            raise SpecError(
                f"Regression needs a finite target_mean and a target_std above 0, "
                f"{spec.target_mean!r} and {spec.target_std!r} were given."
            )

    def loss(self, logits: Float[Tensor, "batch outputs"], labels: Tensor) -> Float[Tensor, ""]:
        """Mean squared error in units of the training targets' standard deviation, in float32."""
        standardised = (labels.float() - self.spec.target_mean) / self.spec.target_std
        return mse_loss(logits.float().squeeze(-1), standardised)

    def predictions(self, logits: Float[Tensor, "rows outputs"]) -> Vector:
        """Values in the data's own units, float64."""
        standardised = logits.detach().float().squeeze(-1).cpu().numpy().astype(np.float64)
        return np.asarray(standardised * self.spec.target_std + self.spec.target_mean)

    def decode(self, logits: Float[Tensor, "rows outputs"]) -> list[dict[str, Any]]:
        """``{"value": number}`` for each row, in the data's own units."""
        return [{"value": value} for value in self.predictions(logits).tolist()]
