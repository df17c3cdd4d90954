"""The desk between a source of trials and whatever runs them: gives out requests, passes on news, misses no outcome.

It knows nothing of Ray: a place is a string, and a running trial is a function that asks it to end.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from autotune.outcome import Outcome, Status
from autotune.runner.shares import Machine
from autotune.runner.source import DONE, Done, Ended, Listener, TrialSource
from autotune.trial.request import Epoch, Finished, Message, Rehearsed, Steps, TrialRequest
from autotune.trial.verdict import ANOTHER_TENANT

#: After this many seconds trials that were asked to end are cut off.
END_SECONDS = 6.0

Stop = Callable[[str, Status], None]
Value = TypeVar("Value")


@dataclass
class _Running:
    """A request that was given out. ``so_far``: its outcome if it ended now. ``stop``: set when its process starts."""

    request: TrialRequest
    share: float
    so_far: Outcome | None = None
    stop: Stop | None = None
    asked: bool = False


@dataclass(frozen=True)
class Assignment:
    """One trial for one place; ``request.memory_cap`` is what its share of the budget allows."""

    request: TrialRequest
    share: float


class Desk:
    """Keeps the books of one run.

    Args:
        source: decides. listener: is told. machine: what trials run on.
        deadline: of ``time.monotonic()``; no trial starts after it, and running ones are ended and marked interrupted.
    """

    def __init__(
        self, source: TrialSource, listener: Listener, machine: Machine, deadline: float | None = None
    ) -> None:
        self.machine = machine
        self._source = source
        self._listener = listener
        self._deadline = deadline
        self._places = 1
        self._budgets = 1.0
        self._interrupted: Callable[[], bool] = lambda: False
        self._running: dict[str, _Running] = {}
        self._again: deque[TrialRequest] = deque()  # to run with as much as their cap
        self._last: deque[TrialRequest] = deque()  # another tenant had the memory: once more, when all else is done
        self._retried: set[int] = set()
        self._exhausted = False
        self.why: str | None = None  # why the run is being ended
        self._since = 0.0
        self.ended = Ended.DONE
        self.finished = 0
        self.error: BaseException | None = None  # of the source or the listener; ends the run

    @property
    def cut_off(self) -> bool:
        """Whether whatever still runs is to be ended by force."""
        if self.why is None:
            return False
        waits = any(running.asked for running in self._running.values())
        return not waits or time.monotonic() - self._since > END_SECONDS

    def open(self, places: int, budgets: float = 1.0, interrupted: Callable[[], bool] = lambda: False) -> None:
        """Places are ready: ``places`` trials may run at a time, whose shares sum to at most ``budgets``.

        ``interrupted`` tells whether the user wants an end.
        """
        self._places = places
        self._budgets = budgets
        self._interrupted = interrupted
        self._guarded(lambda: self._listener.on_ready(places))

    def tick(self) -> None:
        """Looks at the clock; to be called often."""
        if self.why is None and self._interrupted():
            self.stop("you interrupted the study", Ended.INTERRUPTED)
        if self.why is None and self._deadline is not None and time.monotonic() >= self._deadline:
            self.stop("the time budget is used up", Ended.DEADLINE)

    def stop(self, why: str, ended: Ended) -> None:
        """No further trials; the running ones are asked to end and will be interrupted. Does not wait."""
        if self.why is None:
            self.why, self._since, self.ended = why, time.monotonic(), ended
            for running in self._running.values():
                self._ask_to_end(running)
            self._guarded(lambda: self._listener.on_stopping(why))

    def give(self, place: str) -> Assignment | Done | None:
        """The next trial for a place; None when none can start now; DONE when none will."""
        self.tick()
        if self.why is not None:
            return DONE
        taken = sum(running.share for running in self._running.values())
        if len(self._running) >= self._places or taken + self.machine.least_share(self._places) > self._budgets:
            return None  # drawn now it would only wait, and know less than one that is drawn later
        share = 1.0
        if self._again:
            request = self._again.popleft()
            share = self.machine.whole_share(request)
        elif self._exhausted and self._last:
            request = self._last.popleft()
            share = self.machine.whole_share(request)
        elif self._exhausted:
            return None if self._running else DONE  # one that runs may have to run again
        else:
            following = self._guarded(self._source.next)
            if following is DONE:
                self._exhausted = True
                return self.give(place)
            if not isinstance(following, TrialRequest):
                return DONE if self.why is not None else None
            request = following
            share = self.machine.share(request, self._places)
        self._running[place] = _Running(request, share)
        return Assignment(replace(request, memory_cap=self.machine.limit(request, share)), share)

    def started(self, place: str, stop: Stop) -> None:
        """A place has begun its trial; ``stop`` asks it to end, without waiting."""
        running = self._running.get(place)
        if running is None:
            return
        running.stop = stop
        if self.why is not None:
            self._ask_to_end(running)
        number = running.request.number
        self._guarded(lambda: self._listener.on_started(number))

    def news(self, place: str, messages: list[Message], so_far: Outcome | None) -> None:
        """What a place reports; ``so_far`` is what becomes of its trial when it is not heard of again."""
        running = self._running.get(place)
        if running is None:
            return
        running.so_far = so_far or running.so_far
        for message in messages:
            self._take(place, running, message)
        self.tick()

    def lost(self, place: str, status: Status, reason: str) -> None:
        """A place is gone, and its trial with it."""
        running = self._running.get(place)
        if running is not None:
            self._finish(place, running, self._last_known(running, status, reason))

    def lose_all(self, status: Status, reason: str) -> None:
        """Every place is gone."""
        for place in list(self._running):
            self.lost(place, status, reason)
        for request in (*self._again, *self._last):
            outcome = Outcome(status=status, reason=f"Trial {request.number}: {reason}", predicted=request.predicted)
            self._tell_finished(request.number, outcome)
        self._again.clear()
        self._last.clear()

    def _take(self, place: str, running: _Running, message: Message) -> None:
        number = running.request.number
        match message:
            case Rehearsed(figures):
                self._guarded(lambda: self._listener.on_rehearsed(number, figures))
            case Steps(epoch, done, total):
                self._guarded(lambda: self._listener.on_steps(number, epoch, done, total))
            case Epoch(report):
                self._guarded(lambda: self._listener.on_epoch(number, report))
                if self._guarded(lambda: self._source.epoch(number, report)) and running.stop is not None:
                    running.stop(f"Trial {number} was stopped early after epoch {report.epoch}.", Status.STOPPED)
            case Finished(outcome):
                self._finish(place, running, outcome)

    def _finish(self, place: str, running: _Running, outcome: Outcome) -> None:
        del self._running[place]
        request = running.request
        over = outcome.status in (Status.OVER_CAP, Status.OUT_OF_MEMORY)
        if over and self.machine.limit(request, running.share) < request.memory_cap:
            # It needs more than was predicted, so more than its share; only its whole cap shows whether it fits.
            if self.why is None:
                self._again.append(request)
                return
            outcome = self._last_known(running, Status.INTERRUPTED, f"{self.why}, before it could run by itself")
        elif outcome.details.get(ANOTHER_TENANT) and request.number not in self._retried and self.why is None:
            self._retried.add(request.number)
            self._last.append(request)
            return
        self._tell_finished(request.number, outcome)

    def _tell_finished(self, number: int, outcome: Outcome) -> None:
        self.finished += 1
        self._guarded(lambda: self._source.finished(number, outcome), always=True)
        self._exhausted = (
            False  # what has ended may be due once more: with a cheaper memory plan, or as it was interrupted
        )
        self._guarded(lambda: self._listener.on_finished(number, outcome))

    def _last_known(self, running: _Running, status: Status, reason: str) -> Outcome:
        reason = f"Trial {running.request.number}: {reason}"
        if running.so_far is None:
            return Outcome(status=status, reason=reason, predicted=running.request.predicted)
        epochs = running.so_far.epochs
        noted = f" Its last epoch was {epochs[-1].epoch}." if epochs else ""
        return replace(running.so_far, status=status, reason=reason + noted)

    def _ask_to_end(self, running: _Running) -> None:
        if running.stop is not None and not running.asked:
            running.asked = True
            number = running.request.number
            running.stop(f"Trial {number} was interrupted: {self.why}.", Status.INTERRUPTED)

    def _guarded(self, call: Callable[[], Value], *, always: bool = False) -> Value | None:
        """Calls the source or the listener. Their first error ends the run and is kept for the caller of the run.

        Ray would take it for a failure of the trial. After it only outcomes are still passed on (``always``).
        """
        if self.error is not None and not always:
            return None
        try:
            return call()
        except Exception as error:  # noqa: BLE001 - kept and raised again when the trials have been ended
            if self.error is None:
                self.error = error
                self.stop(f"an error in the driver: {error}", Ended.INTERRUPTED)
            return None
