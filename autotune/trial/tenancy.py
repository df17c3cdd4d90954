"""A trial's stay on a GPU that others use too: what is free when it comes, what it leaves behind when it goes."""

from __future__ import annotations

import time
from dataclasses import replace

from autotune.errors import DeviceError
from autotune.memory.meter import Meter
from autotune.memory.nvml_meter import NvmlMeter
from autotune.outcome import MemoryFigures, Outcome, Status
from autotune.trial.request import TrialRequest
from autotune.trial.verdict import ANOTHER_TENANT
from autotune.units import format_bytes

#: How long the GPU is waited for to get back what an ended trial held; shorter when the trial was asked to end.
BASELINE_SECONDS = 10.0
BASELINE_SECONDS_ENDING = 2.0


class Tenancy:
    """Of one trial's process, seen from outside. With a meter of another device than a GPU it does nothing.

    request: the trial, its cap lowered to what the GPU has free at this moment where that is less.

    Raises:
        DeviceError: the GPU cannot be asked.
    """

    def __init__(self, meter: Meter, request: TrialRequest) -> None:
        self._gpu = meter if isinstance(meter, NvmlMeter) else None
        self._asked_cap = request.memory_cap
        self._notes: list[str] = []  # what the outcome's reason says besides
        self._gone_at: float | None = None
        self.request = self._within_free(request)

    @property
    def waits(self) -> bool:
        """Whether the process has ended and the GPU is waited for."""
        return self._gone_at is not None

    def begin(self, pid: int) -> None:
        """The process lives and waits for its request, so it has not touched the GPU yet.

        Raises:
            DeviceError: the GPU cannot be asked.
        """
        if self._gpu is not None:
            self._gpu.begin(pid)

    def told(self, pid: int, figures: MemoryFigures) -> None:
        """What the process says of its memory serves where NVML shows nothing for it."""
        if self._gpu is not None and figures.reserved is not None:
            self._gpu.report(pid, figures.reserved, figures.device - figures.reserved, figures.meter)

    def is_over(self, pid: int, *, asked_to_end: bool) -> bool:
        """Whether the GPU has got back what the ended process held, or has been waited for long enough."""
        if self._gpu is None:
            return True
        self._gone_at = time.monotonic() if self._gone_at is None else self._gone_at
        waited = time.monotonic() - self._gone_at
        try:
            left = self._gpu.left_bytes(pid)
        except DeviceError as error:
            self._notes.append(f"Whether the GPU got its memory back is not known: {error}")
            return True
        if left and waited >= (BASELINE_SECONDS_ENDING if asked_to_end else BASELINE_SECONDS):
            self._notes.append(
                f"{waited:.0f} s after its end the GPU still held {format_bytes(left)} more than before it: another process "
                "took that meanwhile, or the driver has not given it back (`nvidia-smi` shows who holds it)."
            )
            return True
        return not left

    def judge(self, outcome: Outcome) -> Outcome:
        """The outcome with what happened around the trial; what a lowered cap ended is other tenants' doing."""
        notes, details, status = list(self._notes), dict(outcome.details), outcome.status
        if self.request.memory_cap < self._asked_cap:
            details["lowered_cap"] = self.request.memory_cap
            within = outcome.peak is None or outcome.peak.device <= self._asked_cap
            if status is Status.OUT_OF_MEMORY or (status is Status.OVER_CAP and within):
                status = Status.OUT_OF_MEMORY
                details[ANOTHER_TENANT] = True
                notes.append(
                    "So it is the other processes' doing and no breach of the trial's own cap; it may be tried again."
                )
        reason = " ".join(filter(None, [outcome.reason, *notes]))
        return replace(outcome, status=status, details=details, reason=reason)

    def _within_free(self, request: TrialRequest) -> TrialRequest:
        if self._gpu is None:
            return request
        memory = self._gpu.device.memory()
        if memory.free_bytes >= request.memory_cap:
            return request
        self._notes.append(
            f"Its cap was lowered from {format_bytes(request.memory_cap)} to the {format_bytes(memory.free_bytes)} that the "
            f"GPU had free when it started; others held {format_bytes(memory.used_bytes)}."
        )
        return replace(request, memory_cap=max(1, memory.free_bytes))
