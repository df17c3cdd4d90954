"""What ``autotune doctor`` looks at, one function a thing: from facts to a finding with its remedy.

``fail`` would keep a study from running; ``warn`` makes it slower, smaller or less exactly measured than it could be.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from autotune.errors import ConfigError
from autotune.memory.allocator_settings import AllocatorSettings
from autotune.memory.context import DEFAULT_CONTEXT_BYTES
from autotune.memory.device import DeviceInfo
from autotune.probing import Facts
from autotune.units import format_bytes

#: A trial of the smallest packaged model needs about this much (benchmarks/trial_memory.py).
LEAST_MEMORY_BYTES = 1_000_000_000
LEAST_DISK_BYTES, ROOMY_DISK_BYTES = 500_000_000, 5_000_000_000
#: Of Ray's own processes on this machine.
RAY_BYTES = 500_000_000


@dataclass(frozen=True, kw_only=True)
class Check:
    """One finding. found: what is there, in words. remedy: what to do; "" where nothing is to be done."""

    name: str
    state: Literal["ok", "warn", "fail"]
    found: str
    remedy: str = ""


def torch_check(torch: Facts, nvml: Facts) -> Check:
    """torch's build against what NVML shows."""
    if "error" in torch:
        return Check(
            name="torch",
            state="fail",
            found=f"torch does not start: {torch['error']}",
            remedy="Install it again (`pip install --force-reinstall torch`); where it hangs, look at the GPU's driver.",
        )
    built = f"{torch['version']}, built for CUDA {torch['cuda']}" if torch["cuda"] else f"{torch['version']}, CPU build"
    if nvml.get("gpus") and not torch["cuda"]:
        return Check(
            name="torch",
            state="warn",
            found=f"{built}: it cannot use the GPU that is here, so trials run on the CPU",
            remedy="Install a CUDA build of torch: https://pytorch.org/get-started/locally",
        )
    if nvml.get("gpus") and not torch["sees_gpu"]:
        return Check(
            name="torch",
            state="fail",
            found=f"{built}, but it sees no GPU, though NVML shows one (driver {nvml['driver']})",
            remedy="The driver may be too old for this build: update it, or install a torch for an older CUDA; or hide the "
            "GPU with CUDA_VISIBLE_DEVICES='' to train on the CPU.",
        )
    return Check(name="torch", state="ok", found=built)


def gpu_check(torch: Facts, nvml: Facts, environment: Mapping[str, str]) -> Check:
    """GPUs and driver."""
    if environment.get("CUDA_VISIBLE_DEVICES", "unset").strip() in ("", "-1"):
        return Check(name="gpu", state="ok", found="hidden by CUDA_VISIBLE_DEVICES; trials run on the CPU")
    if "error" in nvml:
        wanted = bool(torch.get("cuda")) and bool(torch.get("sees_gpu"))
        if wanted or nvml.get("hangs"):
            return Check(
                name="gpu",
                state="fail" if wanted else "warn",
                found=f"the driver cannot be asked: {nvml['error']}",
                remedy="`nvidia-smi` must answer here: reload or update the driver, give the container its GPUs, or hide them "
                "with CUDA_VISIBLE_DEVICES='' to train on the CPU.",
            )
        if "CUDA_VISIBLE_DEVICES" in environment:
            return Check(
                name="gpu",
                state="warn",
                found=f"none; trials run on the CPU, though CUDA_VISIBLE_DEVICES is "
                f"{environment['CUDA_VISIBLE_DEVICES']!r}: {nvml['error']}",
                remedy="Name a GPU that `nvidia-smi -L` lists, or unset CUDA_VISIBLE_DEVICES.",
            )
        return Check(name="gpu", state="ok", found="none with a driver that answers; trials run on the CPU")
    gpus = nvml["gpus"]
    shown = "; ".join(
        f"{gpu['name']}, {format_bytes(gpu['total_bytes'])}, {format_bytes(gpu['free_bytes'])} free" for gpu in gpus
    )
    found = f"{len(gpus)}: {shown}; driver {nvml['driver']}"
    unlike = len({gpu["name"] for gpu in gpus}) > 1
    if unlike and environment.get("CUDA_DEVICE_ORDER", "PCI_BUS_ID") != "PCI_BUS_ID":
        return Check(
            name="gpu",
            state="warn",
            found=f"{found}; CUDA_DEVICE_ORDER={environment['CUDA_DEVICE_ORDER']} counts unlike GPUs otherwise than NVML, so a "
            "cap may be read from the wrong one",
            remedy="Unset CUDA_DEVICE_ORDER, or name GPUs by UUID in CUDA_VISIBLE_DEVICES (`nvidia-smi -L`).",
        )
    return Check(name="gpu", state="ok", found=found)


def nvml_check(nvml: Facts, context: Facts | None) -> Check:
    """Whether NVML shows processes with figures here, and what a context takes.

    context: what a process that used the GPU saw of itself; None where none could.
    """
    if "error" in nvml:
        return Check(name="nvml", state="ok", found="not used: there is no GPU that it could watch")
    assumed = f"{format_bytes(DEFAULT_CONTEXT_BYTES)} are taken for a context"
    if context is None:
        lists = [gpu["listed"] for gpu in nvml["gpus"]]
        told = "keeps no list of processes" if None in lists else f"lists {sum(lists)} processes"
        figures = sum(gpu["with_figure"] for gpu in nvml["gpus"])
        return Check(
            name="nvml", state="ok", found=f"{told}, {figures} with a figure; no trial uses it here; {assumed}"
        )
    if "error" in context:
        return Check(
            name="nvml",
            state="fail",
            found=f"a process could not use the GPU: {context['error']}",
            remedy="Look who holds it (`nvidia-smi`), whether its compute mode is Default, and whether torch's CUDA fits the "
            "driver.",
        )
    reserved = context["reserved_bytes"]
    if context["listed_bytes"]:
        outside = format_bytes(context["listed_bytes"] - reserved)
        return Check(name="nvml", state="ok", found=f"shows a process's own bytes; a context takes {outside}")
    grown = context["growth_bytes"] - reserved
    measured = f"a context takes {format_bytes(grown)} by the device's growth" if grown > 0 else assumed
    return Check(
        name="nvml",
        state="warn",
        found=f"shows no figure for a process (containers, WSL, slices), so trials are measured by their allocator; {measured}",
        remedy="Caps still hold by the allocator's fraction. In a container, `--pid=host` lets NVML show processes.",
    )


