"""What a person sees while a study runs, as plain lines."""

from __future__ import annotations

import json
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from autotune.cli.console import console
from autotune.cli.ctrl_c import raise_if_lost
from autotune.cli.front_table import front_table
from autotune.outcome import Candidate, Confirmation, EpochReport, MemoryFigures, Outcome, Status, TrialRecord
from autotune.units import count_words, format_bytes, format_duration

if TYPE_CHECKING:
    from autotune.study import PlanSummary, StudyResult

_LINE_EVERY = 10.0
"""Seconds between lines that tell how far something is, where no bar can be shown."""
_STEPS_EVERY = 60.0
"""The same of one training among others."""


def outcome_words(outcome: Outcome | None, metric_name: str) -> str:
    """One line about a finished training: what it reached and what it took, or why it ended."""
    if outcome is None:
        return "running"
    words = [str(outcome.status)]
    if outcome.metric is not None:
        words.append(f"{metric_name} {outcome.metric:.4f}")
    if outcome.peak is not None:
        words.append(f"tensors {format_bytes(outcome.peak.allocated)}, device {format_bytes(outcome.peak.device)}")
    words.append(format_duration(outcome.seconds))
    if outcome.reason:
        words.append(outcome.reason)
    return ", ".join(words)


def time_left(deadline: float) -> str:
    """Of a time budget that ends then, in the clock of ``time.monotonic``."""
    left = deadline - time.monotonic()
    return f"{format_duration(left)} left" if left > 0 else "the time budget is used up"


def steps_words(epoch: int, done: int, total: int) -> str:
    """How far an epoch is."""
    return f"epoch {epoch}: {done:,} of {total:,} steps"


