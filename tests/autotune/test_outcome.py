"""Outcomes travel between processes and into the record as JSON, and come back equal."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.outcome import Candidate, EpochReport, InferenceFigures, MemoryFigures, Outcome, Status

real = st.floats(allow_nan=False, width=64)
figures = st.builds(
    MemoryFigures,
    allocated=st.integers(0, 2**50),
    device=st.integers(0, 2**50),
    meter=st.text(),
    reserved=st.none() | st.integers(0, 2**50),
)
epochs = st.builds(
    EpochReport,
    epoch=st.integers(1, 100),
    train_loss=real,
    metrics=st.dictionaries(st.text(), real, max_size=3),
    seconds=real,
)
outcomes = st.builds(
    Outcome,
    status=st.sampled_from(Status),
    reason=st.text(),
    metric=st.none() | real,
    metrics=st.dictionaries(st.text(), real, max_size=3),
    best_epoch=st.none() | st.integers(1, 100),
    epochs=st.lists(epochs, max_size=3).map(tuple),
    peak=st.none() | figures,
    predicted=st.none() | figures,
    seconds=real,
    step_seconds=st.none() | real,
    trainable_parameters=st.none() | st.integers(0, 2**40),
    checkpoint=st.none() | st.text(),
    memory_over_time=st.lists(st.tuples(real, st.integers(0, 2**50)), max_size=3).map(tuple),
    details=st.dictionaries(st.text(), st.integers() | st.text() | st.lists(st.booleans()), max_size=3),
)


@given(outcomes)
def test_an_outcome_comes_back_equal_through_json(outcome: Outcome) -> None:
    assert Outcome.from_dict(json.loads(json.dumps(outcome.to_dict()))) == outcome


def test_unknown_keys_and_statuses_are_refused() -> None:
    plain = Outcome(status=Status.COMPLETE).to_dict()
    with pytest.raises(TypeError, match="colour"):
        Outcome.from_dict({**plain, "colour": "red"})
    with pytest.raises(ValueError, match="fine"):
        Outcome.from_dict({**plain, "status": "fine"})


def test_only_complete_trials_may_stand_on_a_front() -> None:
    assert [status for status in Status if status.has_metric] == [Status.COMPLETE]


@pytest.mark.parametrize(
    ("method", "label"),
    [
        (
            {
                "name": "sherl",
                "reduction_factor": 8,
                "insertion": "multi",
                "start_layer": -2,
                "late_route": {"name": "lora", "rank": 4, "alpha": 16},
            },
            "sherl r=8 multi@-2 lora(4) b16",
        ),
        (
            {
                "name": "sherl",
                "reduction_factor": 8,
                "insertion": "single",
                "start_layer": -1,
                "late_route": {"name": "none"},
            },
            "sherl r=8 single@-1 b16",
        ),
        (
            {
                "name": "sherl",
                "reduction_factor": 8,
                "insertion": "single",
                "start_layer": -1,
                "late_route": {"name": "bitfit"},
            },
            "sherl r=8 single@-1 bitfit b16",
        ),
        ({"name": "lora", "rank": 8, "activation_checkpointing": True}, "lora rank=8 ckpt b16"),
        ({"name": "full"}, "full b16"),
    ],
)
def test_labels_say_what_differs(method: dict[str, object], label: str) -> None:
    assert Candidate(method=method, training={"batch_size": 16}, params={}).label == label


@given(figures, real, st.integers(1, 512))
def test_figures_of_inference_come_back_equal_through_json(peak: MemoryFigures, seconds: float, rows: int) -> None:
    measured = InferenceFigures(
        peak=peak, latency_seconds=seconds, rows_per_second=2.5, batch_rows=rows, threads=2, device="cpu"
    )
    assert InferenceFigures.from_dict(json.loads(json.dumps(asdict(measured)))) == measured
    with pytest.raises(TypeError, match="colour"):
        InferenceFigures.from_dict({**asdict(measured), "colour": "red"})
