"""Settings of a fusion, and parts that outsiders add."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from sherl.errors import SherlError, SpecError
from sherl.fusion import AGGREGATIONS, GATES, Aggregation, Fusion, FusionConfig, FusionShape


@pytest.mark.parametrize("factor", [0, -1, 1.5, "8", True, None])
def test_a_reduction_factor_is_a_whole_number(factor: object) -> None:
    with pytest.raises(SpecError, match="reduction_factor must be a whole number from 1 up to the width"):
        FusionConfig(reduction_factor=factor)  # type: ignore[arg-type]


def test_a_reduction_factor_over_the_width_is_refused_with_the_range() -> None:
    with pytest.raises(SpecError, match=r"reduction_factor 17 .* allowed are 1 to 16"):
        Fusion([16] * 3, FusionConfig(17))


def test_a_fusion_needs_a_feature() -> None:
    with pytest.raises(SpecError, match="at least one feature"):
        Fusion([])


def test_all_problems_at_once_with_the_nearest_names() -> None:
    with pytest.raises(SpecError) as caught:
        FusionConfig(0, similarity="iner", gate="preserve", aggregation="mtsaa", epsilon=-1.0)
    for part in ("reduction_factor", "'inner'", "'preserving'", "'mtsa'", "epsilon"):
        assert part in str(caught.value)


@pytest.mark.parametrize("epsilon", [float("nan"), float("inf"), "0", True])
def test_epsilon_is_a_number(epsilon: object) -> None:
    with pytest.raises(SpecError, match="epsilon"):
        FusionConfig(epsilon=epsilon)  # type: ignore[arg-type]


def test_settings_survive_json() -> None:
    config = FusionConfig.released(4)
    assert FusionConfig(**json.loads(json.dumps(config.to_dict()))) == config


def test_a_fusion_says_what_features_it_wants() -> None:
    fusion = Fusion([16] * 3, FusionConfig(4))
    good = torch.randn(2, 3, 16)
    with pytest.raises(SpecError, match="built for 3 features, 2 were given"):
        fusion([good, good])
    with pytest.raises(SpecError, match="must all be"):
        fusion([good, good, torch.randn(2, 3, 15)])
    with pytest.raises(SpecError, match="must all be"):
        fusion([torch.randn(2, 4, 16), good, good])


def test_outsiders_can_add_a_part() -> None:
    @AGGREGATIONS.register("mean-of-test")
    class Mean(Aggregation):
        def __init__(self, shape: FusionShape, config: FusionConfig) -> None:
            super().__init__()
            self.sizes = (shape.num_features, config.reduction_factor)

        def forward(self, stack: Tensor) -> Tensor:
            return stack.mean(dim=0)

    try:
        fusion = Fusion([16] * 3, FusionConfig(4, aggregation="mean-of-test"))
        assert fusion.aggregation.sizes == (3, 4)
        assert fusion([torch.randn(2, 3, 16)] * 3).shape == (2, 3, 16)
    finally:
        AGGREGATIONS._entries.pop("mean-of-test")


def test_unknown_names_are_errors_of_sherl() -> None:
    with pytest.raises(SherlError, match="Did you mean 'released'"):
        GATES.get("relased")
