"""What a person sees while a study runs: a live table in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from autotune.outcome import Candidate, EpochReport, MemoryFigures, Status, TrialRecord
from autotune.units import format_bytes, format_duration

if TYPE_CHECKING:
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


def outcome_words(record: TrialRecord, metric_name: str) -> str:
    """One line about a finished trial: what it reached and what it took, or why it ended."""
    outcome = record.outcome
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


class Display:
    """Listens to a study. This base prints plain lines; nothing is lost where the output is no terminal."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.console = Console(highlight=False, soft_wrap=True)
        self.errors = Console(stderr=True, highlight=False, soft_wrap=True)
        self.quiet = quiet
        self._begin = time.monotonic()
        self._metric_name = "metric"
        self._total = 0
        self._finished = 0

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
        """A phase of the study begins: prepare, plan, search, test, report."""
        self._line(f"{name}: {text}")

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
        until = "" if deadline is None else f", {format_duration(deadline - time.monotonic())} left"
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
        value = report.metrics.get(self._metric_name)
        shown = "" if value is None else f", {self._metric_name} {value:.4f}"
        self._line(f"trial {number} epoch {report.epoch}: loss {report.train_loss:.4f}{shown}")

    def finished(self, record: TrialRecord, front: list[TrialRecord]) -> None:
        """A trial ended; ``front`` is the accuracy-memory front so far."""
        self._finished += record.outcome is not None and record.outcome.status is not Status.INTERRUPTED
        on_front = " (on the front)" if any(member.number == record.number for member in front) else ""
        self._line(
            f"trial {record.number} ended [{self._finished}/{self._total}]: {record.candidate.label}: "
            f"{outcome_words(record, self._metric_name)}{on_front}"
        )

    def result(self, result: StudyResult) -> None:
        """The study's end: the front, what was picked and how to go on."""
        if result.front:
            self.console.print(front_table(result.front, result.metric_name, result.selected))
        self.console.print(result.closing, markup=False)


def _short(count: int) -> str:
    return format_bytes(count).split(" (")[0]


def front_table(front: list[TrialRecord], metric_name: str, selected: int | None) -> Table:
    """The front as a table, from most to least memory."""
    table = Table(title=f"Accuracy-memory front ({metric_name} on validation)", title_justify="left")
    for column, justify in (
        ("trial", "right"),
        ("configuration", "left"),
        (metric_name, "right"),
        ("tensors", "right"),
        ("device", "right"),
        ("trainable", "right"),
        ("test", "right"),
    ):
        table.add_column(column, justify="right" if justify == "right" else "left", overflow="fold")
    for record in front:
        outcome = record.outcome
        if outcome is None or outcome.metric is None or outcome.peak is None:
            continue
        test = (record.test_metrics or {}).get(metric_name)
        picked = record.number == selected
        table.add_row(
            f"{record.number}{' <' if picked else ''}",
            escape(record.candidate.label),
            f"{outcome.metric:.4f}",
            _short(outcome.peak.allocated),
            _short(outcome.peak.device),
            "" if outcome.trainable_parameters is None else f"{outcome.trainable_parameters:,}",
            "" if test is None else f"{test:.4f}",
            style="bold" if picked else None,
        )
    return table


class LiveDisplay(Display):
    """The same in a terminal: lines that stay, and below them a table that moves."""

    def __init__(self, *, quiet: bool = False) -> None:
        super().__init__(quiet=quiet)
        self._running: dict[int, tuple[Candidate, str]] = {}
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

    def search_begins(self, *, done: int, total: int, metric_name: str, cap: int, deadline: float | None) -> None:
        super().search_begins(done=done, total=total, metric_name=metric_name, cap=cap, deadline=deadline)
        self._cap, self._deadline = cap, deadline

    def started(self, number: int, candidate: Candidate, predicted: MemoryFigures) -> None:
        self._running[number] = (candidate, f"predicted device {format_bytes(predicted.device)}")

    def epoch(self, number: int, report: EpochReport) -> None:
        if number in self._running:
            value = report.metrics.get(self._metric_name)
            shown = "" if value is None else f", {self._metric_name} {value:.4f}"
            self._running[number] = (
                self._running[number][0],
                f"epoch {report.epoch}, loss {report.train_loss:.4f}{shown}",
            )

    def finished(self, record: TrialRecord, front: list[TrialRecord]) -> None:
        self._running.pop(record.number, None)
        self._front = front
        super().finished(record, front)

    def _render(self) -> Group:
        parts: list[Table | Text] = []
        if self._cap is not None:
            left = "no time budget" if self._deadline is None else self._time_left(self._deadline)
            parts.append(
                Text(
                    f"{self._finished}/{self._total} trials ended · cap {format_bytes(self._cap)} · {left} · "
                    f"{format_duration(time.monotonic() - self._begin)} so far",
                    style="bold",
                )
            )
            for number, (candidate, state) in sorted(self._running.items()):
                parts.append(Text(f"  ▶ trial {number} {candidate.label}: {state}", style="cyan"))
            if self._front:
                parts.append(front_table(self._front[:_ROWS_SHOWN], self._metric_name, None))
        else:
            parts.append(Text(f"{format_duration(time.monotonic() - self._begin)} …", style="dim"))
        return Group(*parts)

    @staticmethod
    def _time_left(deadline: float) -> str:
        left = deadline - time.monotonic()
        return f"{format_duration(left)} left" if left > 0 else "time is up"


def display_for(*, quiet: bool = False) -> Display:
    """The live display in a terminal, plain lines elsewhere or when all is to be quiet."""
    return LiveDisplay() if sys.stdout.isatty() and not quiet else Display(quiet=quiet)
