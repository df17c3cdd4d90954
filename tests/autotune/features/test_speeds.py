"""What is measured before it is decided: the disk, and how long a frozen pass would take."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from autotune.cgroup import GroupMemory
from autotune.features import speeds
from autotune.features.speeds import disk_speeds, forward_seconds, read_speed
from sherl.data.part import Part

A_TOKEN = 2e-6


class Rows(Part):
    """A few long texts, many short ones."""

    name = "train"
    labels = torch.zeros(600)
    lengths = np.array([400] * 8 + [100] * 8 + [20] * 584)

    def batch(self, rows: Any) -> dict[str, Tensor]:
        return {"input_ids": torch.zeros(len(rows), int(self.lengths[rows].max()), dtype=torch.int64)}


class Clock:
    """A backbone that takes as long as its input is, on a clock of its own."""

    device = torch.device("cpu")
    now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def encode(self, batch: dict[str, Tensor]) -> None:
        self.now += A_TOKEN * batch["input_ids"].numel()


def test_a_pass_is_reckoned_by_what_it_really_goes_through(monkeypatch: pytest.MonkeyPatch) -> None:
    part, clock = Rows(), Clock()
    monkeypatch.setattr(speeds, "time", clock)
    padded = sum(batch["input_ids"].numel() for batch, _ in part.eval_batches(8))
    estimate = forward_seconds(clock, part, batch_size=8)  # type: ignore[arg-type]  # what is asked of a backbone
    assert estimate == pytest.approx(A_TOKEN * padded)  # by the three batches' rows it would be five times that


def test_the_disk_is_measured_and_left_as_it_was(tmp_path: Path) -> None:
    for total in (0, 2**60):  # what fits into memory, and what does not
        read, write = disk_speeds(tmp_path / "store", total)
        assert read > 1e6
        assert write > 1e6
    assert list((tmp_path / "store").iterdir()) == []


def test_reading_is_measured_on_a_file_that_is_there(tmp_path: Path) -> None:
    path = tmp_path / "values"
    for size in (1, 3 * 2**20 + 5):
        path.write_bytes(b"x" * size)
        for total in (0, 2**60):
            # however long a busy machine takes for one byte
            assert read_speed(path, total) > (0 if size == 1 else 1e3)
        assert path.read_bytes() == b"x" * size
    path.write_bytes(b"")
    assert read_speed(path, 0) == float("inf")
    with pytest.raises(FileNotFoundError):
        read_speed(tmp_path / "none", 0)


@pytest.mark.parametrize(("free", "from_the_disk"), [(2**62, False), (10**6, True), (None, False)])
def test_what_a_container_may_hold_bounds_what_stays_in_the_page_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int | None, from_the_disk: bool
) -> None:
    group = None if free is None else GroupMemory(limit_bytes=2**62, free_bytes=free)
    monkeypatch.setattr(speeds, "group_memory", lambda machine_bytes: group)
    dropped: list[int] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda *arguments: dropped.append(1), raising=False)
    path = tmp_path / "values"
    path.write_bytes(b"x" * 100)
    assert read_speed(path, 10**7) > 0
    assert bool(dropped) is from_the_disk
