"""What a person sees in a terminal while a study runs: lines that stay, and below them a table that moves."""

from __future__ import annotations

import math
import time
from types import TracebackType
from typing import Self

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from autotune.cli.ctrl_c import raise_if_lost
from autotune.cli.display import Display, steps_words, time_left
from autotune.cli.front_table import front_table
from autotune.outcome import Candidate, Confirmation, EpochReport, MemoryFigures, TrialRecord
from autotune.units import format_bytes, format_duration

_ROWS_SHOWN = 8
_BAR_COLUMNS = 30
_NARROW = 80
"""Columns below which a bar gets a third of its length, so that the words behind it stay on their line."""


class LiveDisplay(Display):
    """The same as :class:`Display` for a terminal: lines that stay, and below them a table that moves."""

    def __init__(self) -> None:
        super().__init__()
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
        raise_if_lost()
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

    def _goes_on(self, name: str, epoch: int, done: int, total: int) -> None:
        if name in self._running:
            self._running[name] = (self._running[name][0], steps_words(epoch, done, total))

    def _moves(self, name: str, report: EpochReport) -> None:
        if name in self._running:
            self._running[name] = (self._running[name][0], f"epoch {self._epoch_words(report)}")

    def _render(self) -> Group:
        parts: list[Table | Text] = []
        if self._step is not None:
            what, done, total = self._step
            parts.append(_bar(done, total, f"{done:,}/{total:,} {what}", self.console.width))
        if self._total:
            left = "no time budget" if self._deadline is None else time_left(self._deadline)
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
