"""The meter that a trial's memory is measured and capped with."""

from __future__ import annotations

from autotune.memory.meter import METERS, Meter
from autotune.trial.request import TrialRequest


def meter_for(request: TrialRequest) -> Meter:
    """Private bytes of the process on a CPU, what NVML shows of it on a GPU."""
    return METERS.get("nvml" if request.device == "cuda" else "process")()
