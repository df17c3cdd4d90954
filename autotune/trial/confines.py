"""What a trial's process is confined to: threads, heap, device, and the cap from inside, where it acts before the guard."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from typing import Protocol

import torch

from autotune.errors import DeviceError
from autotune.memory.allocated import TensorMemory
from autotune.memory.allocator_settings import AllocatorSettings
from autotune.memory.context import PLAUSIBLE, Surroundings, context_bytes
from autotune.memory.device import cpu_device
from autotune.memory.heap import configure_heap, make_resident
from autotune.memory.limit import limit_process
from autotune.memory.nvml import driver_version
from autotune.memory.nvml_meter import (
    RELEASE_SLACK_BYTES,
    SOURCE_ASSUMED,
    SOURCE_GROWTH,
    SOURCE_PROCESS,
    NvmlMeter,
    allocator_fraction,
)
from autotune.memory.predict import heap_plan_of
from autotune.memory.process import ProcessMeter, own_private_bytes
from autotune.memory.rehearsal import followed
from autotune.outcome import MemoryFigures
from autotune.trial.request import TrialRequest
from autotune.units import format_bytes
from sherl.evaluation import Batch
from sherl.model import TaskModel

SAMPLE_SECONDS = 0.003


class OverCap(Exception):
    """What the trial needs is over its cap; the message names the figures."""


class Confines(Protocol):
    """The confines of one device. In this order: made before the weights are loaded, ``settle`` with the model,
    ``measured`` around the rehearsal, then ``check`` and ``peak`` as often as wanted."""

    device: torch.device

    def settle(self, model: TaskModel) -> None:
        """The model is on its device and nothing has run yet.

        Raises:
            OverCap: the process is over the cap already.
        """
        ...

    def measured(self, model: TaskModel, *batches: Batch) -> contextlib.AbstractContextManager[None]:
        """Follows the memory of what runs inside; ``batches`` count as held."""
        ...

    def check(self) -> None:
        """After the rehearsal: holds the measured peak against the cap, and tightens what can be tightened.

        Raises:
            OverCap: the peak is over the cap.
        """
        ...

    def peak(self) -> MemoryFigures:
        """The highest figures so far."""
        ...

    @property
    def parts(self) -> dict[str, int]:
        """Bytes of each part at the peak of tensor bytes; empty where it is not known."""
        ...

    def refused_by_cap(self) -> bool:
        """Whether an allocation that has just failed was refused by the cap, and not by a machine without memory."""
        ...

    def others(self) -> str:
        """What other processes have taken of the device since the trial began, in words; "" where they took nothing
        or nobody counts it."""
        ...


def confines_for(request: TrialRequest) -> Confines:
    """Enters the confines of the request's device; call it before any tensor is made."""
    configure_heap(heap_plan_of(request.predicted))
    torch.set_num_threads(request.threads)
    return CudaConfines(request) if request.device == "cuda" else CpuConfines(request)


class CpuConfines:
    """Tensor bytes by :class:`TensorMemory`, the process's private bytes by a quick sampler, the cap by the kernel."""

    def __init__(self, request: TrialRequest) -> None:
        self.device = torch.device("cpu")
        self._request = request
        self._memory: TensorMemory | None = None
        self._sampler = _PeakSampler(own_private_bytes)

    def settle(self, model: TaskModel) -> None:
        make_resident(model)
        # The limit counts the stacks of threads that start after it: start torch's now, each with a piece of work.
        torch.zeros(2**16 * self._request.threads).add_(1.0)
        self._sampler.start()
        held = own_private_bytes()
        if held >= self._request.memory_cap:
            raise OverCap(_over(self._request, held, "before its first step (imports and weights)"))
        limit_process(self._request.memory_cap)

    @contextlib.contextmanager
    def measured(self, model: TaskModel, *batches: Batch) -> Iterator[None]:
        self._memory = TensorMemory()  # kept when a step fails: its figures tell what was too much
        try:
            with followed(self._memory, model, *batches):
                yield
        finally:
            self._sampler.stop()

    def check(self) -> None:
        if self._sampler.peak > self._request.memory_cap:
            raise OverCap(_over(self._request, self._sampler.peak, "at its rehearsal", self.parts))

    def peak(self) -> MemoryFigures:
        allocated = self._memory.peak_bytes if self._memory is not None else 0
        return MemoryFigures(allocated=allocated, device=self._sampler.peak, meter=ProcessMeter.source)

    @property
    def parts(self) -> dict[str, int]:
        return {str(part): count for part, count in self._memory.peak_parts.items()} if self._memory else {}

    def refused_by_cap(self) -> bool:
        left = self._request.memory_cap - own_private_bytes()
        return cpu_device().free_bytes > left  # a control group may leave less than the machine has

    def others(self) -> str:
        return ""