class Display:
    """Listens to a study. This base prints plain lines; nothing is lost where the output is no terminal."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.console = console()
        self.errors = console(stderr=True)
        self.quiet = quiet
        self._begin = time.monotonic()
        self._metric_name = "metric"
        self._total = 0
        self._finished = 0
        self._counted: set[str] = set()  # configurations that ended in this search
        self._told_progress = time.monotonic()
        self._told_steps: dict[str, float] = {}  # by the training's name

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def _line(self, text: str) -> None:
        if not self.quiet:
            self.console.print(f"[{format_duration(time.monotonic() - self._begin):>12}] {text}", markup=False)

    def phase(self, name: str, text: str) -> None:
        """A phase of the study begins: prepare, plan, search, confirm, measure, test, report.

        Raises:
            KeyboardInterrupt: Ctrl-C has come before and was lost; not at the report, which an interrupted study has too.
        """
        if name != "report":
            raise_if_lost()
        self._told_progress = time.monotonic()
        self._line(f"{name}: {text}")

    def progress(self, what: str, done: int, total: int) -> None:
        """Of something that takes a while, so many are done: a line now and then."""
        raise_if_lost()
        now = time.monotonic()
        if now - self._told_progress >= _LINE_EVERY:
            self._told_progress = now
            self._line(f"{done:,} of {total:,} {what}")

    def note(self, text: str) -> None:
        """Something that a person should know and that stops nothing."""
        self._line(f"note: {text}")

    def warning(self, text: str) -> None:
        """Something that a person should know also when all is to be quiet."""
        self.errors.print(f"warning: {text}", markup=False)

    def planned(self, plan: PlanSummary) -> None:
        """What the predictions say of the space."""
        raise_if_lost()
        self._line(f"plan: {plan.sentence}")

    def search_begins(self, *, done: int, total: int, metric_name: str, cap: int, deadline: float | None) -> None:
        """The search begins; ``done`` of the total ended earlier; ``deadline`` is in the clock of ``time.monotonic``."""
        raise_if_lost()
        self._metric_name, self._total, self._finished = metric_name, total, done
        until = "" if deadline is None else f", {time_left(deadline)}"
        already = f" ({done} of them ended earlier)" if done else ""
        self._line(
            f"search: {count_words(total, 'trial')}{already}, each under {format_bytes(cap)}, maximising {metric_name}{until}"
        )

    def refused(self, candidate: Candidate, reason: str) -> None:
        """A configuration was not started."""
        self._line(f"refused {candidate.label}: {reason}")

    def started(self, number: int, candidate: Candidate, predicted: MemoryFigures) -> None:
        """A trial starts."""
        self._line(f"trial {number} started: {candidate.label}, predicted device {format_bytes(predicted.device)}")

    def steps(self, number: int, epoch: int, done: int, total: int) -> None:
        """A running trial did so many steps of an epoch: a line now and then."""
        self._goes_on(f"trial {number}", epoch, done, total)

    def epoch(self, number: int, report: EpochReport) -> None:
        """A running trial finished an epoch."""
        self._line(f"trial {number} epoch {self._epoch_words(report)}")

    def finished(self, record: TrialRecord, front: list[TrialRecord]) -> None:
        """A trial ended; ``front`` is the accuracy-memory front so far."""
        # with a cheaper memory plan a configuration is tried once more, and counts once
        configuration = json.dumps([record.candidate.method, record.candidate.training], sort_keys=True, default=str)
        if record.outcome is not None and record.outcome.status is not Status.INTERRUPTED:
            self._finished += configuration not in self._counted
            self._counted.add(configuration)
        on_front = " (on the front)" if any(member.number == record.number for member in front) else ""
        self._line(
            f"trial {record.number} ended [{self._finished}/{self._total}]: {record.candidate.label}: "
            f"{outcome_words(record.outcome, self._metric_name)}{on_front}"
        )

    def confirmation_begins(self, *, done: int, total: int, metric_name: str, deadline: float | None) -> None:
        """Members of the front are trained on other seeds; ``done`` of the total trainings ended earlier."""
        raise_if_lost()
        self._metric_name, self._total, self._finished = metric_name, total, done
        until = "no time budget" if deadline is None else time_left(deadline)
        self._line(f"confirm: {done} of {total} trainings ended earlier, {until}")

    def confirmation_started(self, member: TrialRecord, seed: int) -> None:
        """A member is trained on another seed."""
        self._line(f"trial {member.number} on seed {seed} started: {member.candidate.label}")

    def confirmation_steps(self, member: TrialRecord, seed: int, epoch: int, done: int, total: int) -> None:
        """Such a training did so many steps of an epoch: a line now and then."""
        self._goes_on(f"trial {member.number} on seed {seed}", epoch, done, total)

    def confirmation_epoch(self, member: TrialRecord, seed: int, report: EpochReport) -> None:
        """Such a training finished an epoch."""
        self._line(f"trial {member.number} on seed {seed} epoch {self._epoch_words(report)}")

    def confirmation_finished(self, member: TrialRecord, confirmation: Confirmation) -> None:
        """Such a training ended."""
        outcome = confirmation.outcome
        self._finished += outcome.status is not Status.INTERRUPTED
        was = "" if member.outcome is None or member.outcome.metric is None else f" (was {member.outcome.metric:.4f})"
        self._line(
            f"trial {member.number} on seed {confirmation.seed} ended [{self._finished}/{self._total}]: "
            f"{outcome_words(outcome, self._metric_name)}{was}"
        )

    def _goes_on(self, name: str, epoch: int, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._told_steps.setdefault(name, now) >= _STEPS_EVERY:
            self._told_steps[name] = now
            self._line(f"{name} {steps_words(epoch, done, total)}")

    def _epoch_words(self, report: EpochReport) -> str:
        value = report.metrics.get(self._metric_name)
        shown = "" if value is None else f", {self._metric_name} {value:.4f}"
        return f"{report.epoch}: loss {report.train_loss:.4f}{shown}"

    def result(self, result: StudyResult) -> None:
        """The study's end: the front, what was picked and how to go on."""
        if result.front:
            self.console.print(front_table(result.front, result.metric_name, result.selected))
        self.console.print(result.closing, markup=False)
