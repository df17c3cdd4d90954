"""The stand-in for the NVML library, loaded by the real binding, in this process or in children."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

from tests.autotune.memory import stand_in


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
