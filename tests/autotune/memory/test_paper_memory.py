"""The pieces of the benchmark that prices table 1 of the SHERL paper."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from autotune.memory import trace as tracing
from sherl.fusion import Fusion, FusionConfig
from sherl.fusion.aggregation import RedundancyAggregation
from sherl.fusion.projection import RefinedProjection
from sherl.methods.sherl_route import FinalNorm
from sherl.model import TaskModel
from sherl.optimizer import AdamW


@pytest.fixture(scope="module")
def benchmark() -> Iterator[ModuleType]:
    folder = str(Path(__file__).parents[3] / "benchmarks")
    sys.path.insert(0, folder)
    try:
        yield importlib.import_module("paper_memory")
    finally:
        sys.path.remove(folder)


@pytest.fixture
def released_code(benchmark: ModuleType) -> ModuleType:
    assert benchmark
    return sys.modules["paper_released"]


@pytest.mark.slow
def test_sherl_on_t5_base_is_near_the_published_figure_and_the_cache_is_a_third_of_it(benchmark: ModuleType) -> None:
    row = benchmark.ROWS["sherl"]
    priced = {variant: benchmark.price(row, variant) for variant in benchmark.VARIANTS}
    unit = benchmark.UNIT
    with_cache, without = (priced[name].training / unit for name in ("released", "released, no cache"))
    assert with_cache == pytest.approx(row.published, rel=0.05)
    # keys and values of 11 decoder blocks [100, 128, 768]; the last block's are kept for backward in any case
    assert with_cache - without == pytest.approx(22 * 100 * 128 * 768 * 4 / unit, abs=0.06)
    assert priced["project"].training <= priced["released, no cache"].training
    assert priced["project"].tensors == sum(priced["project"].parts.values())
    assert 0 <= priced["project"].allocated - priced["project"].tensors < 0.01 * priced["project"].tensors


@pytest.mark.slow
def test_the_released_form_of_a_rival_is_within_5_percent(benchmark: ModuleType) -> None:
    row = benchmark.ROWS["bitfit"]
    assert benchmark.price(row, "released").allocated / benchmark.UNIT == pytest.approx(row.published, rel=0.05)


def test_what_is_patched_is_put_back(benchmark: ModuleType) -> None:
    def patched() -> tuple[object, ...]:
        fused = RedundancyAggregation.forward, RefinedProjection.forward, FinalNorm.forward
        return TaskModel.forward, TaskModel.loss, AdamW.zero_grad, ALL_ATTENTION_FUNCTIONS["sdpa"], *fused

    before = patched()
    with benchmark.released(benchmark.ReleasedLora()):
        assert not set(before) & set(patched())
        assert tracing.method_from_dict({"name": "lora"}).name == "lora"
    assert patched() == before


def test_old_softmax_is_softmax(released_code: ModuleType) -> None:
    scores = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(released_code._OldSoftmax.apply, (scores,))
    torch.testing.assert_close(released_code._OldSoftmax.apply(scores), scores.softmax(dim=-1))


def test_a_fusion_in_steps_computes_the_same_and_keeps_more(released_code: ModuleType) -> None:
    torch.manual_seed(0)
    fusion = Fusion([64] * 8, FusionConfig.released())
    for parameter in fusion.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    features = [torch.randn(2, 64, 64) for _ in range(8)]

    def computed() -> tuple[torch.Tensor, list[torch.Tensor], int]:
        kept: dict[int, int] = {}

        def note(tensor: torch.Tensor) -> torch.Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            result = fusion(features)
        return result, list(torch.autograd.grad(result.sum(), list(fusion.parameters()))), sum(kept.values())

    result, gradients, kept = computed()
    with released_code.fusion_in_steps():
        other, other_gradients, more = computed()
    torch.testing.assert_close(other, result)
    for one, two in zip(gradients, other_gradients, strict=True):
        torch.testing.assert_close(two, one, atol=1e-4, rtol=1e-4)
    assert more > kept
