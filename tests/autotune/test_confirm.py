"""The confirmation of a front: which trainings are due, in which order, what becomes of their endings, and when time is kept for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.config import StudyConfig
from autotune.outcome import Candidate, Confirmation, EpochReport, MemoryFigures, Outcome, Status, TrialRecord
from autotune.report import points_from, select
from autotune.runner import DONE, Ended, Machine, run_trials
from autotune.search import EarlyStopping, StudyRecord
from autotune.study.confirm import Reserve, confirm_front, confirmations_due, other_seeds
from autotune.study.folder import StudyFolder
from autotune.study.source import RunnerListener, StudySource, TrialSettings
from autotune.trial.ancestry import Ancestor
from autotune.trial.request import TrialRequest
from tests.autotune._records import trial
from tests.autotune.search_samples import candidate, complete
from tests.autotune.stub_trials import STUB

GB = 10**9
MACHINE = Machine(device="cpu", threads=1, budget=GB, max_concurrent=2)


class Heard:
    """A listener that keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[tuple[str, Any]] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *arguments, **named: self.said.append((name, (*arguments, *named.values())))

    def of(self, name: str) -> list[Any]:
        return [arguments for kind, arguments in self.said if kind == name]


class Fits:
    """Predictions; ``device`` by the batch size that a plan gives, else by the candidate's."""

    cap = GB

    def __init__(self, devices: dict[str, int] | None = None) -> None:
        self._devices = devices or {}

    def figures(self, one: Candidate) -> MemoryFigures:
        device = self._devices.get("plan" if one.plan else "own", 10**8)
        return MemoryFigures(allocated=1, device=device, meter="prediction")

    def cheaper(self, one: Candidate) -> Candidate | None:
        return replace(one, plan={"accumulation": 2}) if "plan" in self._devices and not one.plan else None


@pytest.fixture
def settings(tmp_path: Path) -> TrialSettings:
    folder = StudyFolder(tmp_path / "study")
    return TrialSettings(
        backbone_source="",
        folder=folder,
        memory_cap=GB,
        metric="accuracy",
        device="cpu",
        threads=1,
        driver=Ancestor.of(),
    )


def front_in(record: StudyRecord, *metrics: float, device: int = 2000) -> None:
    """A front of complete trials: each further one takes more memory and reaches more."""
    for number, metric in enumerate(metrics):
        record.start(candidate(1e-3 * (number + 1)), seed=0)
        peak = MemoryFigures(allocated=1000 * (number + 1), device=device, meter="test")
        record.finish(number, complete(metric, peak=peak, seconds=10.0))


def go(record: StudyRecord, settings: TrialSettings, run: Callable[..., Ended], **changes: Any) -> tuple[Ended, Heard]:
    heard = Heard()
    named = {"deadline": None, "fits": Fits(), **changes}
    config = StudyConfig(memory_cap=GB, model="m", confirm=named.pop("seeds", 2), seed=0)
    fits = named.pop("fits")
    ended = confirm_front(config, record, fits, settings, MACHINE, heard, run=run, **named)  # type: ignore[arg-type]  # stand-ins
    return ended, heard


def runner(
    outcomes: Callable[[TrialRequest], Outcome], given: list[TrialRequest], *, most: int = 99, ends: Ended = Ended.DONE
) -> Callable[..., Ended]:
    """Runs requests by a function, one after another; after ``most`` it ends as it is told."""

    def run(source: Any, _machine: Machine, **_: Any) -> Ended:
        while (request := source.next()) is not DONE:
            if len(given) >= most:
                source.finished(request.number, Outcome(status=Status.INTERRUPTED, reason="you interrupted the study"))
                return ends
            given.append(request)
            source.started(request.number)
            source.epoch(request.number, EpochReport(epoch=1, train_loss=1.0, metrics={"accuracy": 0.5}, seconds=1.0))
            request.checkpoint_dir.mkdir(parents=True)
            source.finished(request.number, outcomes(request))
        return ends

    return run


def seeds_of(given: list[TrialRequest]) -> list[tuple[str, int]]:
    return [(Path(one.output_dir).parts[-3], one.training["seed"]) for one in given]


def by_seed(metrics: dict[tuple[str, int], float]) -> Callable[[TrialRequest], Outcome]:
    return lambda request: complete(metrics[seeds_of([request])[0]])


@given(st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1), st.integers(0, 6))
def test_other_seeds_are_others_the_same_each_time_and_go_on_where_fewer_ended(
    study: int, own: int, number: int
) -> None:
    seeds = other_seeds(study, own, number)
    assert len(set(seeds)) == number
    assert own not in seeds
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert other_seeds(study, own, number + 1)[:number] == seeds


