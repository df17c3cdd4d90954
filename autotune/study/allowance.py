"""What of a device one trial may hold, and all trials of a study on it together, given what is free."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from autotune.config import StudyConfig
from autotune.errors import DeviceError
from autotune.memory.allocator_settings import AllocatorSettings
from autotune.memory.device import DeviceInfo, available_device
from autotune.study.folder import StudyFolder
from autotune.units import format_bytes

#: What ``--gpu-budget all`` leaves free: other programs breathe, and drivers round.
LEFT_FREE = 0.05


@dataclass(frozen=True, kw_only=True)
class Allowance:
    """cap: bytes for one trial. budget: bytes for all trials of one device together, at least the cap. kept_budget: how
    the study's settings keep it, so that ``all`` is asked again on resume. notes: for people, what was lowered and what
    predictions do not know."""

    cap: int
    budget: int
    kept_budget: int | Literal["all"] | None
    notes: list[str] = field(default_factory=list)


def allowance_for(config: StudyConfig, device: DeviceInfo) -> Allowance:
    """Cap and budget that the device can give now; what is above that is lowered, and a note says so. So does one of what torch's
    allocator is told that predictions do not know.

    Raises:
        ConfigError: torch would refuse what its allocator is told.
    """
    cap, free, asked = config.memory_cap, device.free_bytes, config.gpu_budget
    notes = list(filter(None, [allocator_settings(device).warning]))
    where = f"that are free on {device.name}"
    if device.limited_by:
        where += f" ({device.limited_by})"
    if cap > free:
        notes.append(
            f"the cap of {format_bytes(cap)} is more than the {format_bytes(free)} {where}; {format_bytes(free)} is kept as "
            "the cap instead"
        )
        cap = free
    if asked is None:
        return Allowance(cap=cap, budget=cap, kept_budget=None, notes=notes)
    if asked == "all":
        budget = int(free * (1 - LEFT_FREE))
        if cap > budget:
            notes.append(
                f"with --gpu-budget all a trial's cap of {format_bytes(cap)} is more than the budget, which is the "
                f"{format_bytes(free)} {where} less 5 %; {format_bytes(budget)} is kept as the cap instead"
            )
            cap = budget
        return Allowance(cap=cap, budget=budget, kept_budget="all", notes=notes)
    budget = asked
    if budget > free:
        notes.append(
            f"the --gpu-budget of {format_bytes(budget)} is more than the {format_bytes(free)} {where}; {format_bytes(free)} is "
            "kept as the budget instead"
        )
        budget = free
    return Allowance(cap=cap, budget=budget, kept_budget=budget, notes=notes)


def allocator_settings(device: DeviceInfo, environment: Mapping[str, str] = os.environ) -> AllocatorSettings:
    """What torch's CUDA allocator is told in trials, which run in this environment; nothing counts where they run on a CPU.

    Raises:
        ConfigError: torch would refuse it.
    """
    return AllocatorSettings.of(environment) if device.kind == "cuda" else AllocatorSettings()


def require_gpu(study_dir: Path) -> None:
    """That the study's GPU still answers.

    Raises:
        DeviceError: it does not; the message says how to go on.
    """
    try:
        gone = "" if available_device().kind == "cuda" else "torch sees no GPU any more."
    except DeviceError as error:
        gone = str(error)
    if gone:
        raise DeviceError(
            f"The GPU that this study runs on is gone: {gone} Nothing finished is lost: when it is back, go on with "
            f"`autotune resume {StudyFolder(study_dir).option}`; `autotune doctor` says what is there now."
        )
