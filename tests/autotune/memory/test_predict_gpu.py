"""Predictions for a GPU, made without one: their sums, what finished trials and breaches teach."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest

from autotune.errors import ConfigError
from autotune.memory.allocator_rules import MIB, AllocatorRules
from autotune.memory.context import DEFAULT_CONTEXT_BYTES
from autotune.memory.device import DeviceInfo
from autotune.memory.gpu import GpuKind
from autotune.memory.heap import HeapPlan
from autotune.memory.margin import rule_bytes
from autotune.memory.predict import Predictor, heap_plan_of
from autotune.memory.trace import Workload
from autotune.outcome import Candidate, MemoryFigures
from autotune.study.fit_check import FitCheck
from autotune.study.prediction import predictor_for
from sherl.forms import BatchForm, TensorForm
from tests.autotune.memory.test_predict import BASELINE, MB, _candidate, _predictor, traced

__all__ = ["traced"]  # a fixture

CONTEXT = 500 * MB
EXPANDABLE = AllocatorRules(expandable_segments=True)


def _on_gpu(**changes: Any) -> Predictor:
    return _predictor(**{"device": "cuda", "context_bytes": CONTEXT, "device_name": "NVIDIA A100", **changes})


@pytest.mark.usefixtures("traced")
def test_device_is_reserved_and_context_and_margin() -> None:
    figures = _on_gpu().predict(_candidate(batch_size=10))
    assert (figures.allocated, figures.reserved) == (1050 * MB, 1200 * MB)
    assert figures.device == (1200 + 64 + 500) * MB
    large = _on_gpu().predict(_candidate(batch_size=100))
    assert large.device == 12000 * MB + rule_bytes("cuda", 12000 * MB) + CONTEXT
    expandable = _on_gpu(rules=EXPANDABLE).predict(_candidate(batch_size=10))
    assert expandable.reserved == 1100 * MB
    unknown = _predictor(device="cuda").predict(_candidate(batch_size=10))
    assert unknown.device == 1264 * MB + DEFAULT_CONTEXT_BYTES


@pytest.mark.usefixtures("traced")
def test_a_batch_that_is_copied_ahead_counts_where_batches_bring_hidden_states() -> None:
    def bring(_: Candidate, train: BatchForm, evaluation: BatchForm) -> tuple[BatchForm, BatchForm]:
        rows = train["labels"].shape[0]
        states = {"features.blocks.2": TensorForm((rows, 9, 16), "float32")}
        return {**train, **states}, {**evaluation, **states}

    figures, without = (
        _on_gpu(with_features=bring).predict(_candidate(batch_size=10)),
        _on_gpu().predict(_candidate(batch_size=10)),
    )
    batch = sum(form.nbytes for form in _on_gpu().workload(_candidate(batch_size=10)).train_batch.values())
    ahead = batch + 10 * 9 * 16 * 4
    assert figures.device == without.device + ahead
    assert without.reserved is not None
    assert (figures.allocated, figures.reserved) == (without.allocated, without.reserved + ahead)
    on_cpu = _predictor(with_features=bring).predict(_candidate(batch_size=10))
    assert on_cpu.device == _predictor().predict(_candidate(batch_size=10)).device


def test_a_study_predicts_with_what_the_environment_tells_the_allocator(monkeypatch: pytest.MonkeyPatch) -> None:
    def expands(kind: Literal["cpu", "cuda"]) -> bool:
        device = DeviceInfo(kind=kind, name="X", total_bytes=1, free_bytes=1, meter="m")
        study: Any = SimpleNamespace(
            memory_cap=1,
            predictions_file=None,
            task=None,
            part=lambda _: SimpleNamespace(largest_form=None),
            largest_evaluation=None,
            to_dict=dict,
            attributes={"baseline of X, 1 threads": 0},
        )
        return predictor_for(study, study, study, study, device, study, threads=1)._rules.expandable_segments

    assert not expands("cuda")
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    assert expands("cuda")
    assert not expands("cpu")
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:maybe")
    with pytest.raises(ConfigError, match="True or False"):
        expands("cuda")
    assert not expands("cpu"), "it plays no part there"


def test_a_real_trace_gives_all_three_figures() -> None:
    predictor = _on_gpu(gpu=GpuKind.of((8, 0), {}))
    result = predictor.trace(_candidate())
    figures = predictor.predict(_candidate())
    assert sum(result.parts.values()) == result.allocated
    assert result.blocks is not None
    assert result.allocated <= result.blocks == figures.allocated, "blocks are whole, as torch counts them"
    assert result.parts["workspace"] >= 2 * 8_519_680, "one for the forward pass, one for backward's thread"
    assert figures.reserved == result.reserved
    assert result.reserved is not None
    assert figures.allocated < result.reserved < figures.device
    assert result.reserved % (2 * MIB) == 0


def test_the_cache_holds_figures_alone_and_each_for_what_the_allocator_was_told(
    traced: list[Workload], tmp_path: Path
) -> None:
    file = tmp_path / "predictions.jsonl"
    first = _on_gpu(cache_path=file).predict(_candidate())
    assert _on_gpu(cache_path=file).predict(_candidate()) == first
    other = _on_gpu(cache_path=file, rules=EXPANDABLE).predict(_candidate())
    assert other.reserved == 440 * MB
    assert _on_gpu(cache_path=file, rules=EXPANDABLE).predict(_candidate()) == other
    assert len(traced) == 2
    lines = [json.loads(text) for text in file.read_text().splitlines() if text]
    assert [set(line) for line in lines] == [{"trace", "allocated", "parts", "reserved", "blocks"}] * 2
    assert (first.allocated, other.allocated) == (420 * MB, 416 * MB)
    _on_gpu(cache_path=file, gpu=GpuKind.of((7, 5), {})).predict(_candidate())
    assert len(traced) == 3, "another kind of GPU takes other kernels"
    _predictor(cache_path=file).predict(_candidate())
    assert len(traced) == 4, "and so does a CPU"


@pytest.mark.usefixtures("traced")
def test_what_one_device_teaches_says_nothing_of_another(tmp_path: Path) -> None:
    file = tmp_path / "predictions.jsonl"
    predictor = _on_gpu(cache_path=file)
    predicted = predictor.predict(_candidate())
    assert predicted.device == 1044 * MB
    predictor.calibrate(
        predicted, MemoryFigures(allocated=400 * MB, reserved=500 * MB, device=1100 * MB, meter="nvml, this process")
    )
    assert predictor.predict(_candidate()).device == 1100 * MB
    assert _on_gpu(cache_path=file).predict(_candidate()).device == 1100 * MB
    assert _on_gpu(cache_path=file, device_name="A100 40GB").predict(_candidate()).device == 1100 * MB, "the same kind"
    assert _on_gpu(cache_path=file, device_name="NVIDIA L4").predict(_candidate()).device == 1044 * MB
    assert _predictor(cache_path=file).predict(_candidate()).device == BASELINE + 800 * MB


@pytest.mark.usefixtures("traced")
def test_scores_on_another_base_are_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "predictions.jsonl"
    file.write_text('{"score": 9.0, "kind": "cuda"}\n{"score": 9.0, "kind": "cuda", "base": "allocated"}\n')
    assert _on_gpu(cache_path=file, device_name="").predict(_candidate()).device == 1044 * MB
    file.write_text('{"score": 2.0, "kind": "fast"}\n')  # as it was written before bases were
    assert _predictor(cache_path=file).predict(_candidate()).device == BASELINE + 1200 * MB


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_a_shape_that_memory_ended_is_not_mistaken_twice(kind: str, tmp_path: Path) -> None:
    make = _on_gpu if kind == "cuda" else _predictor
    file, cap = tmp_path / "predictions.jsonl", 2000 * MB
    predictor = make(cache_path=file, cap_bytes=cap)
    assert predictor.predict(_candidate()).device <= cap
    other = predictor.predict(_candidate(batch_size=3)).device
    predictor.learn_breach(_candidate(), 2050 * MB)
    for again in (predictor, make(cache_path=file, cap_bytes=cap), make(cache_path=file, cap_bytes=4000 * MB)):
        assert again.predict(_candidate()).device > 2050 * MB
        assert again.predict(_candidate(learning_rate=0.7, seed=3)).device > 2050 * MB, "the same shape"
    assert predictor.predict(_candidate(batch_size=3)).device >= other
    assert _predictor().predict(_candidate()).device == BASELINE + 800 * MB, "another study's"
    predictor.learn_breach(_candidate(), 1000 * MB)
    assert predictor.predict(_candidate()).device > 2050 * MB, "the most that was held counts"
    with pytest.raises(ValueError, match="at least 0"):
        predictor.learn_breach(_candidate(), -1)


@pytest.mark.usefixtures("traced")
def test_an_allocation_that_the_cap_refused_means_more_than_the_cap() -> None:
    predictor = _on_gpu(cap_bytes=1100 * MB)
    assert predictor.predict(_candidate()).device == 1044 * MB
    predictor.learn_breach(_candidate(), 900 * MB)  # it was refused what would have gone over
    assert predictor.predict(_candidate()).device > 1100 * MB
    assert predictor.predict(_candidate(batch_size=3)).device == 924 * MB, "900 MB are within the margin: it stays"
    crowded = _on_gpu(cap_bytes=1100 * MB)
    crowded.learn_breach(_candidate(), 1050 * MB, refused_by_cap=False)
    assert crowded.predict(_candidate()).device <= 1100 * MB, "it was the machine that had no memory left"
    assert crowded.predict(_candidate()).device > 1050 * MB


@pytest.mark.usefixtures("traced")
def test_a_breach_beyond_the_margin_raises_it() -> None:
    predictor = _on_gpu(cap_bytes=1100 * MB)
    predictor.learn_breach(_candidate(), 1108 * MB)  # twice the margin of 64 MB
    assert predictor.predict(_candidate(batch_size=3)).device == (360 + 128 + 500) * MB


@pytest.mark.usefixtures("traced")
def test_after_a_breach_neither_heap_fits_the_cap() -> None:
    predictor = _predictor(cap_bytes=BASELINE + 800 * MB)
    predictor.learn_breach(_candidate(), BASELINE + 820 * MB)
    figures = predictor.predict(_candidate())
    tight: HeapPlan = "tight"
    assert heap_plan_of(figures) == tight
    assert figures.device == BASELINE + 820 * MB + 1


@pytest.mark.usefixtures("traced")
def test_a_study_does_not_start_the_shape_that_memory_ended_as_it_was() -> None:
    cap = 1100 * MB
    fits = FitCheck(_on_gpu(cap_bytes=cap), cap)
    first = fits.planned(_candidate())
    assert first.plan == {}
    fits.learn_breach(first, 1000 * MB, refused_by_cap=True)
    ended = [first]
    while fits(_candidate(learning_rate=0.3)) is None:  # the same shape gets its next memory plan, until none is left
        planned = fits.planned(_candidate(learning_rate=0.3))
        assert planned.plan not in [one.plan for one in ended]
        fits.learn_breach(planned, 1000 * MB, refused_by_cap=True)
        ended.append(planned)
    refusal = fits(_candidate(learning_rate=0.3))
    assert refusal is not None
    assert "over the cap" in refusal.reason
    assert len(ended) > 1
    assert fits(_candidate(batch_size=3)) is None
