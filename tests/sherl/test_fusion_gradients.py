"""Gradients of a fusion: finite differences, who gets one, and no NaN where vectors vanish."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import Tensor

from sherl.fusion import FusionConfig
from tests.sherl.fusion_samples import make_features, make_fusion
from tests.sherl.test_fusion_values import VARIANTS, variant_name

ALL = [*VARIANTS, FusionConfig.released(3)]


@pytest.mark.parametrize("config", ALL, ids=variant_name)
@pytest.mark.parametrize("count", [1, 2, 4])
def test_finite_differences(config: FusionConfig, count: int) -> None:
    fusion = make_fusion(config, width=6, count=count, seed=2)
    features = [feature.requires_grad_() for feature in make_features(count, 6, batch=2, tokens=2, seed=4)]
    parameters = dict(fusion.named_parameters())

    def compute(*tensors: Tensor) -> Tensor:
        values = dict(zip(parameters, tensors[count:], strict=True))
        return torch.func.functional_call(fusion, values, (list(tensors[:count]),))

    inputs = (*features, *(parameter.detach().clone().requires_grad_() for parameter in parameters.values()))
    # the samples lie away from the kinks: a step of 1e-6 moves no rectified figure across zero
    assert torch.autograd.gradcheck(compute, inputs, eps=1e-6, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("config", ALL, ids=variant_name)
def test_every_parameter_gets_a_gradient_once_the_gate_is_open(config: FusionConfig) -> None:
    fusion = make_fusion(config, alpha=0.03)
    fusion(make_features(4, 12, batch=4, tokens=8)).square().sum().backward()
    for name, parameter in fusion.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("similarity", ["inner", "learned"])
def test_at_the_start_the_preserving_gate_lets_only_alpha_learn(similarity: str) -> None:
    fusion = make_fusion(FusionConfig(3, similarity), alpha=0.0)
    fusion(make_features(4, 12)).square().sum().backward()
    learning = {name for name, p in fusion.named_parameters() if p.grad is not None and p.grad.any()}
    assert learning == {"gate.alpha"}


@pytest.mark.parametrize("similarity", ["inner", "learned"])
def test_no_parameter_is_idle_without_early_features(similarity: str) -> None:
    fusion = make_fusion(FusionConfig(3, similarity), count=1)
    fusion(make_features(1, 12, batch=4, tokens=8)).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in fusion.parameters())


def _vanishing(kind: str, dtype: torch.dtype) -> list[Tensor]:
    """Features in which something has no direction or no weight."""
    features = [feature.to(dtype) for feature in make_features(4, 12, batch=2, tokens=4)]
    if kind == "a padded token":
        for feature in features:
            feature[0, 1] = 0
    elif kind == "only padding":
        for feature in features:
            feature.zero_()
    elif kind == "one early feature":
        features[1].zero_()
    elif kind == "the guide":
        features[-1].zero_()
    elif kind == "tiny":
        for feature in features:
            feature.mul_(1e-20)
    elif kind == "huge":
        for feature in features:
            feature.mul_(1e6)
    return features


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("config", ALL, ids=variant_name)
@pytest.mark.parametrize("kind", ["a padded token", "only padding", "one early feature", "the guide", "tiny", "huge"])
@pytest.mark.parametrize("biased", [True, False])
def test_values_and_gradients_stay_finite(kind: str, config: FusionConfig, dtype: torch.dtype, biased: bool) -> None:
    fusion = make_fusion(config).to(dtype)
    if not biased:  # as at the start: zero features stay zero behind every layer
        with torch.no_grad():
            for name, parameter in fusion.named_parameters():
                if name.endswith("bias"):
                    parameter.zero_()
    features = [feature.requires_grad_() for feature in _vanishing(kind, dtype)]
    fused = fusion(features)
    fused.float().sum().backward()
    assert torch.isfinite(fused).all()
    for name, tensor in [*fusion.named_parameters(), *((str(i), f) for i, f in enumerate(features))]:
        assert tensor.grad is not None, name
        assert torch.isfinite(tensor.grad).all(), name


def test_a_token_without_weights_gives_the_guide_alone() -> None:
    fusion = make_fusion(FusionConfig(3), count=3)
    guide = torch.tensor([[[1.0, 2.0, 0.0, 0.0]]], dtype=torch.float64)
    opposed = torch.tensor([[[-1.0, -1.0, 0.5, 0.0]]], dtype=torch.float64)
    apart = torch.tensor([[[0.0, 0.0, 0.0, 3.0]]], dtype=torch.float64)
    stack = torch.stack([opposed, apart, guide]).requires_grad_()
    merged = fusion.aggregation(stack)
    assert torch.equal(merged, guide)
    merged.sum().backward()
    assert stack.grad is not None
    assert torch.equal(stack.grad, torch.stack([torch.zeros_like(guide)] * 2 + [torch.ones_like(guide)]))


@pytest.mark.parametrize("config", ALL, ids=variant_name)
def test_backward_keeps_nothing_as_wide_as_the_backbone_but_the_features(config: FusionConfig) -> None:
    features = [feature.float() for feature in make_features(4, 48, batch=2, tokens=5)]
    own = {feature.untyped_storage().data_ptr() for feature in features}
    fusion = make_fusion(config.replace(reduction_factor=8), width=48).float()
    weights = {parameter.untyped_storage().data_ptr() for parameter in fusion.parameters()}
    wide, narrow = [], 0

    def look(tensor: Tensor) -> Tensor:
        nonlocal narrow
        place = tensor.untyped_storage().data_ptr()
        if place not in own | weights and tensor.numel() >= features[0].numel():
            wide.append(tuple(tensor.shape))
        elif place not in own | weights:
            narrow += 1
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(look, lambda tensor: tensor):
        fused = fusion(features)
    assert fused.requires_grad
    assert narrow > 0
    # stacks of n narrow features are smaller here than one wide one (4 * 6 < 48)
    assert wide == []


def test_nothing_outlives_the_graph() -> None:
    fusion = make_fusion(FusionConfig(3))
    features = make_features(4, 12)
    fused = fusion(features)
    fused.sum().backward()
    watched = weakref.ref(features[0])
    del features, fused
    gc.collect()
    assert watched() is None
