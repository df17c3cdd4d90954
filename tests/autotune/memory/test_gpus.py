"""GPUs by the names that people and drivers give them."""

from __future__ import annotations

import pytest

from autotune.errors import ConfigError, UnitError
from autotune.memory.gpus import find_gpu, gpu_key, names


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


@pytest.mark.parametrize(
    ("key", "called"),
    [
        ("rtx4070", ["NVIDIA GeForce RTX 4070", "GeForce RTX 4070", "RTX 4070", "rtx4070", "RTX-4070"]),
        ("rtx4070tisuper", ["NVIDIA GeForce RTX 4070 Ti SUPER", "RTX 4070Ti Super 16 GB"]),
        ("rtx4070laptop", ["NVIDIA GeForce RTX 4070 Laptop GPU", "RTX 4070 Laptop"]),
        ("rtx4060ti", ["NVIDIA GeForce RTX 4060 Ti", "RTX 4060 Ti 16GB", "RTX 4060 Ti"]),
        ("a100", ["NVIDIA A100-SXM4-80GB", "NVIDIA A100-PCIE-40GB", "NVIDIA A100 80GB PCIe", "A100 40GB", "a100-80gb"]),
        ("v100", ["Tesla V100-SXM2-32GB", "Tesla V100-FHHL-16GB", "V100 16GB"]),
        ("h100", ["NVIDIA H100 80GB HBM3", "NVIDIA H100 PCIe", "H100"]),
        ("gh200", ["NVIDIA GH200 480GB", "NVIDIA GH200 144G HBM3e", "GH200"]),
        ("a100mig1g5gb", ["NVIDIA A100-SXM4-40GB MIG 1g.5gb"]),
        ("a100mig1g10gb", ["NVIDIA A100-SXM4-80GB MIG 1g.10gb"]),
        ("quadrortx6000", ["Quadro RTX 6000"]),
        ("rtx6000ada", ["NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada"]),
        (
            "rtxpro6000",
            ["NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", "RTX PRO 6000 Blackwell", "RTX PRO 6000"],
        ),
        ("", ["", "12 GB", "16GiB"]),
    ],
)
def test_one_key_for_a_gpu_whoever_names_it(key: str, called: list[str]) -> None:
    assert {gpu_key(name) for name in called} == {key}
    assert gpu_key(key) == key


def test_gpus_of_different_memory_alone_share_a_key() -> None:
    shared = {name for name in names() if sum(gpu_key(other) == gpu_key(name) for other in names()) > 1}
    assert shared == {"RTX 3080", "RTX 3080 12GB", "RTX 4060 Ti", "RTX 4060 Ti 16GB", "RTX 5060 Ti", "RTX 5060 Ti 16GB",
                      "V100 16GB", "V100 32GB", "A100 40GB", "A100 80GB"}  # fmt: skip
