"""The runner's books, without Ray: who gets what, what becomes of it, and that no outcome is missed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import pytest

from autotune.outcome import EpochReport, MemoryFigures, Outcome, Status
from autotune.runner import desk as desk_module
from autotune.runner.desk import Assignment, Desk
from autotune.runner.shares import Machine
from autotune.runner.source import DONE, Done, Ended, Listener
from autotune.trial.request import Epoch, Finished, Rehearsed, Steps, TrialRequest
from autotune.trial.verdict import ANOTHER_TENANT

GB = 10**9
MACHINE = Machine(device="cpu", threads=1, budget=8 * GB)


def request_of(number: int, predicted: int | None = GB) -> TrialRequest:
    figures = None if predicted is None else MemoryFigures(allocated=1, device=predicted, meter="prediction")
    return TrialRequest(
        number=number, backbone_source="", prepared_dir="", output_dir="", memory_cap=8 * GB, predicted=figures
    )


def epoch(number: int) -> Epoch:
    return Epoch(EpochReport(epoch=number, train_loss=1.0, metrics={"accuracy": 0.5}, seconds=1.0))


class Source:
    """Gives out what it was made with; remembers what it is told."""

    def __init__(self, *requests: TrialRequest | None) -> None:
        self.requests = list(requests)
        self.outcomes: dict[int, Outcome] = {}
        self.stop_at: int | None = None

    def next(self) -> TrialRequest | Literal[Done.DONE] | None:
        return self.requests.pop(0) if self.requests else DONE

    def epoch(self, number: int, report: EpochReport) -> bool:
        del number
        return report.epoch == self.stop_at

    def finished(self, number: int, outcome: Outcome) -> None:
        assert number not in self.outcomes, "told twice"
        self.outcomes[number] = outcome


class Stops:
    """Collects requests to stop, as a place would get them."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Status]] = []

    def __call__(self, reason: str, status: Status) -> None:
        self.asked.append((reason, status))


def opened(source: Source, places: int = 2, **settings: Any) -> Desk:
    desk = Desk(source, Listener(), MACHINE, **settings)
    desk.open(places)
    return desk


COMPLETE = Finished(Outcome(status=Status.COMPLETE, metric=0.5))


def test_trials_are_given_out_one_a_place_until_all_are_done() -> None:
    source = Source(request_of(0), request_of(1), request_of(2))
    desk = opened(source)
    assert isinstance(desk.give("a"), Assignment)
    assert isinstance(desk.give("b"), Assignment)
    assert desk.give("c") is None
    desk.news("a", [COMPLETE], None)
    third = desk.give("c")
    assert isinstance(third, Assignment)
    assert third.request.number == 2
    desk.news("b", [COMPLETE], None)
    desk.news("c", [COMPLETE], None)
    assert desk.give("d") is DONE
    assert [outcome.status for outcome in source.outcomes.values()] == [Status.COMPLETE] * 3
    assert desk.ended is Ended.DONE


def test_nothing_now_is_asked_for_again() -> None:
    desk = opened(Source(request_of(0), None, request_of(1)))
    assert isinstance(desk.give("a"), Assignment)
    assert desk.give("b") is None
    assert isinstance(desk.give("b"), Assignment)


def test_a_trial_that_fills_the_budget_runs_alone() -> None:
    source = Source(request_of(0, predicted=7 * GB), request_of(1))
    desk = opened(source)
    first = desk.give("a")
    assert isinstance(first, Assignment)
    assert first.share == 1.0
    assert desk.give("b") is None
    assert len(source.requests) == 1  # not even drawn: drawn later it knows more


def test_more_than_the_share_is_tried_again_alone() -> None:
    source = Source(request_of(0, predicted=3 * GB), request_of(1))
    desk = opened(source)
    first = desk.give("a")
    assert isinstance(first, Assignment)
    assert (first.share, first.request.memory_cap) == (0.5, 4 * GB)
    desk.news("a", [Finished(Outcome(status=Status.OVER_CAP, reason="4.1 GB"))], None)
    assert source.outcomes == {}
    again = desk.give("b")
    assert isinstance(again, Assignment)
    assert (again.request.number, again.share, again.request.memory_cap) == (0, 1.0, 8 * GB)
    over = Outcome(status=Status.OVER_CAP, reason="8.1 GB")
    desk.news("b", [Finished(over)], None)
    assert source.outcomes == {0: over}


def test_what_another_tenant_ended_is_tried_once_more_when_all_else_is_done() -> None:
    source = Source(request_of(0, 8 * GB), request_of(1, 8 * GB))
    desk = opened(source, places=1)
    ended = Finished(Outcome(status=Status.OUT_OF_MEMORY, details={ANOTHER_TENANT: True}))
    first = desk.give("a")
    assert isinstance(first, Assignment)
    desk.news("a", [ended], None)
    second = desk.give("b")
    assert isinstance(second, Assignment)
    assert second.request.number == 1, "the tenant gets time to go"
    desk.news("b", [COMPLETE], None)
    third = desk.give("c")
    assert isinstance(third, Assignment)
    assert third.request.number == 0
    assert 0 not in source.outcomes
    desk.news("c", [ended], None)
    assert source.outcomes[0].status is Status.OUT_OF_MEMORY, "once is enough"
    assert desk.give("d") is DONE


