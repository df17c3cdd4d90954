"""Which of a backbone's weights matter to a task: their Fisher importance."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from sherl.backbones import Backbone, Batch
from sherl.errors import DataError
from sherl.methods import FullConfig
from sherl.model import build_model
from sherl.spec import TaskSpec


def fisher_importance(
    backbone: Backbone, task: TaskSpec, batches: Iterable[Batch], *, seed: int = 0
) -> dict[str, Tensor]:
    """The mean over batches of the squared gradient of the task's loss, for every weight; float32, by name in the model.

    This is the importance that LST's released code prunes by (empirical Fisher, diagonal). It is measured as full
    fine-tuning would be, without dropout: it needs that method's memory, a step of it a batch. The backbone is given
    back as it was. Put the result where the method ``ladder`` looks for it::

        backbone.importances = fisher_importance(backbone, task, batches)

    Args:
        batches: with ``labels``; a few are enough.
        seed: of the new head that a classification or regression is measured with.

    Raises:
        DataError: there is no batch.
        SpecError: a method is on the backbone.
    """
    model = build_model(backbone, FullConfig(), task, seed=seed)
    names = {id(parameter): name for name, parameter in backbone.model.named_parameters()}
    weights = {names[id(parameter)]: parameter for parameter in model.tuned.trainable().values()}
    sums = {name: torch.zeros(weight.shape, dtype=torch.float32) for name, weight in weights.items()}
    count = 0
    try:
        for batch in batches:
            model.zero_grad(set_to_none=True)
            torch.autograd.backward(model.loss(model(batch), batch["labels"]))
            for name, weight in weights.items():
                if weight.grad is not None:
                    sums[name] += weight.grad.detach().float().square().cpu()
            count += 1
    finally:
        model.tuned.remove()
    if count == 0:
        raise DataError("Fisher importance is measured on batches, and there was none: give at least one.")
    return {name: total / count for name, total in sums.items()}
