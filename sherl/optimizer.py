"""AdamW and the schedule of its learning rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from sherl.errors import SpecError
from sherl.model import TaskModel
from sherl.spec import TrainingConfig


class AdamW(torch.optim.AdamW):
    """AdamW (fused, so that it takes the same memory on every device) that loses no update of a bfloat16 weight.

    A trainable weight of less than 32 bits has a float32 copy here; the parameter groups hold the copies.
    """

    def __init__(
        self, decayed: Sequence[nn.Parameter], others: Sequence[nn.Parameter], *, learning_rate: float, decay: float
    ) -> None:
        self._rounded: list[tuple[nn.Parameter, nn.Parameter]] = []
        groups: list[dict[str, Any]] = [
            {"params": [self._updated(parameter) for parameter in decayed], "weight_decay": decay},
            {"params": [self._updated(parameter) for parameter in others], "weight_decay": 0.0},
        ]
        super().__init__([group for group in groups if group["params"]], lr=learning_rate, fused=True)

    def _updated(self, parameter: nn.Parameter) -> nn.Parameter:
        """What AdamW works on for a parameter: itself, or its float32 copy."""
        if parameter.dtype not in (torch.bfloat16, torch.float16):
            return parameter
        copy = nn.Parameter(parameter.detach().float())
        self._rounded.append((parameter, copy))
        return copy

    @property
    def copies(self) -> list[nn.Parameter]:
        """The float32 copies of weights that are rounded, in the order of the parameters."""
        return [copy for _, copy in self._rounded]

    def gather_gradients(self) -> None:
        """Move the gradients of rounded weights to their copies; call it after each backward pass."""
        for parameter, copy in self._rounded:
            if parameter.grad is None:
                continue
            if copy.grad is None:
                copy.grad = parameter.grad.float()
            else:
                copy.grad += parameter.grad
            parameter.grad = None

    def clip_gradients(self, max_norm: float) -> None:
        """Scale all gradients down so that their joint norm is at most this."""
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        # Said aloud, since torch decides by the tensors' type: fake tensors would go one by one, real ones together,
        # and a trace would not be of what runs. Together is also faster on a GPU.
        nn.utils.clip_grad_norm_(parameters, max_norm, foreach=True)

    def _accelerator_graph_capture_health_check(self) -> None:
        """Nothing: no step is ever captured. torch (2.13) would ask the GPU's current stream, also where all weights lie on the CPU or
        are fake, and so give a process that only predicts a CUDA context of some 400 MB for as long as it lives."""

    @torch.no_grad()
    def apply_update(self) -> None:
        """One step of AdamW, rounded into the weights that have copies."""
        self.step()
        for parameter, copy in self._rounded:
            parameter.copy_(copy)


def learning_rate_factor(step: int, total_steps: int, warmup_steps: int) -> float:
    """What the learning rate is multiplied with in a step (0-based).

    It rises linearly over the warm-up, where it is 1 in the last warm-up step, and falls linearly to 0 just after the
    last of all steps. A warm-up longer than the run (a run cut short) stays as steep as it is.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return max(0.0, (total_steps - step) / max(1, total_steps - warmup_steps))


def make_optimizer(model: TaskModel, training: TrainingConfig, total_steps: int) -> tuple[AdamW, LambdaLR]:
    """AdamW over the model's trainable parameters, and the schedule of its learning rate.

    Weight decay acts on matrices only: not on biases (stacked ones have more than one dimension), norms and gates.

    Raises:
        SpecError: nothing in the model is trainable.
    """
    parameters = model.trainable_parameters()
    if not parameters:
        raise SpecError("The model has no trainable parameter: nothing can be trained.")
    warmup_steps = training.warmup_steps
    if warmup_steps is None:
        warmup_steps = round(training.warmup_fraction * total_steps)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed = [p for p in parameters if p.ndim >= 2 and not names[id(p)].endswith("bias")]
    others = [p for p in parameters if p.ndim < 2 or names[id(p)].endswith("bias")]
    optimizer = AdamW(decayed, others, learning_rate=training.learning_rate, decay=training.weight_decay)
    scheduler = LambdaLR(optimizer, lambda step: learning_rate_factor(step, total_steps, warmup_steps))
    return optimizer, scheduler