def test_more_than_the_share_of_a_large_budget_is_tried_again_with_the_whole_cap() -> None:
    source = Source(request_of(0, GB))
    desk = Desk(source, Listener(), replace(MACHINE, budget=32 * GB))
    desk.open(4)
    first = desk.give("a")
    assert isinstance(first, Assignment)
    assert (first.share, first.request.memory_cap) == (0.25, 8 * GB), "an equal part, which is its whole cap here"
    desk.news("a", [Finished(Outcome(status=Status.OVER_CAP))], None)
    assert source.outcomes[0].status is Status.OVER_CAP, "more than its cap it will never get"
    source = Source(request_of(0, GB))
    desk = Desk(source, Listener(), replace(MACHINE, budget=16 * GB))
    desk.open(8)
    first = desk.give("a")
    assert isinstance(first, Assignment)
    assert (first.share, first.request.memory_cap) == (0.125, 2 * GB)
    desk.news("a", [Finished(Outcome(status=Status.OVER_CAP))], None)
    again = desk.give("b")
    assert isinstance(again, Assignment)
    assert (again.share, again.request.memory_cap) == (0.5, 8 * GB)


def test_the_last_trial_may_have_to_run_again_before_all_is_done() -> None:
    source = Source(request_of(0, predicted=3 * GB))
    desk = opened(source)
    desk.give("a")
    assert desk.give("b") is None
    desk.news("a", [Finished(Outcome(status=Status.OUT_OF_MEMORY))], None)
    assert isinstance(desk.give("b"), Assignment)


def test_what_is_due_once_more_after_the_last_trial_is_run() -> None:
    """The source has no more while the last trial runs; that ends for want of memory, and is due with a cheaper plan."""
    source = Source(request_of(0))
    desk = Desk(source, Listener(), replace(MACHINE, budget=32 * GB))
    desk.open(4)
    desk.give("a")
    assert desk.give("b") is None
    over = Outcome(status=Status.OVER_CAP)

    def finished(number: int, outcome: Outcome) -> None:
        source.outcomes[number] = outcome
        if outcome is over:
            source.requests.append(request_of(1))

    source.finished = finished  # type: ignore[method-assign]
    desk.news("a", [Finished(over)], None)
    again = desk.give("b")
    assert isinstance(again, Assignment)
    assert again.request.number == 1
    desk.news("b", [COMPLETE], None)
    assert desk.give("a") is DONE


def test_the_source_stops_a_trial_early() -> None:
    source = Source(request_of(0))
    source.stop_at = 2
    desk = opened(source)
    desk.give("a")
    stops = Stops()
    desk.started("a", stops)
    desk.news("a", [epoch(1)], None)
    assert stops.asked == []
    desk.news("a", [epoch(2)], None)
    assert stops.asked == [("Trial 0 was stopped early after epoch 2.", Status.STOPPED)]


def test_a_lost_place_gives_the_last_known_outcome() -> None:
    source = Source(request_of(0))
    desk = opened(source)
    desk.give("a")
    peak = MemoryFigures(allocated=1, device=2, meter="nvml")
    report = epoch(3).report
    desk.news("a", [], Outcome(status=Status.INTERRUPTED, epochs=(report,), peak=peak, seconds=9.0))
    desk.lost("a", Status.INTERRUPTED, "the worker died.")
    outcome = source.outcomes[0]
    assert outcome.reason == "Trial 0: the worker died. Its last epoch was 3."
    assert (outcome.peak, outcome.seconds, outcome.epochs) == (peak, 9.0, (report,))
    desk.lost("a", Status.INTERRUPTED, "again")
    desk.news("a", [COMPLETE], None)  # a late word of a place that was given up
    assert len(source.outcomes) == 1


def test_at_the_deadline_running_trials_are_asked_to_end_and_none_starts() -> None:
    source = Source(request_of(0), request_of(1))
    desk = opened(source, deadline=time.monotonic() + 1.0)
    desk.give("a")
    stops = Stops()
    desk.started("a", stops)
    time.sleep(1.05)
    assert desk.give("b") is DONE
    assert stops.asked == [("Trial 0 was interrupted: the time budget is used up.", Status.INTERRUPTED)]
    assert not desk.cut_off
    desk.news("a", [Finished(Outcome(status=Status.INTERRUPTED))], None)
    assert desk.cut_off
    assert desk.ended is Ended.DEADLINE
    assert set(source.outcomes) == {0}


