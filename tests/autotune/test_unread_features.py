"""What becomes of a trial that could not read what its prediction reckons with: nothing is learnt from its memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from autotune.outcome import Candidate, MemoryFigures, Outcome, Status
from autotune.search import StudyRecord
from autotune.study.source import StudySource, TrialSettings
from tests.autotune.search_samples import PEAK, candidate, complete
from tests.autotune.test_confirm import Heard, by_seed, front_in, go, runner, seeds_of, settings

__all__ = ["settings"]  # a fixture
UNREAD: dict[str, Any] = {"details": {"features": {"read": False, "why": "the disk is gone"}}}


class Fits:
    """Remembers what it is taught."""

    def __init__(self) -> None:
        self.taught: list[str] = []

    def figures(self, _: Candidate) -> MemoryFigures:
        return PEAK

    def calibrate(self, *_: MemoryFigures) -> None:
        self.taught.append("calibrate")

    def learn_breach(self, *_: Any, **__: Any) -> None:
        self.taught.append("breach")

    def cheaper(self, _: Candidate) -> None:
        return None

    def forget(self) -> None:
        self.taught.append("forget")


def ended(
    record: StudyRecord, settings: TrialSettings, outcome: Outcome, *, lost: bool = False
) -> tuple[Outcome, list[str], Heard]:
    """What stands in the record, what the predictions were taught, what was said."""
    heard, fits = Heard(), Fits()

    class Proposer:
        def next(self) -> tuple[int, Candidate, int]:
            return record.start(candidate(), seed=0), candidate(), 0

    source = StudySource(
        record=record,
        proposer=Proposer(),  # type: ignore[arg-type]  # a stand-in
        fits=fits,  # type: ignore[arg-type]  # a stand-in
        stopping=None,  # type: ignore[arg-type]  # no epoch is told
        settings=replace(settings, features_lost=lambda _: lost),
        tracker=Heard(),  # type: ignore[arg-type]  # hears too
        listener=heard,  # type: ignore[arg-type]  # a stand-in
    )
    request = source.next()
    source.finished(request.number, outcome)  # type: ignore[union-attr]  # it is no end
    kept = record.trials()[-1].outcome
    assert kept is not None
    return kept, fits.taught, heard


def test_a_trial_that_read_teaches(record: StudyRecord, settings: TrialSettings) -> None:
    assert ended(record, settings, complete())[1] == ["calibrate"]
    over = Outcome(status=Status.OVER_CAP, peak=PEAK, reason="too much")
    kept, taught, heard = ended(record, settings, over)
    assert (kept.status, taught, heard.of("warning")) == (Status.OVER_CAP, ["breach"], [])


@pytest.mark.parametrize("status", [Status.OVER_CAP, Status.OUT_OF_MEMORY])
def test_what_it_could_not_read_is_not_held_against_its_configuration(
    record: StudyRecord, settings: TrialSettings, status: Status
) -> None:
    outcome = Outcome(status=status, peak=PEAK, reason="It held 3 GB.", **UNREAD)
    kept, taught, heard = ended(record, settings, outcome)
    assert kept.status is Status.INTERRUPTED, "it is started again"
    assert kept.reason.endswith("without them: It held 3 GB.")
    assert taught == []
    assert heard.of("warning") == [("trial 0 computed hidden states that it was to read: the disk is gone",)]


def test_one_that_fits_all_the_same_counts_and_teaches_nothing(record: StudyRecord, settings: TrialSettings) -> None:
    kept, taught, _ = ended(record, settings, complete(**UNREAD))
    assert (kept.status, taught) == (Status.COMPLETE, [])


def test_predictions_are_made_anew_when_what_was_stored_is_gone(record: StudyRecord, settings: TrialSettings) -> None:
    _, taught, heard = ended(record, settings, complete(**UNREAD), lost=True)
    assert taught == ["forget"]
    assert "what was stored is gone" in heard.of("warning")[1][0]


def test_a_confirmation_without_what_it_was_to_read_is_due_again(record: StudyRecord, settings: TrialSettings) -> None:
    front_in(record, 0.8)
    over = Outcome(status=Status.OVER_CAP, peak=PEAK, reason="It held 3 GB.", **UNREAD)
    given: list[Any] = []
    go(record, settings, runner(lambda _: over, given), seeds=1)
    assert len(given) == 1
    (confirmation,) = record.trials()[0].confirmations
    assert confirmation.outcome.status is Status.INTERRUPTED
    again: list[Any] = []
    go(record, settings, runner(by_seed({("00000", 1): 0.8}), again), seeds=1)
    assert seeds_of(again) == [("00000", 1)]
