"""How fast this machine reads and writes a store, and how fast a frozen backbone computes what would lie in it."""

from __future__ import annotations

import math
import mmap
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import torch

from autotune.cgroup import group_memory
from autotune.features.build import inputs_on
from autotune.features.scarcity import out_of_memory, release
from sherl.backbones import Backbone
from sherl.data.batching import evaluation_plan
from sherl.data.part import Part

SAMPLE_BYTES = 64 * 2**20
SAMPLE_BATCHES = 3
CHUNK = 1 << 20


def disk_speeds(root: Path, total: int) -> tuple[float, float]:
    """Bytes a second read from and written to the disk of ``root``, by a file that is removed again.

    total: bytes that will be read over and over. What fits into the memory that is available now stays in the page cache and
    is read from there; what does not is measured as it comes from the disk, as far as the system lets its cache go.

    Raises:
        OSError: the folder cannot be written.
    """
    root.mkdir(parents=True, exist_ok=True)
    content = np.random.default_rng(0).integers(0, 256, CHUNK, dtype=np.uint8)
    with tempfile.TemporaryFile(dir=root) as file:
        began = time.perf_counter()
        for _ in range(SAMPLE_BYTES // CHUNK):
            file.write(content.data)
        file.flush()
        os.fsync(file.fileno())
        write = SAMPLE_BYTES / (time.perf_counter() - began)
        return _read_speed(file.fileno(), SAMPLE_BYTES, total), write


def read_speed(path: Path, total: int) -> float:
    """Bytes a second read from a file that lies there, of which 64 MiB are looked at; nothing is written. total: as of
    :func:`disk_speeds`. Infinite where the file is empty.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        size = min(os.fstat(file.fileno()).st_size, SAMPLE_BYTES)
        return _read_speed(file.fileno(), size, total) if size else math.inf


def _read_speed(descriptor: int, size: int, total: int) -> float:
    into = np.empty(CHUNK, dtype=np.uint8)
    if total > _available_bytes() and hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    with mmap.mmap(descriptor, size, access=mmap.ACCESS_READ) as mapped:
        values = np.frombuffer(mapped, dtype=np.uint8)
        began = time.perf_counter()
        for begin in range(0, size, CHUNK):
            chunk = values[begin : begin + CHUNK]
            into[: len(chunk)] = chunk
        seconds = time.perf_counter() - began
        del values, chunk
    return size / seconds


def _available_bytes() -> int:
    """What the page cache may still grow by: of the machine's memory, and of this process's control group, whose limit counts
    its page cache too."""
    machine = psutil.virtual_memory()
    group = group_memory(machine_bytes=machine.total)
    return int(machine.available if group is None else min(machine.available, group.free_bytes))


def forward_seconds(backbone: Backbone, part: Part, *, batch_size: int) -> float:
    """Estimated seconds of one frozen pass of the whole backbone over a part: of batches drawn evenly from its evaluation plan,
    the first of which is run twice, as the first run of all is slower; the others are reckoned by their padded lengths.

    batch_size: halved as long as there is no memory for so many rows, as it is when they are stored.

    Raises:
        MemoryError, RuntimeError: there is no memory for a single row.
    """
    while True:
        try:
            return _forward_seconds(backbone, part, batch_size)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error) or batch_size == 1:
                raise
        release(backbone.device)
        batch_size = -(-batch_size // 2)


def _forward_seconds(backbone: Backbone, part: Part, batch_size: int) -> float:
    plan = list(evaluation_plan(part.lengths, batch_size))
    padded = [len(rows) * int(part.lengths[rows].max()) for rows in plan]
    chosen = sorted({round(index) for index in np.linspace(0, len(plan) - 1, min(SAMPLE_BATCHES, len(plan)))})
    taken = 0.0
    with torch.no_grad():
        for index in chosen:
            on_device = inputs_on(backbone.device, part.batch(plan[index]))
            if index == chosen[0]:
                _run(backbone, on_device)
            taken += _run(backbone, on_device)
    return float(taken * sum(padded) / sum(padded[index] for index in chosen))


def _run(backbone: Backbone, batch: dict[str, torch.Tensor]) -> float:
    began = time.perf_counter()
    backbone.encode(batch)
    if backbone.device.type == "cuda":
        torch.cuda.synchronize(backbone.device)
    return time.perf_counter() - began