def test_round_by_round_over_the_members_and_never_their_own_seed() -> None:
    rows = [
        replace(trial(number, 0.7 + number / 100, 100 * (number + 1)), seed=seed) for number, seed in ((0, 0), (1, 6))
    ]
    due = confirmations_due([*rows, trial(2, 0.1, 900)], "accuracy", study_seed=5, seeds=3)
    assert [(one.member.number, one.seed) for one in due] == [(0, 6), (1, 7), (0, 7), (1, 8), (0, 8), (1, 9)]


def test_what_ended_is_not_due_again_what_was_interrupted_is() -> None:
    ends = {1: Status.COMPLETE, 2: Status.INTERRUPTED, 3: Status.DIVERGED}
    others = tuple(Confirmation(seed=seed, outcome=Outcome(status=status)) for seed, status in ends.items())
    row = replace(trial(0), confirmations=others)
    assert [one.seed for one in confirmations_due([row], "accuracy", study_seed=0, seeds=4)] == [2, 4]
    assert confirmations_due([row], "accuracy", study_seed=0, seeds=0) == []


def test_a_lucky_seed_does_not_win_from_the_runner_to_the_choice(record: StudyRecord, settings: TrialSettings) -> None:
    front_in(record, 0.80, 0.95)
    given: list[TrialRequest] = []
    steady, lucky = "00000", "00001"
    metrics = {(steady, 1): 0.79, (steady, 2): 0.81, (lucky, 1): 0.70, (lucky, 2): 0.74}
    ended, heard = go(record, settings, runner(by_seed(metrics), given))
    assert ended is Ended.DONE
    assert seeds_of(given) == [(steady, 1), (lucky, 1), (steady, 2), (lucky, 2)]
    assert len({request.output_dir for request in given}) == 4
    assert len({request.number for request in given}) == 4, "a member may be trained on two seeds at a time"
    assert not any(request.checkpoint_dir.exists() for request in given), "weights of confirmations are not kept"
    assert {request.memory_cap for request in given} == {GB}
    points = points_from(record.trials(), metric_name="accuracy")
    assert [point.confirmed for point in points] == [(0.79, 0.81), (0.70, 0.74)]
    assert select(points).point.number == 0
    assert len(heard.of("confirmation_finished")) == 4
    again: list[TrialRequest] = []
    assert go(record, settings, runner(by_seed(metrics), again))[0] is Ended.DONE
    assert again == [], "nothing is trained twice"
    go(record, settings, runner(lambda _: complete(0.8), again), seeds=3)
    assert seeds_of(again) == [(steady, 3), (lucky, 3)]


def test_an_interruption_is_taken_up_where_it_stood(record: StudyRecord, settings: TrialSettings) -> None:
    front_in(record, 0.80, 0.95)
    first: list[TrialRequest] = []
    ended, _ = go(record, settings, runner(lambda _: complete(0.8), first, most=3, ends=Ended.INTERRUPTED))
    assert ended is Ended.INTERRUPTED
    points = points_from(record.trials())
    assert [len(point.confirmed) for point in points] == [2, 1], "nearly alike"
    second: list[TrialRequest] = []
    go(record, settings, runner(lambda _: complete(0.9), second))
    assert seeds_of(second) == [("00001", 2)]


def test_a_bad_ending_is_kept_and_named_by_its_trial_and_seed(record: StudyRecord, settings: TrialSettings) -> None:
    front_in(record, 0.80)
    given: list[TrialRequest] = []

    def outcomes(request: TrialRequest) -> Outcome:
        if request.training["seed"] == 1:
            return complete(0.7, checkpoint="/somewhere")
        return Outcome(status=Status.DIVERGED, reason=f"Trial {request.number}: the loss is nan.")

    go(record, settings, runner(outcomes, given))
    good, bad = record.trial(0).confirmations
    assert (bad.outcome.status, bad.outcome.reason) == (Status.DIVERGED, "Trial 0 on seed 2: the loss is nan.")
    assert good.outcome.checkpoint is None
    (point,) = points_from(record.trials())
    assert (point.confirmed, point.confirmed_of) == ((0.7,), 2)


