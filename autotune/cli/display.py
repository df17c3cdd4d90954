"""What a person sees while a study runs: a live table in a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Group
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from autotune.cli.console import console
from autotune.outcome import Candidate, Confirmation, EpochReport, MemoryFigures, Outcome, Status, TrialRecord
from autotune.units import format_bytes, format_duration, format_latency

if TYPE_CHECKING:
    from autotune.report import Point
    from autotune.study import PlanSummary, StudyResult

_STATUS_STYLE = {
    Status.COMPLETE: "green",
    Status.STOPPED: "yellow",
    Status.INTERRUPTED: "yellow",
    Status.OVER_CAP: "red",
    Status.OUT_OF_MEMORY: "red",
    Status.DIVERGED: "red",
    Status.FAILED: "red",
}
_ROWS_SHOWN = 8
_BAR_COLUMNS = 30
_NARROW = 80
"""Columns below which a bar gets a third of its length, so that the words behind it stay on their line."""
_LINE_EVERY = 10.0
"""Seconds between lines that tell how far something is, where no bar can be shown."""


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


def _time_left(deadline: float) -> str:
    left = deadline - time.monotonic()
    return f"{format_duration(left)} left" if left > 0 else "the time budget is used up"


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
        self._told_progress = time.monotonic()

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
        """A phase of the study begins: prepare, plan, search, confirm, measure, test, report."""
        self._told_progress = time.monotonic()
        self._line(f"{name}: {text}")

    def progress(self, what: str, done: int, total: int) -> None:
        """Of something that takes a while, so many are done: a line now and then."""
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
        self._line(f"plan: {plan.sentence}")

    def search_begins(self, *, done: int, total: int, metric_name: str, cap: int, deadline: float | None) -> None:
        """The search begins; ``done`` of the total ended earlier; ``deadline`` is in the clock of ``time.monotonic``."""
        self._metric_name, self._total, self._finished = metric_name, total, done
        until = "" if deadline is None else f", {_time_left(deadline)}"
        already = f" ({done} of them ended earlier)" if done else ""
        self._line(f"search: {total} trials{already}, each under {format_bytes(cap)}, maximising {metric_name}{until}")

    def refused(self, candidate: Candidate, reason: str) -> None:
        """A configuration was not started."""
        self._line(f"refused {candidate.label}: {reason}")

    def started(self, number: int, candidate: Candidate, predicted: MemoryFigures) -> None:
        """A trial starts."""
        self._line(f"trial {number} started: {candidate.label}, predicted device {format_bytes(predicted.device)}")

    def epoch(self, number: int, report: EpochReport) -> None:
        """A running trial finished an epoch."""
        self._line(f"trial {number} epoch {self._epoch_words(report)}")

    def finished(self, record: TrialRecord, front: list[TrialRecord]) -> None:
        """A trial ended; ``front`` is the accuracy-memory front so far."""
        self._finished += record.outcome is not None and record.outcome.status is not Status.INTERRUPTED
        on_front = " (on the front)" if any(member.number == record.number for member in front) else ""
        self._line(
            f"trial {record.number} ended [{self._finished}/{self._total}]: {record.candidate.label}: "
            f"{outcome_words(record.outcome, self._metric_name)}{on_front}"
        )

    def confirmation_begins(self, *, done: int, total: int, metric_name: str, deadline: float | None) -> None:
        """Members of the front are trained on other seeds; ``done`` of the total trainings ended earlier."""
        self._metric_name, self._total, self._finished = metric_name, total, done
        until = "no time budget" if deadline is None else _time_left(deadline)
        self._line(f"confirm: {done} of {total} trainings ended earlier, {until}")

    def confirmation_started(self, member: TrialRecord, seed: int) -> None:
        """A member is trained on another seed."""
        self._line(f"trial {member.number} on seed {seed} started: {member.candidate.label}")

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

    def _epoch_words(self, report: EpochReport) -> str:
        value = report.metrics.get(self._metric_name)
        shown = "" if value is None else f", {self._metric_name} {value:.4f}"
        return f"{report.epoch}: loss {report.train_loss:.4f}{shown}"

    def result(self, result: StudyResult) -> None:
        """The study's end: the front, what was picked and how to go on."""
        if result.front:
            self.console.print(front_table(result.front, result.metric_name, result.selected))
        self.console.print(result.closing, markup=False)


def _short(count: int) -> str:
    return format_bytes(count).split(" (")[0]


def front_table(front: list[TrialRecord], metric_name: str, selected: int | None) -> Table:
    """The front as a table, in the order given. Where members are confirmed or measured answering, cells hold two lines, so
    that all of it stays readable in 80 columns."""
    from autotune.report import points_from  # its pictures take a while to import

    points = {point.number: point for point in points_from(front, metric_name=metric_name)}
    further = any(point.confirmed_of or point.inference for point in points.values())
    table = Table(title=f"Accuracy-memory front ({metric_name} on validation)", title_justify="left")
    table.add_column("trial", justify="right", no_wrap=True)
    table.add_column("configuration", overflow="fold")
    headings = (
        ("other\nseeds", "tensors\ndevice", "one row\nholding") if further else ("tensors", "device", "trainable")
    )
    for heading in (metric_name, *headings, "test"):
        table.add_column(heading, justify="right", overflow="fold")
    for record in front:
        point = points.get(record.number)
        if point is None or not point.may_stand_on_front:
            continue
        test = point.test_metrics.get(metric_name)
        picked = point.number == selected
        table.add_row(
            f"{point.number}{' <' if picked else ''}",
            escape(point.label),
            f"{point.metric:.4f}",
            *(_further_cells(point) if further else _cells(point)),
            "" if test is None else f"{test:.4f}",
            style="bold" if picked else None,
        )
    return table


