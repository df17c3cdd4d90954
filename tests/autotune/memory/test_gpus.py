"""GPUs by the names that people and drivers give them."""

from __future__ import annotations

import pytest

from autotune.errors import ConfigError, UnitError
from autotune.memory.gpus import find_gpu, names


@pytest.mark.parametrize(
    ("given", "name", "gib"),
    [
        ("RTX 4070", "RTX 4070", 12),
        ("nvidia geforce rtx 4070", "RTX 4070", 12),
        ("rtx4070ti super", "RTX 4070 Ti Super", 16),
        ("NVIDIA A100-SXM4-80GB", "A100 80GB", 80),
        ("Tesla T4", "T4", 15),
        ("NVIDIA H100 80GB HBM3", "H100", 80),
        ("GTX 1060", "GTX 1060 6GB", 6),
        ("RTX 3060 12GB", "RTX 3060", 12),
    ],
)
def test_a_gpu_by_its_name(given: str, name: str, gib: float) -> None:
    gpu = find_gpu(given)
    assert gpu.name == name
    assert gpu.capability is not None
    assert gib * 0.97 <= gpu.total_bytes / 2**30 <= gib * 1.01


def test_every_name_finds_itself() -> None:
    assert [find_gpu(name).name for name in names()] == list(names())


@pytest.mark.parametrize(("given", "size"), [("12GB", 12_000_000_000), ("16GiB", 2**34), ("8000000000", 8_000_000_000)])
def test_any_size(given: str, size: int) -> None:
    gpu = find_gpu(given)
    assert (gpu.total_bytes, gpu.capability) == (size, None)


def test_what_is_not_known_is_told_with_what_is_near() -> None:
    with pytest.raises(ConfigError, match=r"Did you mean A100 40GB or A100 80GB\?"):
        find_gpu("A100")
    with pytest.raises(ConfigError, match=r"Did you mean .*RTX 4070"):
        find_gpu("RTX 4071")
    with pytest.raises(ConfigError, match="'RTX 3060 8GB' is not known"):
        find_gpu("RTX 3060 8GB")
    with pytest.raises(ConfigError, match=r"'Radeon VII' is not known.*such as 12GB"):
        find_gpu("Radeon VII")
    with pytest.raises(UnitError, match="above zero"):
        find_gpu("0GB")