def allocator_check(environment: Mapping[str, str], *, on_gpu: bool) -> Check:
    """What torch's CUDA allocator is told by the environment, and what of it predictions know."""
    try:
        settings = AllocatorSettings.of(environment)
    except ConfigError as error:
        return Check(
            name="allocator",
            state="fail" if on_gpu else "warn",
            found=str(error) if on_gpu else f"{error} It plays no part while trials run on the CPU.",
            remedy="Mend the variable, or unset it.",
        )
    if settings.warning:
        return Check(
            name="allocator",
            state="warn" if on_gpu else "ok",
            found=settings.warning if on_gpu else f"{settings.variable} plays no part: trials run on the CPU",
            remedy=f"Take {', '.join(settings.unmodelled)} out of {settings.variable}." if on_gpu else "",
        )
    return Check(name="allocator", state="ok", found=settings.found or "torch's defaults")


def memory_check(device: DeviceInfo) -> Check:
    """Free memory of what trials run on."""
    bound = f" (bounded by {device.limited_by})" if device.limited_by else ""
    found = (
        f"{format_bytes(device.free_bytes)} free of {format_bytes(device.total_bytes)} on {device.name}{bound}; "
        f"measured by {device.meter}"
    )
    if device.free_bytes < LEAST_MEMORY_BYTES:
        return Check(
            name="memory",
            state="fail",
            found=found,
            remedy=f"The smallest trial needs about {format_bytes(LEAST_MEMORY_BYTES)}: end what holds the rest "
            f"({'`nvidia-smi`' if device.kind == 'cuda' else '`top`'} shows it), or raise the container's limit.",
        )
    return Check(name="memory", state="ok", found=found)


def ray_check(ray: Facts, free_ram_bytes: int) -> Check:
    """Whether Ray can be used."""
    if "error" in ray:
        return Check(
            name="ray",
            state="fail",
            found=ray["error"],
            remedy="Give the address that `ray start --head` printed, or leave --ray-address out."
            if "version" in ray
            else "Install it again: pip install 'ray[tune]>=2.60,<2.61'.",
        )
    found = f"{ray['version']} can be imported (it was not started)"
    if free_ram_bytes < RAY_BYTES:
        return Check(
            name="ray",
            state="fail",
            found=f"{found}; it needs {format_bytes(RAY_BYTES)} of memory, {format_bytes(free_ram_bytes)} are free",
            remedy="End other programs, or raise the container's limit.",
        )
    return Check(name="ray", state="ok", found=found)


def store_check(store: Facts) -> Check:
    """MLflow's store. Its failure costs no trial, so it never keeps a study from running, but an address of no use does."""
    if "error" not in store:
        note = f"; {store['note']}" if store.get("note") else ""
        return Check(name="mlflow", state="ok", found=f"{store['version']}, runs go to {store['uri']}{note}")
    return Check(
        name="mlflow",
        state="warn" if "uri" in store else "fail",
        found=store["error"],
        remedy="Start the server or give another --mlflow-uri; a study keeps what it could not deliver and `autotune report` "
        "hands it in later."
        if "uri" in store
        else "Give a sqlite:///, postgresql:// or http:// address, or leave --mlflow-uri out.",
    )


def disk_check(study_dir: Path) -> Check:
    """Whether a study's folder can be written, and the room there."""
    try:
        place = study_dir.expanduser().absolute()
        while not place.exists() and place != place.parent:  # a name may be too long to be looked for
            place = place.parent
        with tempfile.NamedTemporaryFile(dir=place, prefix=".autotune-doctor-") as file:
            file.write(b"x" * 4096)
            file.flush()
            os.fsync(file.fileno())
        room = shutil.disk_usage(place).free
    except (OSError, RuntimeError) as error:  # the latter of a home folder that is nobody's
        return Check(
            name="disk",
            state="fail",
            found=f"{study_dir} cannot be written: {getattr(error, 'strerror', None) or error}",
            remedy="Give a --study-dir that you may write to, on a disk with room.",
        )
    found = f"{format_bytes(room)} free for {study_dir}"
    if room < ROOMY_DISK_BYTES:
        return Check(
            name="disk",
            state="fail" if room < LEAST_DISK_BYTES else "warn",
            found=found,
            remedy=f"Each trial keeps its best weights: make room, {format_bytes(ROOMY_DISK_BYTES)} or more, or give a "
            "--study-dir on another disk.",
        )
    return Check(name="disk", state="ok", found=found)


def system_check() -> Check:
    """Whether trials can be forked here."""
    found = f"{os.cpu_count()} cores, {os.uname().sysname if hasattr(os, 'uname') else os.name}"
    if not hasattr(os, "fork"):
        return Check(
            name="system",
            state="fail",
            found=f"{found}: trials are forked, which this system cannot",
            remedy="Run it on Linux, macOS or inside WSL2.",
        )
    return Check(name="system", state="ok", found=found)
