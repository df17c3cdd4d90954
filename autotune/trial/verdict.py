"""What a trial's end means when its process did not say it: a signal, an exit code, a breach of the cap."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path

from autotune.outcome import MemoryFigures, Status
from autotune.trial.request import TrialRequest
from autotune.units import format_bytes

#: A process that something else killed is taken to have run out of memory when it held this much of its cap.
NEAR_CAP = 0.9
#: In an outcome's details: memory was out because of what others hold, so the trial may be tried again.
ANOTHER_TENANT = "another_tenant"
LOG_BYTES = 16_000
LINE_CHARACTERS = 800


@dataclass(frozen=True)
class Verdict:
    """How a trial is recorded that did not finish by itself."""

    status: Status
    reason: str


def breach(request: TrialRequest, peak: MemoryFigures) -> Verdict:
    """The guard ended the trial: what it held, what is allowed, what was expected."""
    known = []
    if peak.allocated:
        known.append(f"tensors {format_bytes(peak.allocated)} at the rehearsal")
    if request.predicted is not None:
        known.append(f"predicted {format_bytes(request.predicted.device)}")
    return Verdict(
        Status.OVER_CAP,
        f"Trial {request.number} was ended: it held {format_bytes(peak.device)} ({peak.meter}), over the cap of "
        f"{format_bytes(request.memory_cap)}" + (f" ({', '.join(known)})" if known else "") + ". "
        "A smaller batch size, accumulation or activation checkpointing needs less.",
    )


def death(request: TrialRequest, status: int, *, peak: MemoryFigures, memory_ran_out: bool) -> Verdict:
    """The process ended without an outcome.

    Args:
        request: the trial.
        status: its exit code, or minus the signal that ended it.
        peak: what it held of the device at most.
        memory_ran_out: the system has meanwhile killed processes for lack of memory.
    """
    said = last_lines(request.log_file)
    told = f" Its last lines: {said}" if said else " It wrote nothing."
    where = f" All it wrote: {request.log_file}."
    if status == -signal.SIGKILL and (memory_ran_out or peak.device >= NEAR_CAP * request.memory_cap):
        why = (
            "the system killed it for lack of memory"
            if memory_ran_out
            else f"it was killed when it held nearly its cap of {format_bytes(request.memory_cap)}"
        )
        return Verdict(
            Status.OUT_OF_MEMORY,
            f"Trial {request.number} ran out of memory: {why}; it held {format_bytes(peak.device)} at most. "
            "A lower --memory-cap or fewer trials at a time leave the system more room." + where,
        )
    if status < 0:
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = f"signal {-status}"
        return Verdict(
            Status.FAILED, f"Trial {request.number}: its process was ended by {name} (signal {-status}).{told}{where}"
        )
    return Verdict(
        Status.FAILED, f"Trial {request.number}: its process ended by itself with exit code {status}.{told}{where}"
    )


def last_lines(log_file: Path, lines: int = 6) -> str:
    """The end of a trial's log in one line; empty where it wrote nothing."""
    try:
        with log_file.open("rb") as log:
            log.seek(0, 2)
            log.seek(max(0, log.tell() - LOG_BYTES))
            text = log.read().decode(errors="replace")
    except OSError:
        return ""
    kept = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("Extension modules:")]
    fatal = next((index for index, line in enumerate(kept) if line.startswith("Fatal Python error:")), None)
    if fatal is not None:  # a crash: Python wrote the innermost call first
        return " | ".join(kept[fatal : fatal + lines])[:LINE_CHARACTERS]
    return " | ".join(kept[-lines:])[-LINE_CHARACTERS:]


def out_of_memory_kills() -> int:
    """How many processes the kernel has killed for lack of memory since boot; 0 where it does not say."""
    try:
        for line in Path("/proc/vmstat").read_text().splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    except OSError:
        pass
    return 0