def _cells(point: Point) -> tuple[str, str, str]:
    trainable = "" if point.trainable_parameters is None else f"{point.trainable_parameters:,}"
    return _short(point.memory or 0), _short(point.device or 0), trainable


def _further_cells(point: Point) -> tuple[str, str, str]:
    from autotune.report import mean_words

    known = point.inference
    answers = "" if known is None else f"{format_latency(known.latency_seconds)}\n{_short(known.peak.device)}"
    seeds = mean_words(point).replace(" (", "\n(") or "none yet"
    return seeds, f"{_short(point.memory or 0)}\n{_short(point.device or 0)}", answers


def _best(front: list[TrialRecord]) -> list[TrialRecord]:
    """As many members as are shown, those of the best metric, in their order."""

    def metric(record: TrialRecord) -> float:
        known = None if record.outcome is None else record.outcome.metric
        return -math.inf if known is None else known

    best = {record.number for record in sorted(front, key=metric)[-_ROWS_SHOWN:]}
    return [record for record in front if record.number in best]


def _bar(done: int, total: int, words: str, columns: int) -> Table:
    """A bar and, behind it, what it counts, for a terminal of so many columns."""
    width = _BAR_COLUMNS if columns >= _NARROW else _BAR_COLUMNS // 3
    grid = Table.grid(padding=(0, 1))
    grid.add_row(ProgressBar(total=total, completed=done, width=width), Text(words, style="bold"))
    return grid


class LiveDisplay(Display):
    """The same in a terminal: lines that stay, and below them a table that moves."""

    def __init__(self, *, quiet: bool = False) -> None:
        super().__init__(quiet=quiet)
        self._running: dict[str, tuple[Candidate, str]] = {}
        self._what = "trials"
        self._step: tuple[str, int, int] | None = None
        self._front: list[TrialRecord] = []
        self._cap: int | None = None
        self._deadline: float | None = None
        self._live = Live(console=self.console, get_renderable=self._render, refresh_per_second=2, transient=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def phase(self, name: str, text: str) -> None:
        self._step = None
        super().phase(name, text)

    def progress(self, what: str, done: int, total: int) -> None:
        self._step = (what, done, total) if done < total else None

    def search_begins(self, *, done: int, total: int, metric_name: str, cap: int, deadline: float | None) -> None:
        super().search_begins(done=done, total=total, metric_name=metric_name, cap=cap, deadline=deadline)
        self._cap, self._deadline = cap, deadline
        self._step = None  # a survey that its time ended stays short of its total

    def started(self, number: int, candidate: Candidate, predicted: MemoryFigures) -> None:
        self._running[f"trial {number}"] = (candidate, f"predicted device {format_bytes(predicted.device)}")

    def epoch(self, number: int, report: EpochReport) -> None:
        self._moves(f"trial {number}", report)

    def finished(self, record: TrialRecord, front: list[TrialRecord]) -> None:
        self._running.pop(f"trial {record.number}", None)
        self._front = front
        super().finished(record, front)

    def confirmation_begins(self, *, done: int, total: int, metric_name: str, deadline: float | None) -> None:
        super().confirmation_begins(done=done, total=total, metric_name=metric_name, deadline=deadline)
        self._what, self._deadline = "confirmations", deadline

    def confirmation_started(self, member: TrialRecord, seed: int) -> None:
        self._running[f"trial {member.number} on seed {seed}"] = (member.candidate, "starts")

    def confirmation_epoch(self, member: TrialRecord, seed: int, report: EpochReport) -> None:
        self._moves(f"trial {member.number} on seed {seed}", report)

    def confirmation_finished(self, member: TrialRecord, confirmation: Confirmation) -> None:
        self._running.pop(f"trial {member.number} on seed {confirmation.seed}", None)
        super().confirmation_finished(member, confirmation)

    def _moves(self, name: str, report: EpochReport) -> None:
        if name in self._running:
            self._running[name] = (self._running[name][0], f"epoch {self._epoch_words(report)}")

    def _render(self) -> Group:
        parts: list[Table | Text] = []
        if self._step is not None:
            what, done, total = self._step
            parts.append(_bar(done, total, f"{done:,}/{total:,} {what}", self.console.width))
        if self._total:
            left = "no time budget" if self._deadline is None else _time_left(self._deadline)
            cap = "" if self._cap is None else f"cap {format_bytes(self._cap)} · "
            so_far = format_duration(time.monotonic() - self._begin)
            words = f"{self._finished}/{self._total} {self._what} ended · {cap}{left} · {so_far} so far"
            parts.append(_bar(self._finished, self._total, words, self.console.width))
            for name, (candidate, state) in sorted(self._running.items()):
                parts.append(Text(f"  ▶ {name} {candidate.label}: {state}", style="cyan"))
            if self._front:
                shown = _best(self._front)
                parts.append(front_table(shown, self._metric_name, None))
                if len(shown) < len(self._front):
                    parts.append(Text(f"and {len(self._front) - len(shown)} more of lower metric", style="dim"))
        elif self._step is None:
            parts.append(Text(f"{format_duration(time.monotonic() - self._begin)} …", style="dim"))
        return Group(*parts)


def display_for(*, quiet: bool = False) -> Display:
    """The live display in a terminal, plain lines elsewhere or when all is to be quiet."""
    return LiveDisplay() if sys.stdout.isatty() and not quiet else Display(quiet=quiet)
