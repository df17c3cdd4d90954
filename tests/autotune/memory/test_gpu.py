"""What is known of a GPU beforehand: cuBLAS' workspace, the context's bytes."""

from __future__ import annotations

from pathlib import Path

import pytest

from autotune.errors import DeviceError
from autotune.memory import context
from autotune.memory.context import DEFAULT_CONTEXT_BYTES, PLAUSIBLE, Surroundings, context_bytes, keep_context
from autotune.memory.gpu import DEFAULT_CAPABILITY, GpuKind, cublas_workspace_bytes

KIB = 1024


@pytest.mark.parametrize(
    ("capability", "environment", "expected"),
    [
        ((8, 0), {}, 8_519_680),
        ((7, 5), {}, 8_519_680),
        ((9, 0), {}, 32 * 1024 * KIB),
        ((12, 0), {}, 32 * 1024 * KIB),
        ((9, 0), {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}, 4096 * 8 * KIB),
        ((8, 0), {"CUBLAS_WORKSPACE_CONFIG": ":4096:2:16:8"}, 8_519_680),
        ((9, 0), {"CUBLAS_WORKSPACE_CONFIG": ":0:0"}, 0),
        ((8, 0), {"CUBLAS_WORKSPACE_CONFIG": "much"}, 8_519_680),
    ],
)
def test_the_workspace_is_torchs(capability: tuple[int, int], environment: dict[str, str], expected: int) -> None:
    assert cublas_workspace_bytes(capability, environment) == expected
    assert GpuKind.of(capability, environment).workspace_bytes == expected


def test_cublaslt_shares_the_workspace_unless_told_otherwise() -> None:
    assert GpuKind.of((8, 0), {}).separate_lt_bytes == 0
    assert GpuKind.of((8, 0), {"TORCH_CUBLASLT_UNIFIED_WORKSPACE": "1"}).separate_lt_bytes == 0
    apart = {"TORCH_CUBLASLT_UNIFIED_WORKSPACE": "0"}
    assert GpuKind.of((8, 0), apart).separate_lt_bytes == 1024 * KIB
    assert GpuKind.of((8, 0), {**apart, "CUBLASLT_WORKSPACE_SIZE": "2048"}).separate_lt_bytes == 2048 * KIB


def test_what_is_not_known_is_the_stated_default() -> None:
    assert GpuKind.of(None, {}) == GpuKind.of(DEFAULT_CAPABILITY, {}) == GpuKind()
    keys = {GpuKind.of(capability, {}).key for capability in ((7, 5), (8, 0), (8, 6), (9, 0), (10, 0), (12, 0))}
    assert len(keys) == 6
    with pytest.raises(DeviceError, match="compute_cap"):
        GpuKind(capability=(3, 5))


def here(torch_version: str = "2.13.0+cu130", name: str = "NVIDIA A100", driver: str = "580.65.06") -> Surroundings:
    return Surroundings(torch_version, name, driver)


def test_the_most_telling_measurement_of_a_context_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    none = tmp_path / "none"
    assert context_bytes(Surroundings(), none) == context_bytes(here(), none) == DEFAULT_CONTEXT_BYTES
    measured = {("2.13", "NVIDIA A100", "580"): 1, ("", "NVIDIA A100", ""): 2, ("2.12", "", ""): 3}
    monkeypatch.setattr(context, "MEASURED", measured)
    assert context_bytes(here(), none) == 1
    assert context_bytes(here(driver="570.1"), none) == 2
    assert context_bytes(here("2.12.1", "NVIDIA L4"), none) == 3
    assert context_bytes(here("2.13.0", "NVIDIA L4"), none) == DEFAULT_CONTEXT_BYTES
    assert context_bytes(Surroundings(), none) == DEFAULT_CONTEXT_BYTES


def test_what_was_measured_here_is_kept_and_believed_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AUTOTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(context, "MEASURED", {("", "NVIDIA A100", ""): 1})
    keep_context(here(), 410_000_000)
    keep_context(here(), 450_000_000)
    keep_context(here(), 430_000_000)  # says no more than what is known
    keep_context(here("2.12.0", driver="570.1"), 390_000_000)
    assert len([line for line in context.contexts_file().read_text().splitlines() if line]) == 3
    assert context_bytes(here()) == 450_000_000
    assert context_bytes(here("2.12.1", driver="570.9")) == 390_000_000
    assert context_bytes(here("2.11.0", driver="590.1")) == 450_000_000, "of this device, the most"
    assert context_bytes(here(name="NVIDIA L4")) == DEFAULT_CONTEXT_BYTES


def test_what_is_no_context_is_not_kept(tmp_path: Path) -> None:
    file = tmp_path / "contexts.jsonl"
    for figure in (0, -5, PLAUSIBLE[0] - 1, PLAUSIBLE[1] + 1):
        keep_context(here(), figure, file)
    keep_context(Surroundings(), 400_000_000, file)
    assert not file.exists()
    file.write_text('{"key": ["2.13", "NVIDIA A100", "580"]\n{"key": 3, "bytes": 400000000}\nno json\n')
    assert context_bytes(here(), file) == DEFAULT_CONTEXT_BYTES
    keep_context(here(), 400_000_000, file)
    assert context_bytes(here(), file) == 400_000_000
