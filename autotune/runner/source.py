"""Who decides what is tried, and who is told: what :func:`autotune.runner.run_trials` talks to."""

from __future__ import annotations

from enum import Enum, StrEnum
from typing import Literal, Protocol

from autotune.outcome import EpochReport, MemoryFigures, Outcome
from autotune.trial.request import TrialRequest


class Done(Enum):
    """Says that no trial will come any more."""

    DONE = "done"


DONE = Done.DONE


class TrialSource(Protocol):
    """Where trials come from and their outcomes go. Called in the thread that called ``run_trials``, one call at a time.

    What it raises ends the run and reaches the caller of ``run_trials``, after all trials were ended.
    """

    def next(self) -> TrialRequest | Literal[Done.DONE] | None:
        """The next trial; None when nothing can start before a running trial ends; DONE when none will come.

        A request that was given out is always answered by one :meth:`finished`.
        """
        ...

    def epoch(self, number: int, report: EpochReport) -> bool:
        """A trial has finished an epoch. True ends it: its outcome will be ``STOPPED``.

        A trial that is started again (see ``run_trials``) reports its epochs from 1 again.
        """
        ...

    def finished(self, number: int, outcome: Outcome) -> None:
        """A trial is over; its process is gone."""
        ...


class Listener:
    """Is told what happens, for a display; does nothing by itself. What a method raises ends the run."""

    def on_ready(self, concurrent: int) -> None:
        """Ray runs; ``concurrent`` trials run at a time at most."""

    def on_started(self, number: int) -> None:
        """A trial has got its place and starts."""

    def on_rehearsed(self, number: int, figures: MemoryFigures) -> None:
        """A trial's rehearsal is over and fits."""

    def on_steps(self, number: int, epoch: int, done: int, total: int) -> None:
        """So many steps of a trial's epoch are done."""

    def on_epoch(self, number: int, report: EpochReport) -> None:
        """A trial has finished an epoch."""

    def on_finished(self, number: int, outcome: Outcome) -> None:
        """A trial is over."""

    def on_stopping(self, why: str) -> None:
        """No trial is started any more and the running ones are being ended: the deadline, or Ctrl-C."""


class Ended(StrEnum):
    """Why a run is over."""

    DONE = "done"  # the source had no more
    DEADLINE = "deadline"
    INTERRUPTED = "interrupted"  # Ctrl-C or SIGTERM
