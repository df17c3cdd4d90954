"""The benchmark that runs torch's own allocator: what it says where it cannot, and what it takes out of wheels."""

from __future__ import annotations

import hashlib
import importlib
import random
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))  # scripts there import one another by their bare names
build = importlib.import_module("allocator_build")
packages = importlib.import_module("packages")
sequences = importlib.import_module("allocator_sequences")
strings = importlib.import_module("allocator_strings")


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel with two files; pip, which is stood in for, leaves it where it is asked to."""
    file = tmp_path / "some-1.0-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as opened:
        opened.writestr("some/include/a.h", "wanted")
        opened.writestr("some/lib/large.so", "not wanted")

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        (Path(command[command.index("-d") + 1]) / file.name).write_bytes(file.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(packages.subprocess, "run", run)
    return file


def test_what_is_wanted_of_a_pinned_wheel_is_unpacked(wheel: Path, tmp_path: Path) -> None:
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    packages.WheelTree("some===1.0", digest, ("some/include/",)).unpack(tmp_path / "out")
    found = [file for file in (tmp_path / "out").rglob("*") if file.is_file()]
    assert [file.read_text() for file in found] == ["wanted"]
    with pytest.raises(packages.FetchError, match=f"{'0' * 64} is pinned"):
        packages.WheelTree("some===1.0", "0" * 64, ("some/",)).unpack(tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_missing_compiler_is_said_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build.platform, "system", lambda: "Linux")
    monkeypatch.setattr(build.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(build.shutil, "which", lambda name: None)
    with pytest.raises(build.BuildError, match=r"gcc and g\+\+ is missing here .*apt-get install"):
        build.RealAllocator("2.13.0")
    monkeypatch.setattr(build.platform, "machine", lambda: "arm64")
    with pytest.raises(build.BuildError, match="Linux on x86-64"):
        build.RealAllocator("2.13.0")


def test_a_package_index_that_does_not_answer_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOTUNE_CACHE", str(tmp_path))
    monkeypatch.setattr(build.platform, "system", lambda: "Linux")
    monkeypatch.setattr(build.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(build.shutil, "which", lambda name: f"/usr/bin/{name}")
    failed = subprocess.CompletedProcess([], 1, "", "no index")
    monkeypatch.setattr(packages.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(build.BuildError, match=r"torch===2\.13\.0 could not be fetched .*\n.*no index"):
        build.RealAllocator("2.13.0")


class Served:
    """Stands in for the real allocator: it does what the model does, or what a test says instead."""

    version = "2.13.0"

    def __init__(self, *, beside: int = 0) -> None:
        self._beside = beside

    def rules(self, settings: str) -> Any:
        return build.AllocatorSettings.of({"PYTORCH_CUDA_ALLOC_CONF": settings}, torch=self.version).rules

    def limit_bytes(self, fraction: float) -> int:
        return round(fraction * build.DEVICE_BYTES)

    def serve(self, lines: tuple[str, ...], **_: object) -> Any:
        requests = tuple(line for line in lines if not line.startswith("limit"))
        model = sequences.modelled(sequences.Requests(requests=requests), self.rules(""), None)
        trace = [
            {"action": "alloc", "addr": build.BASE + address + self._beside, "size": 1, "stream": 0}
            for address in dict.fromkeys(model.addresses)
        ]
        trace += [{"action": f"segment_{one.kind}", "addr": 0, "size": one.nbytes} for one in model.changes]
        return build.Served(trace=trace, peak_reserved=model.peak + self._beside)


def test_differences_are_named() -> None:
    requests = sequences.Requests(requests=("alloc 0 5000000", "alloc 1 700", "alloc 2 30000000"))
    assert sequences.compared(Served(), requests)[0] == []
    assert sequences.compared(Served(beside=512), requests)[0] == ["peak", "addresses"]
    assert sequences.compared(Served(beside=512), requests, "falling")[0] == ["peak"]


def test_what_is_drawn_is_the_same_every_time_and_can_be_read() -> None:
    first, again = (sequences.draw(random.Random(7)) for _ in range(2))
    assert first == again
    for seed in range(50):
        settings = sequences.draw_settings(random.Random(seed))
        build.AllocatorSettings.of({"PYTORCH_CUDA_ALLOC_CONF": settings}, torch="2.13.0")
    drawn = [strings.draw(random.Random(seed)) for seed in range(200)]
    assert len(set(drawn)) > 100
