"""The parent's side of ``accuracy_child.py``: starts it, watches what it holds of the device, takes its figures."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from accuracy_cases import Case

import autotune
from autotune.memory.guard import Guard
from autotune.memory.meter import Meter
from autotune.memory.nvml import NvmlDevice
from autotune.memory.nvml_meter import NvmlMeter
from autotune.memory.process import ProcessMeter

CHILD = Path(__file__).with_name("accuracy_child.py")
WATCH_SECONDS = 0.05  # 20 readings a second
TIMEOUT_SECONDS = 150.0


class GrowthMeter:
    """What a GPU has grown by since this was made: right for one process at a time on a GPU that nobody else uses, where
    NVML shows no figures of processes."""

    name = "growth"
    source = "growth of the whole device (NVML shows nothing for the process)"

    def __init__(self, device: NvmlDevice) -> None:
        self._device = device
        self._before = device.memory().used_bytes

    def device_bytes(self, pid: int) -> int | None:
        """Bytes more than at the beginning, whichever process is asked for."""
        del pid
        used = self._device.memory().used_bytes
        self._before = min(self._before, used)  # the driver may still have been taking back what the last process held
        return used - self._before


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a run took, in bytes. status: ``held`` (it ran through), ``out of memory``, ``ended by the guard`` or ``failed``.
    device: the highest reading from outside; reserved, context: None where there is no caching allocator."""

    status: str
    error: str = ""
    allocated: int = 0
    reserved: int | None = None
    device: int | None = None
    context: int | None = None
    rehearsal_allocated: int = 0
    rehearsal_reserved: int | None = None
    allocation_retries: int = 0
    readings: int = 0
    source: str = ""
    seconds: float = 0.0

    @property
    def ran(self) -> bool:
        """Whether there are figures to grade."""
        return self.status == "held"


class Stand:
    """Where runs take place. jobs: how many at once; they load side by side, and wait here for the GPU. drawn: whether models get
    random weights.

    own_figures: whether NVML shows each process's memory; where it does not, runs have the GPU one by one and the
    device's growth is read instead.
    """

    def __init__(
        self, device: Literal["cpu", "cuda"], *, jobs: int = 1, own_figures: bool = True, drawn: bool = True
    ) -> None:
        self.device, self.jobs, self.own_figures, self.drawn = device, jobs, own_figures, drawn
        self._turns = threading.BoundedSemaphore(jobs if own_figures else 1)

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """A place on the device."""
        with self._turns:
            yield

    def meter(self, pid: int) -> Meter:
        """What reads this process, which has not touched the device yet.

        Raises:
            DeviceError: the driver does not answer.
        """
        if self.device == "cpu":
            return ProcessMeter()
        nvml = NvmlMeter()
        if not self.own_figures:
            return GrowthMeter(nvml.device)
        nvml.begin(pid)
        return nvml


def run(case: Case, stand: Stand, *, cap_bytes: int, outside_bytes: int, threads: int = 1) -> Measured:
    """Runs a case in a fresh process under this cap: its allocator is bounded, and what it holds is watched from outside.

    outside_bytes: what is reckoned with outside the allocator (the CUDA context).

    Raises:
        DeviceError: the driver does not answer.
    """
    request = {
        "case": case.to_dict(),
        "device": stand.device,
        "cap_bytes": cap_bytes,
        "outside_bytes": outside_bytes,
        "threads": threads,
        "drawn": stand.drawn,
    }
    with tempfile.TemporaryFile("w+") as errors:
        child = subprocess.Popen(
            [sys.executable, str(CHILD)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=_environment(threads),
        )
        timer = threading.Timer(TIMEOUT_SECONDS, child.kill)  # a descriptor of its own child: no other process is met
        timer.start()
        try:
            measured = _talk(child, request, stand, cap_bytes)
        finally:
            timer.cancel()
            child.kill()
            _hang_up(child)
        if measured.status == "failed" and not measured.error:
            errors.seek(0)
            last = errors.read().strip().splitlines()[-1:] or [f"it ended with {child.returncode}"]
            return Measured(status="failed", error=last[0])
        return measured


def _talk(child: subprocess.Popen[str], request: dict[str, Any], stand: Stand, cap_bytes: int) -> Measured:
    assert child.stdin is not None
    assert child.stdout is not None
    _send(child.stdin, json.dumps(request))
    if _answer(child.stdout).get("state") != "ready":
        return Measured(status="failed")
    with stand.turn():
        meter = stand.meter(child.pid)
        with Guard(child.pid, cap_bytes, meter, WATCH_SECONDS) as guard:
            _send(child.stdin, "go")
            answer = _answer(child.stdout)
            now = meter.device_bytes(child.pid) if answer.get("state") == "held" else None
        _hang_up(child)  # it goes before the next one's turn: what it held is given back
    return _measured(answer, guard, now)


def _measured(answer: dict[str, Any], guard: Guard, now: int | None) -> Measured:
    device = max(guard.peak_bytes, now or 0) or None
    seen: dict[str, Any] = {"device": device, "readings": guard.readings, "source": guard.peak_source}
    if guard.breached or guard.blind:
        return Measured(status="ended by the guard", error=guard.reason, **seen)
    if answer.get("state") == "failed":
        status = "out of memory" if answer["out_of_memory"] else "failed"
        return Measured(status=status, error=str(answer["error"]).splitlines()[0], **seen)
    if answer.get("state") != "held":
        return Measured(status="failed", **seen)
    reserved_now = answer.pop("reserved_now", None)
    context = None if reserved_now is None or now is None else now - reserved_now
    del answer["state"]
    return Measured(status="held", context=context, **seen, **answer)


def _hang_up(child: subprocess.Popen[str]) -> None:
    """Ends its input, which ends it, and waits for that."""
    for stream in (child.stdin, child.stdout):
        with contextlib.suppress(BrokenPipeError):
            if stream is not None:
                stream.close()
    child.wait()


def _send(stream: IO[str], line: str) -> None:
    with contextlib.suppress(BrokenPipeError):  # a child that is gone says so by the end of its output
        stream.write(line + "\n")
        stream.flush()


def _answer(stream: IO[str]) -> dict[str, Any]:
    """The next line that is an answer; empty where the child has ended. Libraries may print other lines."""
    for line in stream:
        if line.startswith('{"state"'):
            return dict(json.loads(line))
    return {}


def _environment(threads: int) -> dict[str, str]:
    root = str(Path(autotune.__file__).parents[1])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": str(threads)}
