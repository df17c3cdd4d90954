"""What a study, or a single training, tells while it runs; the command line's display implements it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from autotune.outcome import Candidate, Confirmation, EpochReport, MemoryFigures, TrialRecord

if TYPE_CHECKING:
    from autotune.study.fit_check import PlanSummary


class Listener(Protocol):
    """Hears how any work goes."""

    def phase(self, name: str, text: str) -> None:
        """A phase begins: prepare, plan, search, confirm, measure, test, report; of a single training train and export too."""
        ...

    def note(self, text: str) -> None:
        """Something that a person should know and that stops nothing."""
        ...

    def warning(self, text: str) -> None:
        """Something that a person should know also when all is to be quiet."""
        ...

    def progress(self, what: str, done: int, total: int) -> None:
        """Of something that takes a while, so many are done."""
        ...


class StudyListener(Listener, Protocol):
    """Hears of everything in the order in which it happens, in the driver's process."""

    def planned(self, plan: PlanSummary) -> None:
        """What the predictions say of the space."""
        ...

    def search_begins(self, *, done: int, total: int, metric_name: str, cap: int, deadline: float | None) -> None:
        """The search begins; ``done`` of the total ended earlier; ``deadline`` is in the clock of ``time.monotonic``."""
        ...

    def refused(self, candidate: Candidate, reason: str) -> None:
        """A configuration is not started."""
        ...

    def started(self, number: int, candidate: Candidate, predicted: MemoryFigures) -> None:
        """A trial starts."""
        ...

    def steps(self, number: int, epoch: int, done: int, total: int) -> None:
        """A running trial did so many steps of an epoch (counted from 1)."""
        ...

    def epoch(self, number: int, report: EpochReport) -> None:
        """A running trial finished an epoch."""
        ...

    def finished(self, record: TrialRecord, front: list[TrialRecord]) -> None:
        """A trial ended; ``front`` is the accuracy-memory front so far."""
        ...

    def confirmation_begins(self, *, done: int, total: int, metric_name: str, deadline: float | None) -> None:
        """Members of the front are trained on other seeds; ``done`` of the total trainings ended earlier."""
        ...

    def confirmation_started(self, member: TrialRecord, seed: int) -> None:
        """A member is trained on another seed."""
        ...

    def confirmation_steps(self, member: TrialRecord, seed: int, epoch: int, done: int, total: int) -> None:
        """Such a training did so many steps of an epoch."""
        ...

    def confirmation_epoch(self, member: TrialRecord, seed: int, report: EpochReport) -> None:
        """Such a training finished an epoch."""
        ...

    def confirmation_finished(self, member: TrialRecord, confirmation: Confirmation) -> None:
        """Such a training ended."""
        ...
