"""What several files share: the stand-in for the NVML library, loaded by the real binding; a record; search spaces from text."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from autotune.search import StudyRecord
from autotune.space import SearchSpace
from tests.autotune.memory import stand_in
from tests.autotune.search_samples import SETTINGS

Load = Callable[..., SearchSpace]


@pytest.fixture(scope="session")
def nvml_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built library."""
    if stand_in.COMPILER is None:
        pytest.skip("builds a small C library, and there is no C compiler here (cc, gcc or clang)")
    return stand_in.build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def nvml(nvml_library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> stand_in.StandIn:
    """A driver with one GPU; tests set others."""
    pynvml = pytest.importorskip("pynvml")
    # its soname is the one that the binding asks for, and the system gives what is loaded under that name already
    ctypes.CDLL(str(nvml_library), mode=ctypes.RTLD_GLOBAL)
    monkeypatch.setattr(pynvml, "nvmlLib", None)
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    file = tmp_path / "nvml_state.txt"
    monkeypatch.setenv(stand_in.STATE, str(file))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return stand_in.StandIn(file, nvml_library, stand_in.Gpu("GPU-aaaa-1", "First"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "study" / "study.db"


@pytest.fixture
def record(file: Path) -> Iterator[StudyRecord]:
    with StudyRecord.create(file, "demo", settings=SETTINGS) as made:
        yield made


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Writes a search space and reads it for a backbone of 6 layers, 384 wide."""

    def write_and_load(text: str, **options: Any) -> SearchSpace:
        file = tmp_path / "space.yaml"
        file.write_text(text, encoding="utf-8")
        return SearchSpace.load(file, **{"depth": 6, "width": 384, **options})

    return write_and_load