class CudaConfines:
    """The allocator's own figures, the device's by NVML, the cap by the allocator's fraction.

    What the process holds outside the allocator is measured with the model on the device and after the rehearsal: by
    NVML's figure for the process, else by the device's growth (which only raises it, since others move too), else assumed.
    """

    def __init__(self, request: TrialRequest) -> None:
        self._request = request
        self._page_bytes = AllocatorSettings.of().page_bytes
        self._meter = NvmlMeter()
        self._meter.begin(os.getpid())  # before CUDA is touched
        self._others_before = self._meter.device.memory().used_bytes
        self.device = torch.device("cuda", 0)  # Ray and CUDA_VISIBLE_DEVICES decide which GPU that is
        torch.cuda.set_device(self.device)
        self._total = int(torch.cuda.get_device_properties(self.device).total_memory)
        around = Surroundings(torch.__version__, self._meter.device.name(), driver_version())
        self._outside, self._source = context_bytes(around), SOURCE_ASSUMED
        self._bound()

    def settle(self, model: TaskModel) -> None:
        del model
        self._measure_outside()
        torch.cuda.reset_peak_memory_stats(self.device)

    @contextlib.contextmanager
    def measured(self, model: TaskModel, *batches: Batch) -> Iterator[None]:
        del model, batches  # the allocator counts them where they are on the device
        yield
        torch.cuda.synchronize(self.device)

    def check(self) -> None:
        self._measure_outside()  # kernels and workspaces have been loaded meanwhile
        device = self.peak().device
        if device > self._request.memory_cap:
            raise OverCap(_over(self._request, device, "at its rehearsal", self.parts))

    def peak(self) -> MemoryFigures:
        reserved = int(torch.cuda.max_memory_reserved(self.device))
        return MemoryFigures(
            allocated=int(torch.cuda.max_memory_allocated(self.device)),
            reserved=reserved,
            device=reserved + self._outside,
            meter=self._source,
        )

    @property
    def parts(self) -> dict[str, int]:
        return {"allocator": int(torch.cuda.max_memory_reserved(self.device)), "outside it": self._outside}

    def refused_by_cap(self) -> bool:
        free, _ = torch.cuda.mem_get_info(self.device)
        left = self._request.memory_cap - self._outside - int(torch.cuda.memory_reserved(self.device))
        return bool(free > left)

    def others(self) -> str:
        try:
            used = self._meter.device.memory().used_bytes
        except DeviceError:
            return ""
        now = max(0, used - int(torch.cuda.memory_reserved(self.device)) - self._outside)
        if now <= self._others_before + RELEASE_SLACK_BYTES:
            return ""
        return f"other processes hold {format_bytes(now)} of the GPU by now, {format_bytes(self._others_before)} when it began"

    def _measure_outside(self) -> None:
        reserved = int(torch.cuda.memory_reserved(self.device))
        with contextlib.suppress(DeviceError):  # what was known before stands
            held = self._meter.device_bytes(os.getpid())
            grown = self._meter.growth_bytes() - reserved
            if held is not None and held > reserved:
                self._outside, self._source = held - reserved, SOURCE_PROCESS
            elif PLAUSIBLE[0] <= grown <= PLAUSIBLE[1] and self._source != SOURCE_PROCESS:
                known = self._outside if self._source == SOURCE_GROWTH else 0
                self._outside, self._source = max(known, grown), SOURCE_GROWTH
        self._bound()

    def _bound(self) -> None:
        try:
            fraction = allocator_fraction(
                self._request.memory_cap, self._outside, self._total, page_bytes=self._page_bytes
            )
        except DeviceError as error:
            raise OverCap(f"Trial {self._request.number} does not fit: {error}") from error
        torch.cuda.set_per_process_memory_fraction(fraction, self.device)


class _PeakSampler:
    """The highest of many quick readings, from a thread of its own."""

    def __init__(self, read: Callable[[], int]) -> None:
        self._read = read
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="peak-sampler", daemon=True)
        self.peak = 0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        self.peak = max(self.peak, self._read())

    def _sample(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            self.peak = max(self.peak, self._read())


def _over(request: TrialRequest, held: int, when: str, parts: dict[str, int] | None = None) -> str:
    known = [f"{name} {format_bytes(count)}" for name, count in (parts or {}).items() if count]
    if request.predicted is not None:
        known.append(f"predicted {format_bytes(request.predicted.device)}")
    return (
        f"Trial {request.number} does not fit: it held {format_bytes(held)} {when}, over the cap of "
        f"{format_bytes(request.memory_cap)}" + (f" ({', '.join(known)})" if known else "") + ". "
        "A smaller batch size, accumulation or activation checkpointing needs less."
    )
