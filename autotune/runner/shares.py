"""How much of a machine a trial gets: a share of the memory budget in a few classes, so that places can be reused."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from autotune.trial.request import TrialRequest

#: Ray starts a new worker (seconds) for a trial whose request differs from that of the place that is free.
CLASSES: tuple[float, ...] = (0.125, 0.25, 0.5, 1.0)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What trials are placed on.

    device: what they train on. threads: CPU cores that each gets. budget: bytes of the device's memory that trials
    running at one time may hold together; per GPU. max_concurrent: trials at a time at most; None allows as many as
    there are cores and budget for.
    """

    device: Literal["cpu", "cuda"]
    threads: int
    budget: int
    max_concurrent: int | None = None

    def places(self, cores: int, devices: int = 1) -> int:
        """How many trials may run at a time on this many cores (and GPUs), memory apart."""
        by_cores = cores // self.threads
        most = round(devices / CLASSES[0]) if self.device == "cuda" else by_cores
        return max(1, min(by_cores, most, self.max_concurrent or by_cores))

    def budgets(self, node: Mapping[str, float]) -> int:
        """How many times a node of these Ray resources holds the whole budget."""
        return int(node.get("GPU", 0.0)) if self.device == "cuda" else int(node.get("memory", 0.0) // self.budget)

    def share(self, request: TrialRequest, places: int) -> float:
        """The smallest class that holds what the trial is predicted to need; its whole cap when nothing is known.

        Never less than an equal part of the budget: a smaller share would bring no further trial in, and each class
        more costs reuse.
        """
        if request.predicted is None:
            return self.whole_share(request)
        equal = self.least_share(places)
        needed = request.predicted.device / self.budget
        return max(equal, next((share for share in CLASSES if needed <= share), 1.0))

    def whole_share(self, request: TrialRequest) -> float:
        """The smallest class that holds the trial's whole cap."""
        return next((share for share in CLASSES if request.memory_cap <= math.floor(share * self.budget)), 1.0)

    def least_share(self, places: int) -> float:
        """The share that each of this many trials at a time can have."""
        return max((share for share in CLASSES if share <= 1 / places), default=CLASSES[0])

    def resources(self, share: float) -> dict[str, float]:
        """What Ray is asked for. On a CPU its ``memory`` counts the budget, so that sums never exceed it."""
        if self.device == "cuda":
            return {"CPU": float(self.threads), "GPU": share}
        return {"CPU": float(self.threads), "memory": float(math.floor(share * self.budget))}

    def limit(self, request: TrialRequest, share: float) -> int:
        """Bytes at which the trial is ended: its cap, and not more than its share."""
        return min(request.memory_cap, math.floor(share * self.budget))


def usable_cores() -> int:
    """Cores that this process may use: its affinity, and the container's quota where there is one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            cores = min(cores, max(1, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):
        pass
    return cores
