"""torch's own caching allocator for CUDA, made to run where no GPU is.

The CUDA wheels of torch hold it in two small libraries, libc10.so and libc10_cuda.so. They ask the CUDA runtime and the driver
for memory and never look at what lies there, so a stand-in that hands out addresses is enough (``allocator_driver/``). Wheels and
CUDA's headers come from the package index, pinned by sha256; what is kept of them and what is compiled, about 10 MB a version,
lies in the cache folder (``AUTOTUNE_CACHE``). It needs gcc and g++ and Linux on x86-64.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from packages import FetchError, WheelTree, cached

from autotune.memory.allocator_rules import AllocatorRules
from autotune.memory.allocator_settings import VARIABLES, AllocatorSettings

Order = Literal["rising", "falling", "mixed"]
ORDERS: tuple[Order, ...] = ("rising", "falling", "mixed")
"""How the addresses of segments follow each other; on a GPU nobody knows."""

DEVICE_BYTES = 80_000_000_000
BASE = 2**45
"""The first address that the stand-in hands out."""

_HEADERS = ("torch/include/c10/", "torch/include/torch/headeronly/")
_LIBRARIES = ("torch/lib/libc10.so", "torch/lib/libc10_cuda.so")
TORCH = {  # the exact form, so that a build for the CPU does not come instead
    version: WheelTree(f"torch==={version}", sha256, (*_HEADERS, *_LIBRARIES))
    for version, sha256 in {
        "2.11.0": "7aa2f9bbc6d4595ba72138026b2074be1233186150e9292865e04b7a63b8c67a",
        "2.12.1": "6e29e7e74d05bda7d955c75e99459f878ebd970ef851b4057edbd3b34a5eb4a3",
        "2.13.0": "60fcdcb2f3876e21146cb4524ef06397d727ca9ad5f020818547e25075fe3cb7",
    }.items()
}
CUDA = (  # the headers; these versions of torch are all built with CUDA 13.0
    WheelTree(
        "nvidia-cuda-runtime==13.0.96",
        "7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548",
        ("nvidia/cu13/include/",),
    ),
    WheelTree(
        "nvidia-cuda-crt==13.0.88",
        "2c8043c7c9e02492716426e9919fc78d2c5b3b2a7a768a88e952676b08aa55a4",
        ("nvidia/cu13/include/",),
    ),
)
_RUNTIME = "libcudart.so.13"
_SOURCES = Path(__file__).parent / "allocator_driver"


class BuildError(RuntimeError):
    """The allocator cannot be had or made here; the message says what is missing."""


class ServeError(RuntimeError):
    """The allocator ended by itself, which it does where its settings contradict each other."""


@dataclass(frozen=True, kw_only=True)
class Served:
    """trace: its history, as ``torch.cuda.memory._snapshot()`` has it. peak_reserved: by its own count, in bytes."""

    trace: list[dict[str, Any]]
    peak_reserved: int


class RealAllocator:
    """torch's allocator of this version, compiled and ready.

    Raises:
        BuildError: it cannot be had or made here.
    """

    def __init__(self, version: str) -> None:
        self.version = version
        self._folder = _built(version)

    def serve(
        self, requests: Iterable[str], *, settings: str = "", order: Order = "rising", device_bytes: int = DEVICE_BYTES
    ) -> Served:
        """What it does with these requests (their form: ``allocator_driver/allocator.cpp``) under these settings.

        Raises:
            ServeError: it ended by itself.
        """
        environment = self._environment(settings) | {"STAND_IN_ORDER": order, "STAND_IN_BYTES": str(device_bytes)}
        done = subprocess.run(
            [self._folder / "allocator"], input="\n".join([*requests, ""]), capture_output=True, text=True, check=False, env=environment
        )  # fmt: skip
        if done.returncode != 0:
            raise ServeError(
                f"torch {self.version} ended with {done.returncode} under {settings!r}: {done.stderr[:300]}"
            )
        *entries, last = done.stdout.splitlines()
        trace = []
        for line in entries:
            action, address, size = line.split()
            trace.append({"action": action, "addr": int(address), "size": int(size), "stream": 0})
        return Served(trace=trace, peak_reserved=int(last.split()[-1]))

    def limit_bytes(self, fraction: float) -> int:
        """What a fraction of the device allows: torch cuts the product to whole bytes, from 2.13 on it rounds."""
        exact = fraction * DEVICE_BYTES
        return round(exact) if self.version >= "2.13" else int(exact)

    def rules(self, settings: str) -> AllocatorRules:
        """How the model follows this version under these settings."""
        return AllocatorSettings.of({VARIABLES[0]: settings}, torch=self.version).rules

    def settings(self, text: str) -> dict[str, str] | None:
        """What it makes of its settings, by name; None where it refuses them."""
        done = subprocess.run(
            [self._folder / "allocator", "settings"], capture_output=True, text=True, check=False, env=self._environment(text)
        )  # fmt: skip
        if done.returncode != 0:
            return None
        return dict(line.split(maxsplit=1) for line in done.stdout.splitlines())

    def _environment(self, settings: str) -> dict[str, str]:
        own = {name: value for name, value in os.environ.items() if name not in VARIABLES}
        libraries = os.pathsep.join([str(self._folder), str(self._folder / "torch" / "lib")])
        return own | {"LD_LIBRARY_PATH": libraries, VARIABLES[0]: settings, "TORCH_DISABLE_ADDR2LINE": "1"}


def _built(version: str) -> Path:
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        raise BuildError("torch's CUDA wheels that are pinned here are for Linux on x86-64.")
    missing = [name for name in ("gcc", "g++") if shutil.which(name) is None]
    if missing:
        raise BuildError(f"{' and '.join(missing)} is missing here (on Debian: apt-get install gcc g++).")
    text = b"".join(file.read_bytes() for file in sorted(_SOURCES.iterdir()))
    wheels = (TORCH[version], *CUDA)

    def make(folder: Path) -> None:
        for wheel in wheels:
            wheel.unpack(folder)
        _compile(folder)

    try:
        return cached(f"allocator-{version}-{hashlib.sha256(text).hexdigest()[:8]}", wheels, make)
    except FetchError as error:
        raise BuildError(str(error)) from error


def _compile(folder: Path) -> None:
    headers = [f"-I{folder / 'torch' / 'include'}", f"-I{folder / 'nvidia' / 'cu13' / 'include'}"]
    libraries = [f"-L{folder / 'torch' / 'lib'}", f"-L{folder}", "-lc10_cuda", "-lc10", f"-l:{_RUNTIME}"]
    named = ["-Wl,--default-symver", f"-Wl,-soname,{_RUNTIME}"]
    stand_in = ["gcc", "-shared", "-fPIC", "-O1", *headers, *named, str(_SOURCES / "cuda_stand_in.c")]
    driver = ["g++", "-std=c++20", "-O1", *headers, str(_SOURCES / "allocator.cpp"), *libraries]
    # the stand-in has what the allocator calls, not all that the library names
    for command, target in ((stand_in, _RUNTIME), ([*driver, "-Wl,--allow-shlib-undefined"], "allocator")):
        done = subprocess.run([*command, "-o", str(folder / target)], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise BuildError(f"{command[0]} failed for {target}:\n{done.stderr[:1000]}")
    for headers_folder in (folder / "torch" / "include", folder / "nvidia"):
        shutil.rmtree(headers_folder)
