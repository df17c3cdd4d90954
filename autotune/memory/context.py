"""What a CUDA context takes of a GPU beside torch's allocator: measured bytes where there are any, else one stated figure.

The context, torch's kernels once they are loaded and the libraries' own memory stand outside the allocator and count in
the device's figure. How much that is depends on torch (how many kernels it brings), on the device and on the driver.
A measurement is the device figure of a trial less its reserved bytes, after its rehearsal; ``autotune doctor`` makes one
too. They are kept for this user in a file of JSON lines.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from autotune.files import append_line, json_lines
from autotune.memory.device import DeviceInfo
from autotune.memory.gpus import gpu_key
from sherl.cache import cache_directory

# A CUDA context with torch's kernels loaded takes 300 to 600 MB; the upper end, where none was measured.
DEFAULT_CONTEXT_BYTES = 600_000_000

PLAUSIBLE = (200_000_000, 2_000_000_000)
"""Bytes that a context may take; anything else was something else."""

# (torch's major and minor version, device, driver's major version): bytes, for everybody. None has been measured yet. An
# empty string stands for any.
MEASURED: dict[tuple[str, str, str], int] = {}


@dataclass(frozen=True)
class Surroundings:
    """What a context's size depends on. torch_version, driver: as they call themselves (``2.13.0+cu130``, ``580.65.06``),
    of which the leading numbers count; device_name: of a single GPU, as NVML or a person names it. What is left empty is
    not known."""

    torch_version: str = ""
    device_name: str = ""
    driver: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        """torch's major and minor version, the kind of GPU (:func:`autotune.memory.gpus.gpu_key`), the driver's major version."""
        version = ".".join(self.torch_version.split("+")[0].split(".")[:2])
        return version, gpu_key(self.device_name), self.driver.split(".")[0]


def contexts_file() -> Path:
    """Where this user's measurements are kept; it need not exist."""
    return cache_directory() / "contexts.jsonl"


def surroundings_of(device: DeviceInfo) -> tuple[Surroundings, ...]:
    """What the size of a CUDA context depends on, for each kind of GPU of a study's device; none for a CPU."""
    return tuple(Surroundings(metadata.version("torch"), name, device.driver) for name in device.gpus)


def context_on(device: DeviceInfo, file: Path | None = None) -> int:
    """Bytes outside the allocator on any of the device's GPUs: of several kinds the most (:func:`context_bytes`)."""
    return max((context_bytes(around, file) for around in surroundings_of(device)), default=DEFAULT_CONTEXT_BYTES)


def context_bytes(around: Surroundings, file: Path | None = None) -> int:
    """Bytes outside the allocator: the most that was measured in the most alike surroundings, on this kind of device at
    least; else :data:`DEFAULT_CONTEXT_BYTES`.

    file: of the measurements; None is :func:`contexts_file`.
    """
    version, name, major = around.key
    alike = ((version, name, major), (version, name, ""), ("", name, major), ("", name, ""))
    found = list(_measured(contexts_file() if file is None else file))
    for wanted in alike if name else ():
        most = max((count for key, count in found if _matches(key, wanted)), default=None)
        if most is not None:
            return most
    for_all = {(torch, gpu_key(gpu), driver): count for (torch, gpu, driver), count in MEASURED.items()}
    for wanted in (*alike, (version, "", "")):
        if any(wanted) and wanted in for_all:
            return for_all[wanted]
    return DEFAULT_CONTEXT_BYTES


def keep_context(around: Surroundings, measured: int, file: Path | None = None) -> None:
    """Note what a context took here, where the figure can be one and says more than what is known.

    Raises:
        OSError: the file cannot be written.
    """
    file = contexts_file() if file is None else file
    if not around.key[1] or not PLAUSIBLE[0] <= measured <= PLAUSIBLE[1]:
        return
    if any(key == around.key and count >= measured for key, count in _measured(file)):
        return
    append_line(file, json.dumps({"key": around.key, "bytes": measured}))


def _matches(key: tuple[str, str, str], wanted: tuple[str, str, str]) -> bool:
    return all(part in ("", own) for own, part in zip(key, wanted, strict=True))


def _measured(file: Path) -> Iterator[tuple[tuple[str, str, str], int]]:
    with contextlib.suppress(OSError):  # a file that is not there, or not to be read, tells nothing
        for line in json_lines(file):
            with contextlib.suppress(ValueError, KeyError, TypeError):  # a line of another form
                version, name, driver = map(str, line["key"])
                if PLAUSIBLE[0] <= line["bytes"] <= PLAUSIBLE[1]:
                    yield (version, gpu_key(name), driver), int(line["bytes"])
