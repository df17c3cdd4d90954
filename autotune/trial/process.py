"""A trial in a process of its own, under guard, seen from the process that wants its outcome."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from pickle import dumps

from autotune.errors import DeviceError, NoAnswerError
from autotune.memory.guard import Guard
from autotune.memory.meter import Meter
from autotune.outcome import EpochReport, MemoryFigures, Outcome, Status
from autotune.trial.fork_server import ForkServer
from autotune.trial.request import Epoch, Finished, Message, Rehearsed, TrialRequest, Unread
from autotune.trial.tenancy import Tenancy
from autotune.trial.verdict import Verdict, breach, death, out_of_memory_kills

EXECUTE = "autotune.trial.execution:execute"
GRACE_SECONDS = 2.0
EXIT_SECONDS = 5.0


class TrialProcess:
    """One trial; it starts when this object is made.

    Whatever happens in the process, the last event is :class:`Finished` with an outcome; nothing is raised for it.
    Afterwards neither the process nor anything it started is left (where the fork server was killed, what the trial
    had started may be), and on a GPU its memory is given back, or the
    outcome's reason says that it was not. Not for several threads.

    A cap above what the GPU has free at this moment is lowered to that, and the outcome's reason says so: another
    tenant has taken the rest. What then does not fit is out of memory, and not over the cap.

    Args:
        request: the trial.
        server: forks the process.
        meter: tells what the process holds of the device; the guard ends the trial when that passes its cap.
        target: the function that runs in the process, as ``package.module:function``.

    Raises:
        DeviceError: the fork server cannot start a process, or the GPU cannot be asked.
    """

    def __init__(self, request: TrialRequest, server: ForkServer, meter: Meter, *, target: str = EXECUTE) -> None:
        self._server = server
        self._meter = meter
        self._tenancy = Tenancy(meter, request)
        self.request = request = self._tenancy.request
        self._began = time.monotonic()
        self._kills_before = out_of_memory_kills()
        self._rehearsed: MemoryFigures | None = None
        self._unread: str | None = None
        self._epochs: list[EpochReport] = []
        self._waiting: deque[Message] = deque()
        self._said: Outcome | None = None  # the outcome as the process told it
        self._said_at = 0.0
        self._ending: Verdict | None = None  # why we end it
        self._finished: Finished | None = None
        self._discard_checkpoint()  # of an earlier attempt under this number
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                self.pid = server.fork(theirs)
            self._channel: Connection | None = Connection(ours.detach())
        except DeviceError:
            ours.close()
            raise
        try:
            self._tenancy.begin(self.pid)
            self._guard = self._watched()
        except DeviceError:
            self._channel.close()
            self._signal(signal.SIGKILL)
            server.release(self.pid)
            raise
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # its exit is noticed by the first poll
            self._channel.send_bytes(dumps((target, request)))

    def _watched(self) -> Guard:
        """The guard at work, before the process has its request.

        Raises:
            NoAnswerError: there can be none, as this process has no descriptor or thread left.
        """
        try:
            return Guard(self.pid, self.request.memory_cap, self._meter).__enter__()
        except (OSError, RuntimeError) as error:
            raise NoAnswerError(
                f"The memory of trial {self.request.number} cannot be watched ({error}), and without a watch there is no cap. Has this process too many open "
                "files or threads? `ulimit -n` and `ulimit -u` show what it may have."
            ) from error

    def poll(self, timeout: float | None = None) -> Message | None:
        """The next event; None when ``timeout`` seconds pass without one. After the end it repeats the last event."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._waiting:
            if self._finished is not None:
                return self._finished
            remaining = 1.0 if deadline is None else deadline - time.monotonic()
            self._wait(min(max(remaining, 0.0), 1.0))
            self._advance()
            if not self._waiting and self._finished is None and deadline is not None and time.monotonic() >= deadline:
                return None
        return self._waiting.popleft()

    def events(self) -> Iterator[Message]:
        """All events until the trial's end."""
        while True:
            event = self.poll()
            if event is not None:
                yield event
            if isinstance(event, Finished):
                return

    def stop(self, reason: str, status: Status = Status.STOPPED) -> Outcome:
        """Ends the trial within seconds and returns its outcome, with this status unless it had ended before."""
        if self._finished is None and self._said is None:
            self._ending = Verdict(status, reason)
            self._signal(signal.SIGTERM)
            hard = time.monotonic() + GRACE_SECONDS
            while self._finished is None:
                self._wait(0.1)
                self._advance()
                if time.monotonic() >= hard:
                    self._signal(signal.SIGKILL)
                    hard += 1.0
        for event in self.events():
            if isinstance(event, Finished):
                return event.outcome
        raise AssertionError("events() ends with Finished")

    def outcome_so_far(self, status: Status, reason: str) -> Outcome:
        """What is known now, as the outcome of a trial that ended here."""
        request = self.request
        best = None
        if request.metric is not None and self._epochs:
            best = max(self._epochs, key=lambda report: report.metrics.get(request.metric or "", float("-inf")))
        return Outcome(
            status=status,
            reason=reason,
            metric=best.metrics.get(request.metric or "") if best else None,
            metrics=best.metrics if best else {},
            best_epoch=best.epoch if best else None,
            epochs=tuple(self._epochs),
            peak=self._peak(self._rehearsed),
            predicted=request.predicted,
            seconds=time.monotonic() - self._began,
            memory_over_time=self._guard.over_time.pairs(),
            details={} if self._unread is None else {"features": {"read": False, "why": self._unread}},
        )

    def _peak(self, told: MemoryFigures | None) -> MemoryFigures:
        """What the process told of its memory, with the highest figure that the guard has seen of it."""
        seen, source = self._guard.peak_bytes, self._guard.peak_source
        if told is None:
            return MemoryFigures(allocated=0, device=seen, meter=source)
        return replace(told, device=seen, meter=source) if seen > told.device else told

    def _wait(self, seconds: float) -> None:
        if self._tenancy.waits:
            seconds = min(seconds, 0.05)  # nobody tells when the device is back
        wait([self._server.fileno(), *([self._channel] if self._channel is not None else [])], seconds)

    def _advance(self) -> None:
        """Takes what has come; sets ``_finished`` when the process is gone."""
        self._read_channel()
        try:
            self._server.receive()
            status = self._server.exit_status(self.pid)
        except DeviceError as error:
            self._conclude(Verdict(Status.INTERRUPTED, f"Trial {self.request.number} was cut off: {error}"))
            return
        if status is not None:
            self._read_channel()  # what it sent just before its end
            if not self._tenancy.waits:
                self._signal(signal.SIGKILL)  # whatever it has started may hold the device too
            if self._tenancy.is_over(self.pid, asked_to_end=self._ending is not None):
                self._conclude(self._judge(status))
        elif self._ending is None and (unheld := self._guard.unheld()):
            self._ending = Verdict(
                Status.INTERRUPTED,
                f"Trial {self.request.number}: {unheld}, so its cap could no longer be held, and it was ended.",
            )
            self._signal(signal.SIGKILL)
        elif self._said is not None and time.monotonic() - self._said_at > EXIT_SECONDS:
            self._signal(signal.SIGKILL)  # it has said all and does not go

    def _read_channel(self) -> None:
        while self._channel is not None:
            try:
                if not self._channel.poll(0):
                    return
                message: Message = self._channel.recv()
            except (EOFError, OSError):  # closed, or cut off in the middle of a message
                self._channel.close()
                self._channel = None
                return
            if isinstance(message, Finished):
                self._said, self._said_at = message.outcome, time.monotonic()
                continue
            if isinstance(message, Unread):
                self._unread = message.why
                continue
            if isinstance(message, Epoch):
                self._epochs.append(message.report)
            elif isinstance(message, Rehearsed):
                self._rehearsed = message.figures
                self._tenancy.told(self.pid, message.figures)
                message = Rehearsed(self._peak(message.figures))
            self._waiting.append(message)

    def _judge(self, status: int) -> Verdict | None:
        """Why the process is gone; None when its own word stands."""
        peak = self._peak(self._rehearsed)
        if self._guard.breached:
            return breach(self.request, peak)
        if self._guard.blind and self._said is None:
            return Verdict(Status.INTERRUPTED, f"Trial {self.request.number}: {self._guard.reason}")
        if self._said is not None:
            return None
        if self._ending is not None:
            return self._ending
        return death(self.request, status, peak=peak, memory_ran_out=out_of_memory_kills() > self._kills_before)

    def _conclude(self, verdict: Verdict | None) -> None:
        self._guard.__exit__(None, None, None)
        if self._server.is_alive():
            self._signal(signal.SIGKILL)  # what it may have started and left behind; itself it is a zombie
            self._server.release(self.pid)
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if verdict is None and self._said is not None:
            outcome = replace(
                self._said,
                peak=self._peak(self._said.peak or self._rehearsed),
                predicted=self.request.predicted,
                seconds=time.monotonic() - self._began,
                memory_over_time=self._guard.over_time.pairs(),
            )
        else:
            assert verdict is not None
            outcome = self.outcome_so_far(verdict.status, verdict.reason)
        if outcome.status is not Status.COMPLETE:
            self._discard_checkpoint()
        self._finished = Finished(self._tenancy.judge(outcome))
        self._waiting.append(self._finished)

    def _discard_checkpoint(self) -> None:
        if self.request.kind == "train" and not self.request.resumable:
            shutil.rmtree(self.request.checkpoint_dir, ignore_errors=True)

    def _signal(self, number: signal.Signals) -> None:
        """To the process and all it has started; its id is its own until it is released."""
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:  # it has not come to lead its group yet, or nothing of it is left
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)
