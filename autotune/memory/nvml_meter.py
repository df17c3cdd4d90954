"""What a trial's process holds of a GPU, by the best source that this machine has.

NVML's figure for the process is believed where it is above 0, not above the device's whole memory, and surely of this
process: inside a container some drivers list the host's process ids, which mean other processes there. A list that
names processes which nobody here knows is taken for such a one, and an entry that stood there before the process could
have touched the GPU is another's. (``NSpid`` does not help: a container's /proc shows the ids from the container down.)

Otherwise the trial's own allocator figure, which it reports, plus its context's bytes takes its place, and ``source``
says so in every report.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from autotune.errors import DeviceError
from autotune.memory.context import DEFAULT_CONTEXT_BYTES
from autotune.memory.nvml import Listed, NvmlDevice
from autotune.units import format_bytes

#: A device counts as back at its baseline when it is this near: drivers round, and keep small things.
RELEASE_SLACK_BYTES = 64 * 2**20
#: The link of /proc/self/ns/pid outside of all containers; the number is the kernel's own.
_INITIAL_NAMESPACE = "pid:[4026531836]"

SOURCE_PROCESS = "nvml, this process"
SOURCE_GROWTH = "the allocator's reserved bytes plus the context's, measured as the device's growth (NVML shows nothing for the process)"
SOURCE_ASSUMED = "the allocator's reserved bytes plus an assumed context (NVML shows nothing for the process)"


def allocator_fraction(cap_bytes: int, outside_bytes: int, total_bytes: int, *, page_bytes: int = 0) -> float:
    """What to give ``torch.cuda.set_per_process_memory_fraction``, so that allocator and all else stay under the cap.

    outside_bytes: what the process holds of the device outside torch's allocator (context, libraries' workspaces). page_bytes: by
    how much the allocator may exceed what it is given (:attr:`autotune.memory.allocator_settings.AllocatorSettings.page_bytes`).

    Raises:
        DeviceError: nothing of the cap is left for the allocator, or the device has no memory.
    """
    if total_bytes <= 0:
        raise DeviceError(
            f"The device's memory was read as {total_bytes} bytes; `nvidia-smi` shows whether it is usable."
        )
    left = cap_bytes - outside_bytes - page_bytes
    if left <= 0:
        page = f", and a page of {format_bytes(page_bytes)} may go over" if page_bytes else ""
        raise DeviceError(
            f"A cap of {format_bytes(cap_bytes)} leaves nothing for tensors: {format_bytes(outside_bytes)} are held outside "
            f"the allocator (CUDA context, libraries){page}. Give a cap well above that."
        )
    return min(1.0, left / total_bytes)


class NvmlMeter:
    """What a process holds of a GPU. A trial's own figures, told by :meth:`report`, serve where NVML shows nothing
    for the process.

    device: as :meth:`NvmlDevice.open` takes it. proc: where processes are looked up.

    Raises:
        DeviceError: NVML or the driver is missing, or there is no such GPU.
    """

    name = "nvml"

    def __init__(
        self,
        device: int | str = 0,
        *,
        environment: Mapping[str, str] = os.environ,
        proc: Path = Path("/proc"),
    ) -> None:
        self.device = NvmlDevice.open(device, environment=environment)
        self.source = SOURCE_PROCESS
        self._proc = proc
        self._told: dict[int, tuple[int, str]] = {}
        self._strangers: set[int] = set()
        self._before: int | None = None

    def begin(self, pid: int) -> None:
        """Call it while the process lives and has not touched the GPU: what the device shows now is not its doing.

        Raises:
            DeviceError: the driver does not answer.
        """
        listed = self.device.processes()
        if any(entry.pid == pid for entry in listed or ()):
            self._strangers.add(pid)
        self._before = self._unclaimed(listed)

    def report(self, pid: int, reserved_bytes: int, outside_bytes: int | None = None, source: str = "") -> None:
        """What a trial says of itself: its allocator's bytes at their highest (``torch.cuda.max_memory_reserved``),
        what it holds outside the allocator (None takes an assumed context), and where it has that from."""
        if outside_bytes is None:
            outside_bytes, source = DEFAULT_CONTEXT_BYTES, SOURCE_ASSUMED
        self._told[pid] = (reserved_bytes + outside_bytes, source)

    def device_bytes(self, pid: int) -> int | None:
        """Bytes that the process holds of the GPU; None where neither NVML nor the process has said anything.

        Raises:
            DeviceError: the driver does not answer.
        """
        listed = self._listed(pid, self.device.processes())
        if listed is not None:
            self.source = SOURCE_PROCESS
            return listed
        if pid in self._told:
            held, self.source = self._told[pid]
            return held
        return None

    def left_bytes(self, pid: int) -> int:
        """After the process's end: what the device has not yet got back, in bytes; 0 when it is at its baseline.

        Other processes' listed memory may come and go meanwhile; what nobody is listed with counts against the process.

        Raises:
            DeviceError: the driver does not answer.
        """
        listed = self.device.processes()
        still = self._listed(pid, listed)
        if still is not None:
            return still
        left = self._growth(listed)
        return left if left > RELEASE_SLACK_BYTES else 0

    def growth_bytes(self) -> int:
        """By how much the memory that NVML shows nobody to hold has grown since :meth:`begin`: what the process holds,
        where NVML hides it and nobody else's hidden memory moved.

        Raises:
            DeviceError: the driver does not answer.
        """
        return self._growth(self.device.processes())

    def _growth(self, listed: list[Listed] | None) -> int:
        return 0 if self._before is None else max(0, self._unclaimed(listed) - self._before)

    def _listed(self, pid: int, listed: list[Listed] | None) -> int | None:
        if pid in self._strangers or listed is None or self._of_the_host(listed):
            return None
        return next((entry.used_bytes for entry in listed if entry.pid == pid), None)

    def _unclaimed(self, listed: list[Listed] | None) -> int:
        return self.device.memory().used_bytes - sum(entry.used_bytes or 0 for entry in listed or ())

    def _of_the_host(self, listed: list[Listed]) -> bool:
        """Whether the list is in the numbering of the host of this container."""
        try:
            own = os.readlink(self._proc / "self" / "ns" / "pid")
        except OSError:
            return False  # no Linux, or a locked-down /proc: nothing speaks against the list
        return own != _INITIAL_NAMESPACE and any(not (self._proc / str(entry.pid)).exists() for entry in listed)
