"""What a fusion computes: against the NumPy version, token by token, at the extremes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sherl.fusion import Fusion, FusionConfig
from tests.sherl.fusion_samples import make_features, make_fusion, reference

VARIANTS = [
    FusionConfig(reduction_factor=3, similarity=similarity, gate=gate)
    for similarity, gate in itertools.product(("inner", "learned"), ("preserving", "released"))
]


def variant_name(config: FusionConfig) -> str:
    return f"{config.similarity}-{config.gate}"


@pytest.mark.parametrize("config", [*VARIANTS, FusionConfig.released(4)], ids=variant_name)
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_equals_the_loop_by_loop_version(config: FusionConfig, count: int) -> None:
    fusion = make_fusion(config, count=count)
    features = make_features(count, 12)
    np.testing.assert_allclose(fusion(features).detach().numpy(), reference(fusion, features), rtol=1e-10, atol=1e-10)


@settings(max_examples=40, deadline=None)
@given(
    width=st.integers(1, 20),
    count=st.integers(1, 6),
    similarity=st.sampled_from(["inner", "learned"]),
    gate=st.sampled_from(["preserving", "released"]),
    epsilon=st.sampled_from([0.0, 1e-6, 0.1]),
    expansion=st.sampled_from(["linear", "rectified"]),
    seed=st.integers(0, 1000),
    data=st.data(),
)
def test_equals_the_loop_by_loop_version_for_any_size(
    width: int, count: int, similarity: str, gate: str, epsilon: float, expansion: str, seed: int, data: st.DataObject
) -> None:
    factor = data.draw(st.integers(1, width))
    config = FusionConfig(factor, similarity, gate, epsilon=epsilon, expansion=expansion)
    fusion = make_fusion(config, width=width, count=count, seed=seed)
    features = make_features(count, width, seed=seed)
    np.testing.assert_allclose(fusion(features).detach().numpy(), reference(fusion, features), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("similarity", ["inner", "learned"])
def test_a_repeated_feature_does_not_gain_weight(similarity: str) -> None:
    """The point of eq. 2: two copies of a row share the weight that one of them has."""
    fusion = make_fusion(FusionConfig(3, similarity), count=4)
    aggregate = fusion.aggregation
    torch.manual_seed(5)
    a, b, guide = torch.zeros(3, 1, 1, 4, dtype=torch.float64)
    a[..., 0], b[..., 1], guide[..., :] = 0.7, 1.3, torch.tensor([0.9, 0.4, 0.0, 0.0])
    once = aggregate(torch.stack([a, b, guide]))
    thrice = aggregate(torch.stack([a, a, a, b, guide]))
    torch.testing.assert_close(once, thrice)


def test_at_the_start_the_preserving_gate_changes_nothing() -> None:
    fusion = Fusion([16] * 3, FusionConfig(4))
    features = [feature.float() for feature in make_features(3, 16)]
    assert torch.equal(fusion(features), features[-1])


def test_at_the_start_the_released_gate_hides_the_own_input() -> None:
    fusion = Fusion([16], FusionConfig(4, gate="released"))
    own = torch.randn(2, 3, 16)
    assert fusion([own]).abs().max() < 0.1 * own.abs().max()


def test_initial_values() -> None:
    torch.manual_seed(0)
    fusion = Fusion([256] * 4, FusionConfig(2, "learned"))
    for name, parameter in fusion.named_parameters():
        if name.endswith("weight"):
            assert parameter.std().item() == pytest.approx(0.01, rel=0.2), name
        else:
            assert not parameter.any(), name


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), index=st.integers(0, 3))
def test_tokens_do_not_see_each_other(seed: int, index: int) -> None:
    config = VARIANTS[index]
    fusion = make_fusion(config)
    features = make_features(4, 12, batch=3, tokens=5, seed=seed)
    whole = fusion(features)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(5, generator=generator)
    rows = torch.randperm(3, generator=generator)
    torch.testing.assert_close(fusion([f[rows][:, order] for f in features]), whole[rows][:, order])
    chunks = [fusion([f[:, start : start + 2] for f in features]) for start in range(0, 5, 2)]
    torch.testing.assert_close(torch.cat(chunks, dim=1), whole)


@pytest.mark.parametrize("config", VARIANTS, ids=variant_name)
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(("factor", "inner"), [(1, 12), (5, 2), (7, 1), (12, 1)])
def test_reduction_factors_up_to_the_width(config: FusionConfig, count: int, factor: int, inner: int) -> None:
    fusion = make_fusion(config.replace(reduction_factor=factor), count=count)
    assert fusion.shape.inner_width == inner
    features = make_features(count, 12)
    np.testing.assert_allclose(fusion(features).detach().numpy(), reference(fusion, features), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("config", [*VARIANTS, FusionConfig.released(3)], ids=variant_name)
@pytest.mark.parametrize("shape", [(1, 1), (4, 1), (1, 7), (2, 0)])
def test_any_number_of_rows_and_tokens(config: FusionConfig, shape: tuple[int, int]) -> None:
    features = make_features(4, 12, batch=shape[0], tokens=shape[1])
    assert make_fusion(config)(features).shape == (*shape, 12)


@pytest.mark.parametrize("config", [*VARIANTS, FusionConfig.released(3)], ids=variant_name)
def test_parameters_in_bfloat16_or_float32_compute_in_the_features_precision(config: FusionConfig) -> None:
    fusion = make_fusion(config).float()
    features = [feature.bfloat16() for feature in make_features(4, 12, seed=3)]
    expected = fusion([feature.float() for feature in features])
    for kept in (fusion, make_fusion(config).bfloat16()):
        fused = kept(features)
        assert fused.dtype == torch.bfloat16
        difference = (fused.float() - expected).norm() / expected.norm()
        assert difference < 0.03


def test_parameter_counts_are_those_of_the_paper() -> None:
    """n (D d + d) down, 2 n (d d + d) refine, d D + D up, alpha; the learned similarity adds d + 1."""
    n, width, inner = 9, 96, 12
    expected = n * (width * inner + inner) + 2 * n * (inner * inner + inner) + inner * width + width + 1
    count = sum(p.numel() for p in Fusion([width] * n, FusionConfig(8)).parameters())
    assert count == expected
    assert sum(p.numel() for p in Fusion([width] * n, FusionConfig.released(8)).parameters()) == expected + inner + 1
