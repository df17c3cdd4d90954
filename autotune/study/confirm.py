"""The last phase of a study: members of the front are trained again on other seeds, since a search's best was picked for being
high and one seed may be a lucky one."""

from __future__ import annotations

import re
import shutil
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count, islice
from typing import Literal

from autotune.config import StudyConfig
from autotune.outcome import Candidate, Confirmation, EpochReport, MemoryFigures, Outcome, Status, TrialRecord
from autotune.runner import DONE, Ended, Listener, Machine, run_trials
from autotune.runner.source import Done
from autotune.search import StudyRecord
from autotune.study.fit_check import FitCheck
from autotune.study.listener import StudyListener
from autotune.study.source import TrialSettings, front_of
from autotune.trial.fork_server import PRELOAD, Lender
from autotune.trial.request import TrialRequest
from autotune.units import count_words, format_bytes

RunTrials = Callable[..., Ended]


@dataclass(frozen=True)
class Due:
    """A training that is to be made: a member of the front on another seed."""

    member: TrialRecord
    seed: int


def other_seeds(study_seed: int, own: int, number: int) -> list[int]:
    """The first seeds after the study's, without the trial's own. All members of a front get the same ones, as all trials of
    a search do: so they differ by their configuration, and a driver that was started anew goes on where the last one was."""
    following = ((study_seed + step) % 2**31 for step in count(1))
    return list(islice((seed for seed in following if seed != own), number))


def confirmations_due(records: list[TrialRecord], metric: str, *, study_seed: int, seeds: int) -> list[Due]:
    """What is to be trained until each member of the front has ended on so many other seeds, well or badly.

    Round by round, the first seed of all members, then the second: when time runs out, members are confirmed nearly alike.
    """
    front = front_of(records, metric)
    ended = {member.number: _ended_seeds(member) for member in front}
    wanted = {member.number: other_seeds(study_seed, member.seed, seeds) for member in front}
    return [
        Due(member, wanted[member.number][turn])
        for turn in range(seeds)
        for member in front
        if wanted[member.number][turn] not in ended[member.number]
    ]


def _ended_seeds(member: TrialRecord) -> set[int]:
    return {one.seed for one in member.confirmations if one.outcome.status is not Status.INTERRUPTED}


class ConfirmSource:
    """The runner's source of confirmations; each ending goes into the record at once, and its weights are removed.

    Nothing is stopped early. The requests' numbers are of this run alone, since a member may be trained on several seeds at
    a time. ``still_there`` is called before each training and raises when the device is gone.
    """

    def __init__(
        self,
        due: list[Due],
        *,
        record: StudyRecord,
        fits: FitCheck,
        settings: TrialSettings,
        listener: StudyListener,
        still_there: Callable[[], None] = lambda: None,
    ) -> None:
        self._due = deque(due)
        self._record = record
        self._fits = fits
        self._settings = settings
        self._listener = listener
        self._still_there = still_there
        self._given: dict[int, tuple[Due, TrialRequest]] = {}
        self._unfit: set[int] = set()

    def next(self) -> TrialRequest | Literal[Done.DONE] | None:
        """The next training; DONE when none is due.

        Raises:
            DeviceError: the device is gone.
        """
        self._still_there()
        while self._due:
            due = self._due.popleft()
            found = None if due.member.number in self._unfit else self._fitting(due.member)
            if found is None:
                continue
            number = len(self._given)
            request = self._settings.confirm(number, due.member.number, found[0], due.seed, found[1])
            self._given[number] = due, request
            return request
        return DONE

    def started(self, number: int) -> None:
        """A training has got its place."""
        due, _ = self._given[number]
        self._listener.confirmation_started(due.member, due.seed)

    def steps(self, number: int, epoch: int, done: int, total: int) -> None:
        """Tells the display how far an epoch is."""
        due, _ = self._given[number]
        self._listener.confirmation_steps(due.member, due.seed, epoch, done, total)

    def epoch(self, number: int, report: EpochReport) -> bool:
        """Tells the display; never ends a training."""
        due, _ = self._given[number]
        self._listener.confirmation_epoch(due.member, due.seed, report)
        return False

    def finished(self, number: int, outcome: Outcome) -> None:
        """Enters an ending in the record, whatever it is, then tells the display."""
        due, request = self._given[number]
        shutil.rmtree(
            request.checkpoint_dir, ignore_errors=True
        )  # what is scored and exported are the search's weights
        outcome = outcome.excused()
        kept = replace(outcome, checkpoint=None, reason=_named(outcome.reason, number, due))
        confirmation = Confirmation(seed=due.seed, outcome=kept)
        self._record.confirm(due.member.number, confirmation)
        self._listener.confirmation_finished(due.member, confirmation)

    def _fitting(self, member: TrialRecord) -> tuple[Candidate, MemoryFigures] | None:
        """The member's configuration with a memory plan that fits, and its prediction; None, said aloud, without one."""
        own, cap = member.candidate, self._fits.cap
        figures = self._fits.figures(own)
        peak = None if member.outcome is None else member.outcome.peak
        if figures.device <= cap or (peak is not None and peak.device <= cap):  # that it ran within the cap counts more
            return own, figures
        cheaper = self._fits.cheaper(own)
        if cheaper is not None:
            return cheaper, self._fits.figures(cheaper)
        self._unfit.add(member.number)
        self._listener.warning(
            f"trial {member.number} cannot be confirmed under the cap of {format_bytes(cap)}: its predicted peak is "
            f"{format_bytes(figures.device)}"
        )
        return None


