"""What is known of a GPU beforehand: cuBLAS' workspace, the context's bytes."""

from __future__ import annotations

import pytest

from autotune.errors import DeviceError
from autotune.memory import context
from autotune.memory.context import DEFAULT_CONTEXT_BYTES, context_bytes
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


def test_the_most_telling_measurement_of_a_context_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert context_bytes() == context_bytes("2.13.0+cu130", "NVIDIA A100", "580.65.06") == DEFAULT_CONTEXT_BYTES
    measured = {("2.13", "NVIDIA A100", "580"): 1, ("", "NVIDIA A100", ""): 2, ("2.12", "", ""): 3}
    monkeypatch.setattr(context, "MEASURED", measured)
    assert context_bytes("2.13.0+cu130", "NVIDIA A100", "580.65.06") == 1
    assert context_bytes("2.13.0+cu130", "NVIDIA A100", "570.1") == 2
    assert context_bytes("2.12.1", "NVIDIA L4", "580.65.06") == 3
    assert context_bytes("2.13.0", "NVIDIA L4", "580.65.06") == DEFAULT_CONTEXT_BYTES
    assert context_bytes("", "", "") == DEFAULT_CONTEXT_BYTES