def test_a_member_runs_as_it_ran_with_a_cheaper_plan_or_is_said_to_fit_no_more(
    record: StudyRecord, settings: TrialSettings
) -> None:
    front_in(record, 0.80, device=2 * GB)  # measured under a cap that was higher then
    given: list[TrialRequest] = []
    run = runner(lambda _: complete(0.8), given)
    _, heard = go(record, settings, run, fits=Fits({"own": 2 * GB}))
    assert given == []
    assert len(heard.of("warning")) == 1, "once, and not for each seed"
    assert "cannot be confirmed under the cap of 1.00 GB" in heard.of("warning")[0][0]
    go(record, settings, run, fits=Fits({"own": 2 * GB, "plan": GB // 2}), seeds=1)
    assert [request.training["accumulation"] for request in given] == [2]


def test_what_ran_within_the_cap_runs_again_whatever_is_predicted_now(
    record: StudyRecord, settings: TrialSettings
) -> None:
    front_in(record, 0.80, device=GB // 2)
    given: list[TrialRequest] = []
    go(record, settings, runner(lambda _: complete(0.8), given), fits=Fits({"own": 2 * GB}), seeds=1)
    assert len(given) == 1


def test_after_the_deadline_nothing_starts_and_the_way_is_said(record: StudyRecord, settings: TrialSettings) -> None:
    front_in(record, 0.80)

    def run(*_: Any, **__: Any) -> Ended:
        raise AssertionError("Ray is not started for nothing")

    ended, heard = go(record, settings, run, deadline=time.monotonic() - 1)
    assert ended is Ended.DEADLINE
    assert "autotune confirm" in heard.of("note")[0][0]
    assert go(record, settings, run, seeds=0)[0] is Ended.DONE


def reserved(records: list[TrialRecord], *, budget: float, left: float, seeds: int = 2, concurrent: int = 1) -> bool:
    """Whether only the time for confirming is left of a budget, ``left`` seconds before its end."""
    config = StudyConfig(memory_cap=GB, model="m", confirm=seeds)
    deadline = time.monotonic() + left
    return Reserve(config, "accuracy", begin=deadline - budget, deadline=deadline).reached(lambda: records, concurrent)


def test_time_is_kept_for_confirming_the_front_so_far() -> None:
    front = [
        trial(0, 0.7, 100),
        trial(1, 0.8, 200),
        trial(2, 0.1, 900),
    ]  # two members of 12.5 s each, so 50 s on two seeds
    assert not reserved(front, budget=1000, left=60)
    assert reserved(front, budget=1000, left=40)
    assert not reserved(front, budget=1000, left=40, concurrent=2)
    assert not reserved(front, budget=60, left=40), "never more than half of the budget"
    assert reserved(front, budget=60, left=29)
    assert not reserved(front, budget=1000, left=1, seeds=0)
    assert not reserved([], budget=1000, left=1)
    config = StudyConfig(memory_cap=GB, model="m")
    assert not Reserve(config, "accuracy", begin=0.0, deadline=None).reached(front, 1)


def test_the_search_proposes_nothing_in_that_time_and_says_so(record: StudyRecord, settings: TrialSettings) -> None:
    class Proposing:
        def next(self) -> None:
            raise AssertionError("what is proposed enters the record")

    heard = Heard()
    asked: list[int] = []
    source = StudySource(
        record=record,
        proposer=Proposing(),  # type: ignore[arg-type]  # stand-ins
        fits=Fits(),  # type: ignore[arg-type]  # as above
        stopping=EarlyStopping(),
        settings=settings,
        tracker=None,  # type: ignore[arg-type]  # nothing is tracked
        listener=heard,  # type: ignore[arg-type]  # as above
        reserved=lambda _records, concurrent: asked.append(concurrent) is None,
    )
    RunnerListener(source, heard).on_ready(3)  # type: ignore[arg-type]  # as above
    assert source.next() is DONE
    assert asked == [3]
    assert "autotune resume" in heard.of("note")[-1][0]


@pytest.mark.slow
def test_confirmations_run_through_ray_under_the_cap(record: StudyRecord, settings: TrialSettings) -> None:
    front_in(record, 0.80, 0.95)
    ended, heard = go(record, settings, _stubs, seeds=2)
    assert ended is Ended.DONE
    for row in record.trials():
        assert [one.seed for one in row.confirmations] == [1, 2]
        assert [one.outcome.metric for one in row.confirmations] == [0.5, 0.5]
    assert len(heard.of("confirmation_epoch")) == 8
    assert len(heard.of("confirmation_started")) == 4


def _stubs(source: Any, machine: Machine, **named: Any) -> Ended:
    return run_trials(source, machine, **{**named, "target": STUB, "preload": ()})
