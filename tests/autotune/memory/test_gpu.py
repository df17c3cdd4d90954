"""What is known of a GPU beforehand: cuBLAS' workspace, the context's bytes."""

from __future__ import annotations

from pathlib import Path

import pytest

from autotune.errors import DeviceError
from autotune.memory import context
from autotune.memory.context import (
    DEFAULT_CONTEXT_BYTES,
    PLAUSIBLE,
    Surroundings,
    context_bytes,
    context_on,
    keep_context,
    surroundings_of,
)
from autotune.memory.device import DeviceInfo, cpu_device, gpus_device
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
    with file.open("a") as lines:
        for figure in ("1e999", "NaN", '"4e8"', "-5", "1e15", "null"):
            lines.write(f'{{"key": ["2.13", "NVIDIA A100", "580"], "bytes": {figure}}}\n')
    assert context_bytes(here(), file) == DEFAULT_CONTEXT_BYTES
    keep_context(here(), 400_000_000, file)
    assert context_bytes(here(), file) == 400_000_000


def with_gpus(*names: str) -> DeviceInfo:
    return gpus_device([{"name": name, "total_bytes": 1, "free_bytes": 1, "driver": "580.65.06"} for name in names])


def test_a_context_is_known_whoever_names_the_gpu_and_however_many_there_are(tmp_path: Path) -> None:
    one, two = with_gpus("NVIDIA GeForce RTX 4070"), with_gpus(*["NVIDIA GeForce RTX 4070"] * 2)
    (around,) = surroundings_of(two)
    for kept in (around, *surroundings_of(one), Surroundings(around.torch_version, "RTX 4070", "580.65.06")):
        file = tmp_path / f"{len(list(tmp_path.iterdir()))}.jsonl"
        keep_context(kept, 412_000_000, file)
        assert context_on(one, file) == context_on(two, file) == 412_000_000
        trial = Surroundings(around.torch_version, "NVIDIA GeForce RTX 4070", "580.65.06")  # as a trial's process asks
        named = Surroundings(around.torch_version, "rtx4070")  # as a person who plans elsewhere does
        assert context_bytes(trial, file) == context_bytes(named, file) == 412_000_000
        assert context_on(with_gpus("NVIDIA GeForce RTX 4070 Ti"), file) == DEFAULT_CONTEXT_BYTES
    assert two.name == "2 GPUs (NVIDIA GeForce RTX 4070)", "people are told of both"


def test_what_was_kept_under_a_drivers_name_is_still_known(tmp_path: Path) -> None:
    file = tmp_path / "contexts.jsonl"
    file.write_text('{"key": ["2.13", "NVIDIA A100-SXM4-80GB", "580"], "bytes": 410000000}\n')
    assert context_bytes(here(name="A100 40GB"), file) == 410_000_000


def test_gpus_of_several_kinds_are_reckoned_with_the_larger_context(tmp_path: Path) -> None:
    file = tmp_path / "contexts.jsonl"
    both = with_gpus("NVIDIA L4", "NVIDIA A100 80GB PCIe")
    around = dict(zip(both.gpus, surroundings_of(both), strict=True))
    keep_context(around["NVIDIA L4"], 300_000_000, file)
    assert context_on(both, file) == DEFAULT_CONTEXT_BYTES, "the other's is not known"
    keep_context(around["NVIDIA A100 80GB PCIe"], 450_000_000, file)
    assert context_on(both, file) == 450_000_000
    assert both.gpu_kind == with_gpus("NVIDIA A100-SXM4-40GB", "NVIDIA L4").gpu_kind == "a100+l4"


def test_a_cpu_is_no_kind_of_gpu() -> None:
    assert (cpu_device().gpu_kind, surroundings_of(cpu_device())) == ("", ())
