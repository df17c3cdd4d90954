"""The predictor: its sums, what it remembers, what it learns."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autotune.memory import predict as predict_module
from autotune.memory.allocator_rules import AllocatorRules
from autotune.memory.gpu import GpuKind
from autotune.memory.margin import ENOUGH_PAIRS, LEAST_FACTOR, margin_bytes, rule_bytes
from autotune.memory.predict import Predictor, heap_plan_of
from autotune.memory.trace import TraceResult, Workload
from autotune.outcome import Candidate, MemoryFigures
from sherl.errors import SpecError
from sherl.forms import TensorForm, text_form
from sherl.spec import TaskSpec
from tests.sherl.tiny import tiny_config

TASK = TaskSpec(kind="classification", metric="accuracy", class_names=("a", "b"))
BASELINE = 300_000_000
MB = 1_000_000


def _candidate(method: str = "sherl", batch_size: int = 4, **training: Any) -> Candidate:
    return Candidate(
        method={"name": method},
        training={"learning_rate": 1e-3, "batch_size": batch_size, **training},
        params={},
    )


def _predictor(**changes: Any) -> Predictor:
    settings: dict[str, Any] = {
        "train_batch": lambda rows: text_form(rows, 11, TensorForm((rows,))),
        "eval_batch": lambda rows: text_form(rows, 9, TensorForm((rows,))),
        "baseline_bytes": BASELINE,
    }
    return Predictor(tiny_config("bert").to_dict(), TASK, **{**settings, **changes})


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[Workload]:
    """Every workload that is traced; tracing answers 100 MB a row without doing anything, on a GPU 120 MB reserved and 105 MB of
    blocks, with expandable segments 110 and 104."""
    seen: list[Workload] = []

    def answer(workload: Workload, gpu: GpuKind | None = None, rules: AllocatorRules | None = None) -> TraceResult:
        seen.append(workload)
        rows = workload.train_batch["labels"].shape[0]
        expandable = rules is not None and rules.expandable_segments
        taken = {"reserved": 110, "blocks": 104} if expandable else {"reserved": 120, "blocks": 105}
        served = {} if gpu is None else {name: rows * megabytes * MB for name, megabytes in taken.items()}
        return TraceResult(allocated=rows * 100 * MB, parts={"weights": 1}, **served)

    monkeypatch.setattr(predict_module, "trace", answer)
    return seen


def test_a_prediction_is_the_sum_that_it_says() -> None:
    predictor = _predictor()
    figures = predictor.predict(_candidate())
    assert figures.allocated == predictor.trace(_candidate()).allocated > 0
    assert figures.device == BASELINE + figures.allocated + rule_bytes("fast", figures.allocated)
    assert figures.reserved is None
    assert figures.meter.startswith("prediction")
    assert sum(predictor.trace(_candidate()).parts.values()) == figures.allocated


def test_the_heap_is_kept_tight_only_where_that_is_needed(traced: list[Workload]) -> None:
    del traced
    roomy = _predictor(cap_bytes=BASELINE + 800 * MB).predict(_candidate())
    narrow = _predictor(cap_bytes=BASELINE + 799 * MB).predict(_candidate())
    assert (heap_plan_of(roomy), heap_plan_of(narrow)) == ("fast", "tight")
    assert roomy.device == BASELINE + 800 * MB
    assert narrow.device == BASELINE + 400 * MB + 64 * MB
    hopeless = _predictor(cap_bytes=MB).predict(_candidate())
    assert hopeless.device == narrow.device, "what fits in no way is shown at its least"
    assert heap_plan_of(None) == "tight"


def test_a_shape_is_traced_once(traced: list[Workload]) -> None:
    predictor = _predictor()
    for candidate in (
        _candidate(),
        _candidate(learning_rate=0.5, epochs=9),
        _candidate(seed=4),
        replace(_candidate(), params={"x": 1}),
    ):
        predictor.predict(candidate)
    assert len(traced) == 1
    predictor.predict(_candidate(batch_size=5))
    assert len(traced) == 2


def test_shapes_come_from_the_data(traced: list[Workload]) -> None:
    _predictor().predict(_candidate(batch_size=10, accumulation=3))
    (workload,) = traced
    assert workload.train_batch["input_ids"].shape == (10, 11)
    assert workload.eval_batch["input_ids"].shape == (4, 9), "evaluation takes the rows of the largest micro-batch"


def test_the_file_is_read_again_and_damage_is_passed_over(traced: list[Workload], tmp_path: Path) -> None:
    file = tmp_path / "study" / "predictions.jsonl"
    first = _predictor(cache_path=file).predict(_candidate())
    with file.open("a") as lines:
        lines.write('{"trace": "cut sho')  # as a crash leaves it: no line break
    second = _predictor(cache_path=file)
    assert second.predict(_candidate()) == first
    assert len(traced) == 1
    second.predict(_candidate(batch_size=7))
    lines_now = [json.loads(line) for line in file.read_text().splitlines() if line.endswith("}")]
    assert len(lines_now) == 2
    _predictor(cache_path=file).predict(_candidate(batch_size=7))
    assert len(traced) == 2


@pytest.mark.parametrize(
    "line",
    [
        "[]",
        "3",
        "[" * 100_000,
        '{"trace": "x"}',
        '{"trace": "x", "allocated": "?", "parts": {}}',
        '{"trace": "KEY", "allocated": 1e999, "parts": {}}',
        '{"trace": "KEY", "allocated": -5, "parts": {}}',
        "\x00\xff",
        '{"score": "high", "kind": "fast"}',
        '{"score": 1e9, "kind": "unknown"}',
        '{"score": 1e999, "kind": "fast", "base": "allocated"}',
        '{"score": NaN, "kind": "fast", "base": "allocated"}',
        '{"score": -Infinity, "kind": "fast", "base": "allocated"}',
        '{"score": "1e999", "kind": "fast", "base": "allocated"}',
        '{"score": 1e300, "kind": "fast", "base": "allocated"}',
        '{"breach": "KEY", "held": 1e999}',
        '{"breach": "KEY", "held": NaN}',
        '{"breach": "KEY", "held": 1e300}',
    ],
)
@pytest.mark.usefixtures("traced")
def test_foreign_lines_do_no_harm(line: str, tmp_path: Path) -> None:
    file = tmp_path / "predictions.jsonl"
    own = _predictor()
    key = own.workload(_candidate()).key
    file.write_text(line.replace("KEY", key), encoding="latin-1")
    read = _predictor(cache_path=file)
    assert read.predict(_candidate()) == own.predict(_candidate())


def test_two_threads_trace_a_shape_once(traced: list[Workload]) -> None:
    predictor = _predictor()
    threads = [threading.Thread(target=predictor.predict, args=(_candidate(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(traced) == 1


def test_an_under_estimate_raises_the_margin_at_once(traced: list[Workload], tmp_path: Path) -> None:
    del traced
    file = tmp_path / "predictions.jsonl"
    predictor = _predictor(cache_path=file, cap_bytes=BASELINE + 500 * MB)
    predicted = predictor.predict(_candidate())
    assert predicted.device == BASELINE + 464 * MB
    measured = MemoryFigures(allocated=400 * MB, device=BASELINE + 480 * MB, meter="process private bytes")
    predictor.calibrate(predicted, measured)
    assert predictor.predict(_candidate()).device == measured.device
    assert _predictor(cache_path=file, cap_bytes=BASELINE + 500 * MB).predict(_candidate()).device == measured.device
    fast = _predictor(cache_path=file).predict(_candidate())
    assert fast.device == BASELINE + 800 * MB, "what the tight heap teaches says nothing of the fast one"


def test_margins_follow_the_quantile_once_there_are_enough_pairs() -> None:
    rule = rule_bytes("tight", 400 * MB)
    few = [0.2] * (ENOUGH_PAIRS - 1)
    assert margin_bytes("tight", 400 * MB, few) == rule
    assert margin_bytes("tight", 400 * MB, [*few, 0.7]) == pytest.approx(0.7 * rule, abs=1), "of 20 the highest"
    assert margin_bytes("tight", 400 * MB, [0.6] * 99 + [3.0]) == pytest.approx(0.6 * rule, abs=1)
    assert margin_bytes("tight", 400 * MB, [0.6] * 90 + [3.0] * 10) == 3 * rule
    assert margin_bytes("tight", 400 * MB, [0.01] * 50) == LEAST_FACTOR * rule


def test_bad_candidates_are_said_to_be_bad() -> None:
    predictor = _predictor()
    with pytest.raises(SpecError, match="learning_rate"):
        predictor.predict(replace(_candidate(), training={"batch_size": 3}))
    with pytest.raises(SpecError, match="sherl"):
        predictor.predict(_candidate("sherel"))
    with pytest.raises(SpecError, match="start_layer"):
        predictor.predict(replace(_candidate(), method={"name": "sherl", "start_layer": 0}))
