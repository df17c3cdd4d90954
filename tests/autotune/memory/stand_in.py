"""The NVML library that the real binding loads in tests: built from C here, its state a file that tests rewrite."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

SOURCE = Path(__file__).with_name("nvml_stand_in.c")
#: The name under which the binding asks for the library.
LIBRARY = "libnvidia-ml.so.1"
STATE = "NVML_STAND_IN_STATE"
COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


def build(folder: Path, *, old_driver: bool = False) -> Path:
    """The library in a folder of its own. old_driver: without the functions that came with driver 510."""
    assert COMPILER is not None
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / LIBRARY
    options = ["-DOLD_DRIVER"] if old_driver else []
    subprocess.run(
        [COMPILER, "-shared", "-fPIC", "-Wall", "-Werror", *options, f"-Wl,-soname,{LIBRARY}", "-o", library, SOURCE],
        check=True,
        timeout=60,
    )
    return library


@dataclass
class Gpu:
    """A GPU, or a slice of the one that ``parent`` names. compute, graphics: pid and bytes (None: no figure).
    used: bytes of the device that are taken, the processes' included."""

    uuid: str
    name: str = "Stand-in 4070"
    total: int = 12_000_000_000
    used: int = 1_000_000_000
    reserved: int = 300_000_000
    mig_mode: int = -1  # -1: the board has no slices
    parent: str = ""
    compute: list[tuple[int, int | None]] = field(default_factory=list)
    graphics: list[tuple[int, int | None]] = field(default_factory=list)

    def lines(self) -> Iterable[str]:
        kind, last = ("slice", self.parent) if self.parent else ("gpu", self.mig_mode)
        yield "\t".join(map(str, (kind, self.uuid, self.name, self.total, self.used, self.reserved, last)))
        for list_name, entries in (("compute", self.compute), ("graphics", self.graphics)):
            for pid, used in entries:
                yield f"process\t{self.uuid}\t{list_name}\t{pid}\t{'none' if used is None else used}"


class StandIn:
    """The state. Change the fields, then :meth:`write`; or both at once by :meth:`set`."""

    def __init__(self, file: Path, library: Path, *gpus: Gpu) -> None:
        self.file, self.library = file, library
        self.driver = "580.65.06"
        self.gpus = list(gpus)
        self.faults: dict[str, int] = {}
        self.delays: dict[str, int] = {}
        self.write()

    @property
    def gpu(self) -> Gpu:
        """The first GPU."""
        return self.gpus[0]

    @property
    def environment(self) -> dict[str, str]:
        """For a child process that is to find this library and state."""
        return {
            **{name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"},
            "LD_LIBRARY_PATH": str(self.library.parent),
            STATE: str(self.file),
        }

    def write(self) -> None:
        """Whole at once: a reader sees the old state or the new one."""
        lines = [f"driver\t{self.driver}"]
        lines += [line for gpu in self.gpus for line in gpu.lines()]
        lines += [f"fail\t{group}\t{code}" for group, code in self.faults.items()]
        lines += [f"delay\t{group}\t{milliseconds}" for group, milliseconds in self.delays.items()]
        fresh = self.file.with_suffix(".new")
        fresh.write_text("\n".join(lines) + "\n")
        fresh.replace(self.file)

    def set(
        self,
        *,
        used: int | None = None,
        compute: list[tuple[int, int | None]] | None = None,
        graphics: list[tuple[int, int | None]] | None = None,
        faults: dict[str, int] | None = None,
        delays: dict[str, int] | None = None,
    ) -> None:
        """Changes the first GPU or the faults, and writes."""
        gpu = self.gpu
        gpu.used = gpu.used if used is None else used
        gpu.compute = gpu.compute if compute is None else compute
        gpu.graphics = gpu.graphics if graphics is None else graphics
        self.faults = self.faults if faults is None else faults
        self.delays = self.delays if delays is None else delays
        self.write()
