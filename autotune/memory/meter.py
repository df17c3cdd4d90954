"""Where the ``device`` figure of a process comes from. A new source is a class here or elsewhere, and one line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from autotune.memory.nvml_meter import NvmlMeter
from autotune.memory.process import ProcessMeter
from sherl.registry import Registry


class Meter(Protocol):
    """Reads what a process holds of the device.

    name: as registered. source: in the words of reports, which source of truth the last reading came from; a meter
    that has to fall back on another source changes it.
    """

    @property
    def name(self) -> str: ...

    @property
    def source(self) -> str: ...

    def device_bytes(self, pid: int) -> int | None:
        """Bytes that the process holds of the device; None once it has ended or while it holds nothing there.

        Raises:
            DeviceError: the device cannot be asked.
        """
        ...


METERS: Registry[Callable[[], Meter]] = Registry("memory meter")
METERS.register("process")(ProcessMeter)
METERS.register("nvml")(NvmlMeter)