def test_who_does_not_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk_module, "END_SECONDS", 1.0)
    desk = opened(Source(request_of(0)))
    desk.give("a")
    desk.started("a", Stops())
    desk.stop("you interrupted the study", Ended.INTERRUPTED)
    assert not desk.cut_off
    time.sleep(1.05)
    assert desk.cut_off


def test_a_trial_that_has_no_place_yet_is_interrupted_too() -> None:
    source = Source(request_of(0))
    desk = opened(source)
    desk.give("a")
    desk.stop("you interrupted the study", Ended.INTERRUPTED)
    assert desk.cut_off  # nobody to wait for
    desk.lose_all(Status.INTERRUPTED, "interrupted.")
    assert source.outcomes[0].status is Status.INTERRUPTED


def test_a_second_run_that_never_came_is_interrupted() -> None:
    source = Source(request_of(0, predicted=3 * GB))
    desk = opened(source)
    desk.give("a")
    desk.news("a", [Finished(Outcome(status=Status.OVER_CAP))], None)
    desk.stop("you interrupted the study", Ended.INTERRUPTED)
    desk.lose_all(Status.INTERRUPTED, "interrupted.")
    assert source.outcomes[0].status is Status.INTERRUPTED


def test_over_its_share_while_all_is_ending_is_no_verdict() -> None:
    source = Source(request_of(0, predicted=3 * GB))
    desk = opened(source)
    desk.give("a")
    desk.stop("you interrupted the study", Ended.INTERRUPTED)
    desk.news("a", [Finished(Outcome(status=Status.OVER_CAP))], None)
    assert source.outcomes[0].status is Status.INTERRUPTED


@pytest.mark.parametrize("where", ["next", "epoch", "finished", "on_epoch"])
def test_an_error_of_the_source_ends_the_run_and_misses_no_outcome(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source(request_of(0), request_of(1))
    listener = Listener()
    desk = Desk(source, listener, MACHINE)
    desk.open(2)
    desk.give("a")
    stops = Stops()
    desk.started("a", stops)

    def fail(*_: object) -> None:
        raise RuntimeError("the disk is full")

    monkeypatch.setattr(listener if where == "on_epoch" else source, where, fail)
    if where == "next":
        assert desk.give("b") is DONE
    desk.news("a", [epoch(1)], None)
    if where == "finished":
        desk.news("a", [COMPLETE], None)
    assert isinstance(desk.error, RuntimeError)
    assert desk.give("c") is DONE
    if where != "finished":
        assert stops.asked[-1][1] is Status.INTERRUPTED
        desk.lose_all(Status.INTERRUPTED, "interrupted.")
        assert set(source.outcomes) == {0}


def test_the_listener_hears_everything() -> None:
    heard: list[str] = []

    class Ears(Listener):
        def __getattribute__(self, name: str) -> Callable[..., None]:
            return lambda *_: heard.append(name)

    desk = Desk(Source(request_of(0)), Ears(), MACHINE)
    desk.open(1)
    desk.give("a")
    desk.started("a", Stops())
    figures = MemoryFigures(allocated=1, device=2, meter="nvml")
    desk.news("a", [Rehearsed(figures), Steps(1, 4, 5), epoch(1), COMPLETE], None)
    desk.stop("enough", Ended.INTERRUPTED)
    assert heard == ["on_ready", "on_started", "on_rehearsed", "on_steps", "on_epoch", "on_finished", "on_stopping"]


# ---- shares


@pytest.mark.parametrize(
    ("predicted", "places", "share"),
    [
        (GB, 2, 0.5),  # a smaller share would bring no third trial in
        (GB, 8, 0.125),
        (GB + 1, 8, 0.25),
        (4 * GB, 4, 0.5),
        (4 * GB + 1, 4, 1.0),
        (9 * GB, 4, 1.0),
        (None, 8, 1.0),  # packing needs evidence
        (GB, 3, 0.25),
        (GB, 1, 1.0),
        (GB, 100, 0.125),
    ],
)
def test_a_share_is_the_smallest_class_that_holds_the_prediction(
    predicted: int | None, places: int, share: float
) -> None:
    assert MACHINE.share(request_of(0, predicted), places) == share


def test_shares_are_asked_of_ray_in_its_own_words() -> None:
    assert MACHINE.resources(0.5) == {"CPU": 1.0, "memory": 4e9}
    gpu = replace(MACHINE, device="cuda", threads=4)
    assert gpu.resources(0.25) == {"CPU": 4.0, "GPU": 0.25}
    assert (gpu.budgets({"GPU": 2.0}), MACHINE.budgets({"memory": 17e9})) == (2, 2)


def test_places_follow_cores_devices_and_the_users_limit() -> None:
    assert MACHINE.places(4) == 4
    assert replace(MACHINE, threads=3).places(4) == 1
    assert replace(MACHINE, max_concurrent=2).places(16) == 2
    assert replace(MACHINE, device="cuda").places(64, devices=1) == 8
    assert replace(MACHINE, threads=8).places(4) == 1