def _named(reason: str, number: int, due: Due) -> str:
    """The reason with the trial that people know, and its seed, in place of the number in this run."""
    return re.sub(rf"\bTrial {number}\b", f"Trial {due.member.number} on seed {due.seed}", reason)


class _ConfirmListener(Listener):
    """Passes on what only the runner knows."""

    def __init__(self, source: ConfirmSource, listener: StudyListener) -> None:
        self._source = source
        self._listener = listener

    def on_started(self, number: int) -> None:
        self._source.started(number)

    def on_steps(self, number: int, epoch: int, done: int, total: int) -> None:
        self._source.steps(number, epoch, done, total)

    def on_stopping(self, why: str) -> None:
        self._listener.note(f"ending the running confirmations: {why}; `autotune confirm` goes on with them")


def confirm_front(
    config: StudyConfig,
    record: StudyRecord,
    fits: FitCheck,
    settings: TrialSettings,
    machine: Machine,
    listener: StudyListener,
    *,
    deadline: float | None,
    lender: Lender | None = None,
    run: RunTrials = run_trials,
) -> Ended:
    """Trains each member of the front on ``config.confirm`` other seeds, as far as that has not been done; says how it ended.

    Raises:
        DeviceError: the device or Ray is gone.
    """
    records = record.trials()
    due = confirmations_due(records, settings.metric, study_seed=config.seed, seeds=config.confirm)
    if not due:
        return Ended.DONE
    if deadline is not None and time.monotonic() >= deadline:
        listener.note("no time is left to confirm the front on other seeds: `autotune confirm` does it later")
        return Ended.DEADLINE
    members = len(front_of(records, settings.metric))
    total = members * config.confirm
    listener.phase(
        "confirm",
        f"training {count_words(members, 'member')} of the front on {count_words(config.confirm, 'other seed')} each; the weights of these runs are not kept",
    )
    listener.confirmation_begins(done=total - len(due), total=total, metric_name=settings.metric, deadline=deadline)
    source = ConfirmSource(
        due,
        record=record,
        fits=fits,
        settings=settings,
        listener=listener,
        still_there=settings.require_device,
    )
    return run(
        source,
        machine,
        ray_address=config.ray_address,
        deadline=deadline,
        listener=_ConfirmListener(source, listener),
        preload=(*PRELOAD, *config.plugins),
        lender=lender,
    )


class Reserve:
    """What of a time budget the confirmation of the front so far would take, at most half of it; the search starts no trial
    in that time."""

    def __init__(self, config: StudyConfig, metric: str, *, begin: float, deadline: float | None) -> None:
        """begin, deadline: of ``time.monotonic()``."""
        self._seeds = config.confirm
        self._study_seed = config.seed
        self._metric = metric
        self._deadline = deadline
        self._most = 0.0 if deadline is None else (deadline - begin) / 2

    def reached(self, records: Callable[[], list[TrialRecord]], concurrent: int) -> bool:
        """Whether only that time is left, with so many trainings at a time; the records are read where there is a deadline."""
        if self._deadline is None or self._seeds == 0:
            return False
        due = confirmations_due(records(), self._metric, study_seed=self._study_seed, seeds=self._seeds)
        took = [one.member.outcome.seconds for one in due if one.member.outcome is not None]
        needed = min(max(sum(took) / concurrent, max(took, default=0.0)), self._most)
        return needed > 0 and time.monotonic() + needed >= self._deadline
