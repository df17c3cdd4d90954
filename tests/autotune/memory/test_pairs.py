"""Pairs of predicted and measured: which of them teach, beside which context, and what is written of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.memory import predict as predict_module
from autotune.memory.margin import ENOUGH_PAIRS, rule_bytes
from autotune.memory.nvml_meter import SOURCE_ASSUMED, SOURCE_PROCESS
from autotune.memory.pairs import Origin, Pair
from autotune.memory.predict import Predictor
from autotune.outcome import MemoryFigures
from tests.autotune.memory.test_predict import BASELINE, MB, TASK, _candidate, _predictor, traced
from tests.sherl.tiny import tiny_config

__all__ = ["traced"]  # a fixture

pytestmark = pytest.mark.usefixtures("traced")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "predictions.jsonl"


def on_gpu(file: Path | None, context: int, **changes: Any) -> Predictor:
    settings = {"device": "cuda", "device_name": "NVIDIA A100 80GB PCIe", "driver": "580.65.06", **changes}
    return _predictor(cache_path=file, context_bytes=context, **settings)


def predicted_on(gpu: Predictor) -> int:
    return gpu.predict(_candidate()).device


def finish(predictor: Predictor, device: int, *, reserved: int = 480 * MB, meter: str = SOURCE_PROCESS) -> None:
    """A trial of a shape that is predicted to reserve 480 MB held this much of the device."""
    measured = MemoryFigures(allocated=400 * MB, reserved=reserved, device=device, meter=meter)
    predictor.calibrate(predictor.predict(_candidate()), measured)


def test_pairs_go_on_teaching_when_another_context_is_measured(file: Path) -> None:
    before = on_gpu(file, 600 * MB)
    for _ in range(ENOUGH_PAIRS + 5):
        finish(before, (480 + 600 + 90) * MB)
    assert predicted_on(before) == 1170 * MB, "all that such a trial holds, whatever of it is the context"
    for context in (605, 640, 412):
        assert predicted_on(on_gpu(file, context * MB)) == pytest.approx(1170 * MB, abs=1)
    rule = rule_bytes("cuda", 480 * MB)
    assert predicted_on(on_gpu(file, 700 * MB)) == 480 * MB + 700 * MB + rule // 2, "a margin has a least"


def test_one_under_estimate_is_remembered_beside_any_context(file: Path) -> None:
    finish(on_gpu(file, 600 * MB), 1300 * MB)
    for context in (600, 605, 550):
        assert predicted_on(on_gpu(file, context * MB)) == 1300 * MB


def test_a_context_that_was_assumed_is_no_part_of_what_was_measured(file: Path) -> None:
    finish(on_gpu(file, 600 * MB), 1160 * MB, reserved=560 * MB, meter=SOURCE_ASSUMED)  # 80 MB more than predicted
    for context in (600, 412):
        assert predicted_on(on_gpu(file, context * MB)) == (480 + context + 80) * MB


def test_on_a_cpu_what_was_held_above_the_baseline_counts(file: Path) -> None:
    def on_cpu(**changes: Any) -> Predictor:
        return _predictor(cache_path=file, cap_bytes=900 * MB, **changes)

    first = on_cpu()
    predicted = first.predict(_candidate())
    first.calibrate(predicted, MemoryFigures(allocated=400 * MB, device=BASELINE + 490 * MB, meter="process"))
    assert first.predict(_candidate()).device == BASELINE + 490 * MB
    assert on_cpu(baseline_bytes=BASELINE + 7 * MB).predict(_candidate()).device == BASELINE + 497 * MB


@pytest.mark.parametrize(
    ("changes", "teaches"),
    [
        ({}, True),
        ({"device_name": "A100 40GB"}, True),
        ({"driver": "580.95.05"}, True),
        ({"driver": ""}, True),  # a plan for a GPU that is elsewhere
        ({"driver": "570.1"}, False),
        ({"device_name": "NVIDIA L4"}, False),
        ({"device": "cpu"}, False),
    ],
)
def test_what_one_gpu_teaches(changes: dict[str, Any], teaches: bool, file: Path) -> None:
    other = on_gpu(None, 600 * MB, **changes)
    untaught = predicted_on(other)
    finish(on_gpu(file, 600 * MB), 1300 * MB)
    assert (predicted_on(on_gpu(file, 600 * MB, **changes)) > untaught) is teaches


def test_another_torch_or_architecture_is_not_taught(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    finish(on_gpu(file, 600 * MB), 1300 * MB)
    rows = {"train_batch": _predictor()._train_batch, "eval_batch": _predictor()._eval_batch}
    other = Predictor(
        {**tiny_config("bert").to_dict(), "model_type": "resnet"},
        TASK,
        **rows,
        baseline_bytes=0,
        device="cuda",
        device_name="A100 40GB",
        context_bytes=600 * MB,
        cache_path=file,
    )
    assert predicted_on(other) == (480 + 600 + 64) * MB
    monkeypatch.setattr(predict_module, "version", lambda _: "2.99.0+cu140")
    assert predicted_on(on_gpu(file, 600 * MB)) == (480 + 600 + 64) * MB


def test_trials_of_other_threads_are_not_taught_on_a_cpu(file: Path) -> None:
    four = _predictor(cache_path=file, threads=4)
    finish(four, BASELINE + 900 * MB)
    untaught = _predictor().predict(_candidate()).device
    assert _predictor(cache_path=file, threads=4).predict(_candidate()).device == BASELINE + 900 * MB
    assert _predictor(cache_path=file, threads=1).predict(_candidate()).device == untaught
    assert _predictor(cache_path=file).predict(_candidate()).device == BASELINE + 900 * MB, (
        "any, where none is asked for"
    )


origins = st.builds(
    Origin, torch=st.text(), gpu=st.text(), driver=st.text(), model=st.text(), threads=st.integers(0, 2**40)
)
pairs = st.builds(
    Pair,
    kind=st.sampled_from(["fast", "tight", "cuda"]),
    base=st.integers(0, 2**50),
    beyond=st.integers(-(2**50), 2**50),
    assumed_context=st.none() | st.integers(0, 2**40),
    origin=origins,
)


@given(pairs)
def test_a_pair_is_read_as_it_was_written(pair: Pair) -> None:
    assert Pair.from_line(json.loads(json.dumps(pair.to_line()))) == pair


@given(origins)
def test_an_origin_teaches_itself(origin: Origin) -> None:
    assert origin.teaches(origin)


@pytest.mark.parametrize(
    "damage",
    [
        {"beyond": None},
        {"beyond": 1e300},
        {"beyond": "90"},
        {"reserved": -1},
        {"reserved": 2**61},
        {"assumed_context": "much"},
        {"kind": "warm"},
        {"kind": ["cuda"]},
        {"threads": "some"},
    ],
)
def test_a_damaged_pair_teaches_nothing(damage: dict[str, Any], file: Path) -> None:
    finish(on_gpu(file, 600 * MB), 1300 * MB)
    lines = [json.loads(line) for line in file.read_text().splitlines() if line]
    (pair,) = [line for line in lines if "pair" in line]
    file.write_text(json.dumps({**pair, **damage}) + "\n" + json.dumps({"pair": "x"}))
    assert predicted_on(on_gpu(file, 600 * MB)) == (480 + 600 + 64) * MB
    file.write_text(json.dumps(pair))
    assert predicted_on(on_gpu(file, 600 * MB)) == 1300 * MB
