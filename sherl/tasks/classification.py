"""One of several classes for a text or a pair of texts (``TaskSpec.pair`` says which; the batch shows it)."""

from __future__ import annotations

from typing import Any, final

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from sherl.errors import SpecError
from sherl.metrics import Targets, Vector
from sherl.shapes import Float
from sherl.spec import TaskSpec
from sherl.tasks.base import TASKS, Task


@final
@TASKS.register("classification")
class Classification(Task):
    """Cross entropy over ``TaskSpec.class_names``; labels are int64 indices into these."""

    targets: Targets = "classes"

    def __init__(self, spec: TaskSpec) -> None:
        super().__init__(spec)
        names = spec.class_names
        if len(names) < 2 or len(set(names)) != len(names):
            raise SpecError(f"Classification needs at least two different class names, {list(names)} was given.")

    def loss(self, logits: Float[Tensor, "batch outputs"], labels: Tensor) -> Float[Tensor, ""]:
        """Mean cross entropy; logits of any float dtype are taken to float32 first."""
        return cross_entropy(logits.float(), labels)

    def predictions(self, logits: Float[Tensor, "rows outputs"]) -> Vector:
        """Index of the largest logit of each row; the first of equal ones."""
        return np.asarray(logits.detach().float().cpu().numpy().argmax(axis=-1), dtype=np.int64)

    def decode(self, logits: Float[Tensor, "rows outputs"]) -> list[dict[str, Any]]:
        """``{"label": name, "scores": {name: probability}}`` for each row; probabilities sum to 1."""
        names = self.spec.class_names
        scores = torch.softmax(logits.detach().float(), dim=-1).cpu().tolist()
        return [
            {"label": names[best], "scores": dict(zip(names, row, strict=True))}
            for best, row in zip(self.predictions(logits).tolist(), scores, strict=True)
        ]
