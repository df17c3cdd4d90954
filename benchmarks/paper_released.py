"""What the code that table 1's figures were measured with does and this project does not, for traces of :mod:`paper_memory`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.t5.modeling_t5 import T5Attention

from autotune.memory import trace as tracing
from sherl.fusion.aggregation import RedundancyAggregation
from sherl.fusion.projection import RefinedProjection
from sherl.methods import MethodConfig
from sherl.methods.sherl_route import FinalNorm
from sherl.model import TaskModel
from sherl.optimizer import AdamW


@contextmanager
def released(method: MethodConfig | None = None, *, cache: bool = True) -> Iterator[None]:
    """Inside, a trace is of what the released code does. method: traced in place of the workload's; None: the workload's."""
    with ExitStack() as stack:
        if cache:
            stack.enter_context(decoder_cache_in_training())
        stack.enter_context(kept_scores())
        stack.enter_context(fusion_in_steps())
        # 2021's default of Module.zero_grad
        keep = mock.patch.object(
            AdamW, "zero_grad", lambda self, **_: torch.optim.Optimizer.zero_grad(self, set_to_none=False)
        )
        stack.enter_context(keep)
        if method is not None:
            stack.enter_context(mock.patch.object(tracing, "method_from_dict", return_value=method))
        yield


@contextmanager
def decoder_cache_in_training() -> Iterator[None]:
    """Inside, a decoder's keys and values are kept until its loss is known, as part of a model output that nobody reads.

    Projections are kept as they are (transformers' cache of today would copy them, and the copies be what backward needs).
    """
    held: list[Tensor] = []
    kept: list[Any] = []
    forward, loss = TaskModel.forward, TaskModel.loss

    def holding_forward(self: TaskModel, batch: dict[str, Tensor]) -> Tensor:
        attentions = [m for m in self.tuned.model.decoder.modules() if isinstance(m, T5Attention)]
        for attention in attentions:
            for projection in (attention.k, attention.v):
                kept.append(projection.register_forward_hook(lambda _m, _i, output: held.append(output)))
        try:
            return forward(self, batch)
        finally:
            while kept:
                kept.pop().remove()

    def releasing_loss(self: TaskModel, logits: Tensor, labels: Tensor) -> Tensor:
        result = loss(self, logits, labels)
        held.clear()
        return result

    with mock.patch.object(TaskModel, "forward", holding_forward), mock.patch.object(TaskModel, "loss", releasing_loss):
        yield


@contextmanager
def kept_scores() -> Iterator[None]:
    """Inside, T5's attention is no fused kernel: scores, their softmax and dropout's result live until backward."""
    ALL_ATTENTION_FUNCTIONS["sdpa"] = _unfused
    try:
        yield
    finally:
        del ALL_ATTENTION_FUNCTIONS["sdpa"]


def _unfused(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *, dropout: float, **rest: Any
) -> tuple[Tensor, None]:
    scores = query @ key.transpose(-1, -2)
    bias = rest["position_bias"]
    scores += bias if mask is None else bias + mask
    weights = functional.dropout(_OldSoftmax.apply(scores), dropout, module.training)
    return (weights @ value).transpose(1, 2), None


class _OldSoftmax(torch.autograd.Function):
    """Softmax over the last dimension as torch had it before 1.11: its backward was given the input too."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor) -> Tensor:
        result = functional.softmax(scores, dim=-1)
        ctx.save_for_backward(scores, result)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        scores, result = ctx.saved_tensors
        return torch._softmax_backward_data(gradients[0], result, -1, scores.dtype)


@contextmanager
def fusion_in_steps() -> Iterator[None]:
    """Inside, a fusion is computed step by step as its equations stand, each of which keeps what its own backward needs: features
    apart and then copied into a stack, normalised rows for the cosines, products of rows with the guide; its norm is three
    operators, and what goes to the late block is dropped out."""
    with (
        mock.patch.object(RefinedProjection, "forward", _features_apart),
        mock.patch.object(RedundancyAggregation, "forward", _aggregated_in_steps),
        mock.patch.object(FinalNorm, "forward", _norm_in_steps),
    ):
        yield


def _features_apart(self: RefinedProjection, features: Sequence[Tensor]) -> list[Tensor]:
    made = []
    inner = self.scale.weight.shape[1]
    for place, (down, feature) in enumerate(zip(self.down, features, strict=True)):
        projected = functional.relu(down(feature))
        scale, refine = (
            functional.linear(projected, layer.weight[place].T, layer.bias.view(-1, inner)[place])
            for layer in (self.scale, self.refine)
        )
        made.append((refine + projected) * torch.sigmoid(scale))
    return made


def _aggregated_in_steps(self: RedundancyAggregation, features: list[Tensor]) -> Tensor:
    rows, inner = features[-1].shape[0] * features[-1].shape[1], features[-1].shape[2]
    early = torch.stack(features[:-1], dim=2).reshape(rows, len(features) - 1, inner)
    guide = features[-1].reshape(rows, 1, inner)
    length = early.pow(2).sum(dim=-1, keepdim=True).sqrt() + self.epsilon
    directions = early / length
    redundancy = functional.relu(directions @ directions.transpose(1, 2)).sum(dim=-1, keepdim=True)
    assert self.score is not None
    raw = functional.relu(self.score(early * guide)) / redundancy
    weights = raw / (raw.abs().sum(dim=1, keepdim=True) + self.epsilon)
    merged = (weights * early).sum(dim=1, keepdim=True) + guide
    return merged.reshape(features[-1].shape)


def _norm_in_steps(self: FinalNorm, hidden: Tensor) -> Tensor:
    scaled = hidden * torch.rsqrt(hidden.pow(2).mean(dim=-1, keepdim=True) + self.epsilon)
    return functional.dropout(self.weight * scaled, 0.1, torch.is_grad_enabled())
