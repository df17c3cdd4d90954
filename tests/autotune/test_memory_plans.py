"""Memory plans: what they may change, which one is taken, and the one retry after a misprediction."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from autotune.memory.plans import plans_for
from autotune.outcome import Candidate, MemoryFigures, Outcome, Status
from autotune.search import Proposer, StudyRecord
from autotune.search.rows import identity
from autotune.space import SearchSpace, shape_key
from autotune.study.fit_check import FitCheck
from sherl.methods import method_from_dict

BYTES_A_ROW = 100


def candidate(method: str = "full", batch_size: int = 8, **others: object) -> Candidate:
    params = others.pop("params", {"method": method})
    training = {"learning_rate": 1e-3, "batch_size": batch_size, **others}
    assert isinstance(params, dict)
    return Candidate(method=method_from_dict(method).to_dict(), training=training, params=params)


class ByRows:
    """Predicts 100 bytes a row of a micro-batch, half of that with checkpointing, and for a row of evaluation as much as
    ``written`` says; counts its calls. A finished trial that took more than predicted makes all dearer by as much."""

    def __init__(self, written: int = 0) -> None:
        self.calls = 0
        self.written = written
        self.margin = 50

    def predict(self, asked: Candidate) -> MemoryFigures:
        assert asked.plan == {}, "the predictor is asked for what is trained"
        self.calls += 1
        rows = asked.training["batch_size"] // asked.training.get("accumulation", 1)
        held = rows * BYTES_A_ROW // (2 if asked.method.get("activation_checkpointing") else 1)
        held = max(held, (asked.training.get("eval_batch_size") or rows) * self.written)
        return MemoryFigures(allocated=held, device=held + self.margin, meter="prediction")

    def calibrate(self, predicted: MemoryFigures, measured: MemoryFigures) -> None:
        self.margin += measured.device - predicted.device

    def learn_breach(self, candidate: Candidate, held_bytes: int, *, refused_by_cap: bool = True) -> None:
        raise AssertionError("no trial runs here")


# ---- what a plan is ---------------------------------------------------------------------------------------------


def test_plans_go_from_what_was_asked_to_one_row_at_a_time() -> None:
    assert [one.plan for one in plans_for(candidate(batch_size=4))] == [
        {},
        {"activation_checkpointing": True},
        {"accumulation": 2},
        {"activation_checkpointing": True, "accumulation": 2},
        {"accumulation": 4},
        {"activation_checkpointing": True, "accumulation": 4},
    ]


def test_what_the_space_varies_or_the_method_lacks_is_left_alone() -> None:
    drawn = candidate(batch_size=2, params={"method": "full", "full.activation_checkpointing": False})
    assert [one.plan for one in plans_for(drawn)] == [{}, {"accumulation": 2}]
    assert [one.plan for one in plans_for(candidate("linear_probe", batch_size=2))] == [{}, {"accumulation": 2}]
    varied = candidate(batch_size=8, accumulation=2, params={"accumulation": 2})
    assert [one.plan for one in plans_for(varied)] == [{}, {"activation_checkpointing": True}]


def test_an_accumulation_that_was_asked_for_is_where_plans_begin() -> None:
    plans = [one.plan for one in plans_for(candidate("linear_probe", batch_size=16, accumulation=4))]
    assert plans == [{}, {"accumulation": 8}, {"accumulation": 16}]


def test_where_text_is_written_smaller_evaluations_come_first() -> None:
    asked = candidate("linear_probe", batch_size=32)
    plans = [one.plan for one in plans_for(asked, writes_text=True)]
    assert plans[:5] == [
        {}, {"eval_batch_size": 8}, {"eval_batch_size": 2}, {"accumulation": 2}, {"accumulation": 2, "eval_batch_size": 4},
    ]  # fmt: skip
    assert plans[-1] == {"accumulation": 32}, "a single row has no smaller part"
    given = candidate("linear_probe", batch_size=2, eval_batch_size=64)
    assert [one.plan for one in plans_for(given, writes_text=True)] == [{}, {"accumulation": 2}], "as it was asked for"


@pytest.mark.parametrize(
    ("cap", "plan"),
    [
        (3250, {}),
        (3249, {"eval_batch_size": 2}),
        (849, {"activation_checkpointing": True, "eval_batch_size": 1}),
    ],
)
def test_an_evaluation_that_sets_the_peak_is_cut_before_training_is(cap: int, plan: dict[str, object]) -> None:
    fits = FitCheck(ByRows(written=400), cap, writes_text=True)
    asked = candidate()
    assert fits(asked) is None
    planned = fits.planned(asked)
    assert planned.plan == plan
    assert fits.figures(planned).device <= cap


def test_a_finished_trial_reaches_the_predictions_that_follow() -> None:
    fits = FitCheck(ByRows(), 900)
    predicted = fits.figures(fits.planned(candidate()))
    assert predicted.device == 850
    fits.calibrate(predicted, MemoryFigures(allocated=800, device=920, meter="measured"))
    planned = fits.planned(candidate())
    assert planned.plan == {"activation_checkpointing": True}
    assert fits.figures(planned).device == 520


def test_a_plan_keeps_identity_shape_and_batch_size() -> None:
    asked = candidate(batch_size=8)
    for planned in plans_for(asked):
        assert identity(planned) == identity(asked)
        assert shape_key(planned) == shape_key(asked)
        assert planned.realised.training["batch_size"] == 8
        assert planned.realised.plan == {}
    last = list(plans_for(asked))[-1]
    assert last.realised.method["activation_checkpointing"] is True
    assert last.realised.training["accumulation"] == 8
    assert last.label == "full b8 +ckpt +accumulation(8)"
    assert asked.realised == asked


# ---- which one is taken -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cap", "plan"),
    [
        (850, {}),
        (849, {"activation_checkpointing": True}),
        (449, {"activation_checkpointing": True, "accumulation": 2}),
        (249, {"activation_checkpointing": True, "accumulation": 4}),
        (100, {"activation_checkpointing": True, "accumulation": 8}),
    ],
)
def test_the_fastest_plan_that_fits_is_taken(cap: int, plan: dict[str, object]) -> None:
    fits = FitCheck(ByRows(), cap)
    assert fits(candidate()) is None
    planned = fits.planned(candidate())
    assert planned.plan == plan
    assert fits.figures(planned).device <= cap
    assert fits.planned(candidate(learning_rate=7e-3)).plan == plan, "a plan belongs to the shape"


def test_what_fits_with_no_plan_is_refused_with_the_least_it_would_take() -> None:
    predictor = ByRows()
    fits = FitCheck(predictor, 99)
    refusal = fits(candidate())
    assert refusal is not None
    assert refusal.predicted is not None
    assert refusal.predicted.device == 100
    assert "99 B" in refusal.reason
    assert "100 B" in refusal.reason
    assert predictor.calls == 2, "the first plan and the last one tell it"
    assert fits.planned(candidate()).plan == {}
    assert len(fits.refused) == 1


def test_a_cheaper_plan_takes_less_and_fits() -> None:
    fits = FitCheck(ByRows(), 1000)
    asked = candidate(batch_size=4)
    first = fits.cheaper(asked)
    assert first is not None
    assert first.plan == {"activation_checkpointing": True}
    second = fits.cheaper(first)
    # accumulation alone would take as much as checkpointing alone does
    assert second is not None
    assert second.plan == {"activation_checkpointing": True, "accumulation": 2}
    last = list(plans_for(asked))[-1]
    assert fits.cheaper(last) is None


# ---- the retry --------------------------------------------------------------------------------------------------


@pytest.fixture
def record(tmp_path: Path) -> Iterator[StudyRecord]:
    with StudyRecord.create(tmp_path / "study.db", "demo", settings={}) as made:
        yield made


@pytest.fixture
def space(tmp_path: Path) -> SearchSpace:
    file = tmp_path / "space.yaml"
    file.write_text("training: {batch_size: 8, epochs: 1}\nmethods: {full: {learning_rate: {choice: [1e-4, 1e-5]}}}\n")
    return SearchSpace.load(file, depth=6, width=384)


def proposer_of(record: StudyRecord, space: SearchSpace, fits: FitCheck, total: int) -> Proposer:
    return Proposer(record, space, fits, total=total, seed=0, plan=fits.planned, cheaper=fits.cheaper)


def end(record: StudyRecord, number: int, status: Status) -> None:
    peak = MemoryFigures(allocated=1, device=1, meter="test")
    record.finish(number, Outcome(status=status, metric=0.5 if status is Status.COMPLETE else None, peak=peak))


@pytest.mark.parametrize("status", [Status.OVER_CAP, Status.OUT_OF_MEMORY])
def test_a_misprediction_is_tried_once_more_with_the_next_plan_and_counts_once(
    record: StudyRecord, space: SearchSpace, status: Status
) -> None:
    proposer = proposer_of(record, space, FitCheck(ByRows(), 10_000), total=1)
    first = proposer.next()
    assert first is not None
    assert first.candidate.plan == {}
    assert proposer.next() is None, "while it runs nothing else is due"
    end(record, first.number, status)
    assert proposer.remaining == 1
    # a driver that was started anew decides the same
    again = proposer_of(record, space, FitCheck(ByRows(), 10_000), total=1).next()
    assert again is not None
    assert again.candidate.plan == {"activation_checkpointing": True}
    assert again.candidate.realised.training["batch_size"] == 8
    assert identity(again.candidate) == identity(first.candidate)
    end(record, again.number, status)
    assert proposer.remaining == 0, "one retry, then the failure counts"
    assert proposer.next() is None


def test_an_interrupted_retry_is_made_again(record: StudyRecord, space: SearchSpace) -> None:
    proposer = proposer_of(record, space, FitCheck(ByRows(), 10_000), total=1)
    for status in (Status.OVER_CAP, Status.INTERRUPTED, Status.COMPLETE):
        proposed = proposer.next()
        assert proposed is not None
        end(record, proposed.number, status)
    assert proposed.candidate.plan == {"activation_checkpointing": True}
    assert proposer.next() is None


def test_without_a_cheaper_plan_nothing_is_tried_again(record: StudyRecord, space: SearchSpace) -> None:
    proposer = proposer_of(record, space, FitCheck(ByRows(), 100), total=2)
    for _ in range(2):
        proposed = proposer.next()
        assert proposed is not None
        assert proposed.candidate.plan == {"activation_checkpointing": True, "accumulation": 8}
        end(record, proposed.number, Status.OUT_OF_MEMORY)
    assert proposer.next() is None
    assert len(record.trials()) == 2
