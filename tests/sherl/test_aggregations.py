"""Every aggregation: against loops over single tokens, and that nothing mixes tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sherl.errors import SpecError
from sherl.fusion import AGGREGATIONS, Fusion, FusionConfig
from sherl.methods import SherlConfig
from tests.sherl import reference_aggregations as reference
from tests.sherl.fusion_samples import make_features, make_fusion
from tests.sherl.tiny import tiny_backbone, tiny_batch

each = pytest.mark.parametrize("name", AGGREGATIONS.names())


def by_token(name: str, fusion: Fusion) -> Callable[[list[np.ndarray]], np.ndarray]:
    state = {key: value.detach().numpy() for key, value in fusion.aggregation.state_dict().items()}
    early = fusion.shape.num_features - 1
    forms: dict[str, Callable[[list[np.ndarray]], Any]] = {
        "max": reference.pooled_max,
        "mean": reference.pooled_mean,
        "attention": lambda stack: reference.attended(stack, state, 4),
        "linear": lambda stack: reference.linear(stack, [1.0] * early),
        "linear_learned": lambda stack: reference.linear(stack, list(state["redundancy"])),
    }
    return forms[name]


@pytest.mark.parametrize("name", ["max", "mean", "attention", "linear", "linear_learned"])
@pytest.mark.parametrize("count", [2, 3, 6])
def test_equals_loops_over_single_tokens(name: str, count: int) -> None:
    fusion = make_fusion(FusionConfig(reduction_factor=3, aggregation=name), width=24, count=count)
    stack = torch.stack(make_features(count, 8, batch=2, tokens=3, seed=7))
    merged = fusion.aggregation(stack).detach().numpy()
    one = by_token(name, fusion)
    for row in range(2):
        for token in range(3):
            expected = one([feature[row, token].numpy() for feature in stack])
            np.testing.assert_allclose(merged[row, token], expected, rtol=1e-10, atol=1e-10)


@each
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_nothing_mixes_tokens(name: str, seed: int) -> None:
    fusion = make_fusion(FusionConfig(reduction_factor=3, aggregation=name))
    features = make_features(4, 12, batch=2, tokens=5, seed=seed)
    whole = fusion(features)
    changed = [feature.clone() for feature in features]
    for feature in changed:
        feature[1, 2] += 1.0
    others = torch.ones(2, 5, dtype=torch.bool)
    others[1, 2] = False
    again = fusion(changed)
    assert torch.equal(again[others], whole[others])
    assert not torch.allclose(again[1, 2], whole[1, 2])
    chunks = [fusion([f[:, start : start + 2] for f in features]) for start in range(0, 5, 2)]
    torch.testing.assert_close(torch.cat(chunks, dim=1), whole)


@each
@pytest.mark.parametrize("count", [1, 4])
def test_every_parameter_gets_a_gradient(name: str, count: int) -> None:
    fusion = make_fusion(FusionConfig(reduction_factor=3, aggregation=name), count=count)
    fusion(make_features(count, 12, batch=4, tokens=8)).square().sum().backward()
    for parameter_name, parameter in fusion.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.any(), parameter_name


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_zeros_and_bfloat16_stay_finite(name: str, dtype: torch.dtype) -> None:
    fusion = make_fusion(FusionConfig(reduction_factor=3, aggregation=name)).float()
    features = [feature.to(dtype) for feature in make_features(4, 12)]
    for feature in features:
        feature[0] = 0
        feature.requires_grad_()
    fused = fusion(features)
    assert fused.dtype == dtype
    fused.float().sum().backward()
    tensors: list[Tensor] = [fused, *(f.grad for f in features), *(p.grad for p in fusion.parameters())]  # type: ignore[misc]
    assert all(bool(torch.isfinite(tensor).all()) for tensor in tensors)


def test_a_learned_redundancy_of_nothing_takes_no_weight_to_infinity() -> None:
    fusion = make_fusion(FusionConfig(reduction_factor=3, aggregation="linear_learned"))
    with torch.no_grad():
        fusion.aggregation.redundancy.copy_(torch.tensor([-2.0, 0.0, 1.0]))
    assert torch.isfinite(fusion(make_features(4, 12))).all()


def test_a_learned_redundancy_starts_where_plain_linear_attention_is() -> None:
    features = make_features(4, 12)
    torch.manual_seed(0)
    learned = Fusion([12] * 4, FusionConfig(3, aggregation="linear_learned")).double()
    torch.manual_seed(0)
    plain = Fusion([12] * 4, FusionConfig(3, aggregation="linear")).double()
    for fusion in (learned, plain):
        with torch.no_grad():
            fusion.gate.alpha.fill_(0.1)
    assert torch.equal(learned.aggregation.redundancy, torch.ones(3))
    torch.testing.assert_close(learned(features), plain(features))


def test_heads_that_do_not_divide_the_inner_width_are_refused_with_factors_that_do() -> None:
    with pytest.raises(SpecError, match=r"4 heads, and the inner width 6 \(width 12 by reduction_factor 2\).*: 1, 3"):
        Fusion([12] * 3, FusionConfig(2, aggregation="attention"))
    with pytest.raises(SpecError, match="no reduction factor makes it do so"):
        Fusion([3] * 3, FusionConfig(1, aggregation="attention"))
    backbone = tiny_backbone()
    with pytest.raises(SpecError, match="4 heads"):
        SherlConfig(aggregation="attention").apply(backbone, seed=0)
    assert backbone.method_name is None


@each
def test_sherl_takes_it_by_name(name: str) -> None:
    tuned = SherlConfig(aggregation=name, reduction_factor=4).apply(tiny_backbone(), seed=0)
    fusion = tuned.added["fusion"]["2"]  # type: ignore[index]
    assert type(fusion.aggregation) is AGGREGATIONS.get(name)
    with torch.no_grad():
        fusion.gate.alpha.fill_(0.1)
    tuned(tiny_batch()).square().sum().backward()
    assert all(p.grad is not None for p in tuned.trainable().values())
