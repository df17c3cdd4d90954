"""How fast shared features are written, checked and read, and ways of reading them side by side.

    python benchmarks/feature_reading.py [--rows 2000] [--tokens 25] [--width 384] [--batch-size 32] [--repeats 7] [--out FILE]

One place of float32 features on one thread. Reading is timed on batches as training draws them (rows of like length together)
and on rows drawn at random, each into a fresh batch tensor. ``cold`` drops the file from the page cache before each epoch and
compares what the system may be advised. ``ahead`` goes through an epoch with a matrix product of about ``--step-ms`` for each
batch, with and without a thread that reads ahead. Figures are the fastest of the repeats, since other work on a machine only adds
to them; of ``cold`` the median.
"""

from __future__ import annotations

import argparse
import mmap
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from conditions import write_result
from torch import Tensor

from autotune.features.ahead import read_ahead
from autotune.features.layout import Layout
from autotune.features.reader import Reader
from autotune.features.store import FeatureStore
from sherl.data.batching import training_plan

PLACE = ("blocks", 3)
Rows = Any
Way = Callable[[Rows, Tensor], None]


class Ways:
    """Other ways of filling a batch from the same file."""

    def __init__(self, file: Path, layout: Layout, width: int) -> None:
        assert layout.lengths is not None
        self.lengths, self.begins, self.row_bytes = layout.lengths, layout.begins(), layout.item_bytes
        self.descriptor = os.open(file, os.O_RDONLY)
        self.map = mmap.mmap(self.descriptor, 0, access=mmap.ACCESS_COPY)  # torch warns of what it must not write to
        self.flat = np.frombuffer(self.map, np.float32, count=layout.value_bytes // 4).reshape(-1, width)
        self.tensor = torch.from_numpy(self.flat)

    def _rows(self, rows: Rows) -> list[tuple[int, int, int]]:
        return list(zip(range(len(rows)), self.begins[rows].tolist(), self.lengths[rows].tolist(), strict=True))

    def torch_copies(self, rows: Rows, out: Tensor) -> None:
        for number, begin, count in self._rows(rows):
            out[number, :count].copy_(self.tensor[begin : begin + count])
            out[number, count:].zero_()

    def preadv(self, rows: Rows, out: Tensor) -> None:
        into, size = out.numpy(), out.shape[1] * self.row_bytes
        raw = memoryview(into).cast("B")
        for number, begin, count in self._rows(rows):
            place = raw[number * size : number * size + count * self.row_bytes]
            os.preadv(self.descriptor, [place], begin * self.row_bytes)
            into[number, count:] = 0

    def _positions(self, rows: Rows, tokens: int) -> tuple[Rows, Rows]:
        columns = np.arange(tokens)
        positions = np.minimum(self.begins[rows][:, None] + columns, len(self.flat) - 1)
        return positions, columns < self.lengths[rows][:, None]

    def index_select_and_pad(self, rows: Rows, out: Tensor) -> None:
        positions, kept = self._positions(rows, out.shape[1])
        gathered = self.tensor.index_select(0, torch.from_numpy(positions[kept]))
        out.zero_()
        out[torch.from_numpy(kept)] = gathered

    def numpy_take(self, rows: Rows, out: Tensor) -> None:
        positions, kept = self._positions(rows, out.shape[1])
        np.take(self.flat, positions, axis=0, out=out.numpy(), mode="clip")
        out.numpy()[~kept] = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--tokens", type=int, default=25)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--step-ms", type=float, default=5.0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    draw = np.random.default_rng(0)
    lengths = np.clip(draw.normal(options.tokens, options.tokens / 3, options.rows), 3, 3 * options.tokens).astype(
        np.int64
    )
    layout = Layout.tokens(lengths, options.width, torch.float32)
    plans = {
        "bucketed": training_plan(lengths, options.batch_size, seed=0, epoch=0),
        "random": np.array_split(draw.permutation(options.rows), -(-options.rows // options.batch_size)),
    }
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        result: dict[str, Any] = {**vars(options), "megabytes": layout.file_bytes / 1e6}
        del result["out"]
        store = FeatureStore.open(folder, {"benchmark": "feature reading"})
        result |= _writing(store, layout, plans["bucketed"], options.repeats)
        reader = store.reader("train", [PLACE])
        assert reader is not None
        file = next(store.folder.glob("*.bin"))
        result["microseconds_a_batch"] = _reading(reader, Ways(file, layout, options.width), plans, options.repeats)
        result["ahead_ms_a_batch"] = _ahead(reader, plans["bucketed"], options)
        reader.close()
        result["cold_ms_an_epoch"] = _cold(file, layout, options, plans["random"])
    print(f"written to {write_result('feature_reading', result, options.out)}")


def _writing(store: FeatureStore, layout: Layout, plan: list[Rows], repeats: int) -> dict[str, float]:
    assert layout.lengths is not None
    batches = [torch.randn(len(rows), int(layout.lengths[rows].max()), *layout.shape) for rows in plan]
    put, finish, verify, opening = [], [], [], []
    for _ in range(repeats):
        store.make_room(layout.file_bytes, layout.file_bytes + 10**6)
        with store.writer("train", {PLACE: layout}) as writer:
            began = time.perf_counter()
            for rows, values in zip(plan, batches, strict=True):
                writer.put(PLACE, rows, values)
            put.append(time.perf_counter() - began)
            began = time.perf_counter()
        finish.append(time.perf_counter() - began)
        for seconds, check in ((verify, True), (opening, False)):
            began = time.perf_counter()
            reader = store.reader("train", [PLACE], verify=check)
            seconds.append(time.perf_counter() - began)
            assert reader is not None
            reader.close()
    gigabytes = layout.file_bytes / 1e9
    return {
        "put_gb_per_second": gigabytes / min(put),
        "with_fsync_gb_per_second": gigabytes / min(map(sum, zip(put, finish, strict=True))),
        "verify_gb_per_second": gigabytes / min(verify),
        "open_ms": 1e3 * min(opening),
    }


def _reading(reader: Reader, others: Ways, plans: dict[str, list[Rows]], repeats: int) -> dict[str, dict[str, float]]:
    ways: dict[str, Way] = {
        "reader": lambda rows, out: reader.read(PLACE, rows, out),
        "preadv": others.preadv,
        "torch_copies": others.torch_copies,
        "index_select_and_pad": others.index_select_and_pad,
        "numpy_take": others.numpy_take,
    }
    made: dict[str, dict[str, float]] = {}
    for name, plan in plans.items():
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(repeats):
            for way, fill in ways.items():
                began = time.perf_counter()
                for rows in plan:
                    fill(rows, torch.empty(reader.shape(PLACE, rows)))
                seconds[way].append((time.perf_counter() - began) / len(plan))
        for rows in plan[:5]:
            expected = torch.empty(reader.shape(PLACE, rows))
            reader.read(PLACE, rows, expected)
            for way, fill in ways.items():
                out = torch.full_like(expected, 7.0)
                fill(rows, out)
                assert torch.equal(out, expected), way
        made[name] = {way: 1e6 * min(each) for way, each in seconds.items()}
    return made


def _ahead(reader: Reader, plan: list[Rows], options: argparse.Namespace) -> dict[str, float]:
    matrix = torch.randn(512, 512)
    began = time.perf_counter()
    for _ in range(20):
        matrix @ matrix
    products = max(1, round(options.step_ms / 1e3 / ((time.perf_counter() - began) / 20)))

    def batches() -> Any:
        for rows in plan:
            out = torch.empty(reader.shape(PLACE, rows))
            reader.read(PLACE, rows, out)
            yield out

    seconds: dict[str, list[float]] = {"without": [], "with": [], "computing_alone": []}
    for _ in range(options.repeats):
        for name, source in (
            ("without", batches),
            ("with", lambda: read_ahead(batches())),
            ("computing_alone", lambda: plan),
        ):
            began = time.perf_counter()
            for _ in source():
                for _ in range(products):
                    matrix @ matrix
            seconds[name].append((time.perf_counter() - began) / len(plan))
    return {name: 1e3 * min(each) for name, each in seconds.items()}


def _cold(file: Path, layout: Layout, options: argparse.Namespace, plan: list[Rows]) -> dict[str, float]:
    advices: dict[str, list[int]] = {"nothing": [], "random": [mmap.MADV_RANDOM], "willneed": [mmap.MADV_WILLNEED]}
    seconds: dict[str, list[float]] = {name: [] for name in (*advices, "willneed_by_row", "preadv")}
    for _ in range(options.repeats):
        for name, each in seconds.items():
            descriptor = os.open(file, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)
            ways = Ways(file, layout, options.width)
            for advice in advices.get(name, [mmap.MADV_RANDOM]):
                ways.map.madvise(advice)
            began = time.perf_counter()
            for rows in plan:
                if name == "willneed_by_row":
                    for _, begin, count in ways._rows(rows):
                        first = begin * ways.row_bytes // mmap.PAGESIZE * mmap.PAGESIZE
                        ways.map.madvise(mmap.MADV_WILLNEED, first, (begin + count) * ways.row_bytes - first)
                out = torch.empty(len(rows), int(ways.lengths[rows].max()), options.width)
                (ways.preadv if name == "preadv" else ways.torch_copies)(rows, out)
            each.append(time.perf_counter() - began)
            os.close(ways.descriptor)
            del ways
    return {name: 1e3 * statistics.median(each) for name, each in seconds.items()}


if __name__ == "__main__":
    main()
