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


# As NVML has them: the list "Compatible GPUs" of NVIDIA's open kernel modules, driver 610.43.03, for Turing and later; outputs of
# nvidia-smi for what is older.
DRIVERS_NAMES = {
    "NVIDIA GeForce GTX 1060 6GB": "GTX 1060 6GB",
    "NVIDIA GeForce GTX 1070": "GTX 1070",
    "NVIDIA GeForce GTX 1080": "GTX 1080",
    "GeForce GTX 1080 Ti": "GTX 1080 Ti",
    "NVIDIA GeForce GTX 1650": "GTX 1650",
    "NVIDIA GeForce GTX 1660": "GTX 1660",
    "NVIDIA GeForce GTX 1660 Ti": "GTX 1660 Ti",
    "NVIDIA GeForce RTX 2060": "RTX 2060",
    "NVIDIA GeForce RTX 2070": "RTX 2070",
    "NVIDIA GeForce RTX 2080": "RTX 2080",
    "NVIDIA GeForce RTX 2080 Ti": "RTX 2080 Ti",
    "NVIDIA TITAN RTX": "Titan RTX",
    "NVIDIA GeForce RTX 3050": "RTX 3050",
    "NVIDIA GeForce RTX 3060": "RTX 3060",
    "NVIDIA GeForce RTX 3060 Ti": "RTX 3060 Ti",
    "NVIDIA GeForce RTX 3070": "RTX 3070",
    "NVIDIA GeForce RTX 3070 Ti": "RTX 3070 Ti",
    "NVIDIA GeForce RTX 3080": "RTX 3080",
    "NVIDIA GeForce RTX 3080 Ti": "RTX 3080 Ti",
    "NVIDIA GeForce RTX 3090": "RTX 3090",
    "NVIDIA GeForce RTX 3090 Ti": "RTX 3090 Ti",
    "NVIDIA GeForce RTX 4050 Laptop GPU": "RTX 4050 Laptop",
    "NVIDIA GeForce RTX 4060": "RTX 4060",
    "NVIDIA GeForce RTX 4060 Ti": "RTX 4060 Ti",
    "NVIDIA GeForce RTX 4070": "RTX 4070",
    "NVIDIA GeForce RTX 4070 Laptop GPU": "RTX 4070 Laptop",
    "NVIDIA GeForce RTX 4070 SUPER": "RTX 4070 Super",
    "NVIDIA GeForce RTX 4070 Ti": "RTX 4070 Ti",
    "NVIDIA GeForce RTX 4070 Ti SUPER": "RTX 4070 Ti Super",
    "NVIDIA GeForce RTX 4080": "RTX 4080",
    "NVIDIA GeForce RTX 4080 SUPER": "RTX 4080 Super",
    "NVIDIA GeForce RTX 4090": "RTX 4090",
    "NVIDIA GeForce RTX 5060": "RTX 5060",
    "NVIDIA GeForce RTX 5060 Ti": "RTX 5060 Ti",
    "NVIDIA GeForce RTX 5070": "RTX 5070",
    "NVIDIA GeForce RTX 5070 Ti": "RTX 5070 Ti",
    "NVIDIA GeForce RTX 5080": "RTX 5080",
    "NVIDIA GeForce RTX 5090": "RTX 5090",
    "NVIDIA RTX A2000": "RTX A2000",
    "NVIDIA RTX A2000 12GB": "RTX A2000 12GB",
    "NVIDIA RTX A4000": "RTX A4000",
    "NVIDIA RTX A5000": "RTX A5000",
    "NVIDIA RTX A6000": "RTX A6000",
    "NVIDIA RTX 6000 Ada Generation": "RTX 6000 Ada",
    "NVIDIA RTX PRO 6000 Blackwell Workstation Edition": "RTX PRO 6000",
    "NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition": "RTX PRO 6000",
    "NVIDIA RTX PRO 6000 Blackwell Server Edition": "RTX PRO 6000",
    "Tesla T4": "T4",
    "Tesla P100-PCIE-16GB": "P100",
    "Tesla P100-SXM2-16GB": "P100",
    "Tesla V100-PCIE-16GB": "V100 16GB",
    "Tesla V100-SXM2-16GB": "V100 16GB",
    "Tesla V100-FHHL-16GB": "V100 16GB",
    "Tesla V100-PCIE-32GB": "V100 32GB",
    "Tesla V100-SXM2-32GB": "V100 32GB",
    "NVIDIA A10": "A10",
    "NVIDIA A10G": "A10G",
    "NVIDIA A16": "A16",
    "NVIDIA A30": "A30",
    "NVIDIA A40": "A40",
    "NVIDIA A100-SXM4-40GB": "A100 40GB",
    "NVIDIA A100-PCIE-40GB": "A100 40GB",
    "NVIDIA A100-SXM4-80GB": "A100 80GB",
    "NVIDIA A100 80GB PCIe": "A100 80GB",
    "NVIDIA L4": "L4",
    "NVIDIA L40": "L40",
    "NVIDIA L40S": "L40S",
    "NVIDIA H100 80GB HBM3": "H100",
    "NVIDIA H100 PCIe": "H100",
    "NVIDIA H100 NVL": "H100 NVL",
    "NVIDIA H200": "H200",
    "NVIDIA H200 NVL": "H200",
    "NVIDIA GH200 120GB": "GH200",
    "NVIDIA GH200 480GB": "GH200",
    "NVIDIA GH200 144G HBM3e": "GH200 144GB",
    "NVIDIA B200": "B200",
}
# The driver gives two GPUs one name: the smaller is meant.
NAMED_LIKE_A_SMALLER_ONE = {"RTX 3080 12GB", "RTX 4060 Ti 16GB", "RTX 5060 Ti 16GB"}


@pytest.mark.parametrize("given", DRIVERS_NAMES)
def test_a_gpu_by_the_name_that_the_driver_gives_it(given: str) -> None:
    name = DRIVERS_NAMES[given]
    assert find_gpu(given).name == find_gpu(given.upper()).name == find_gpu(f" {given} ").name == name
    assert gpu_key(given) == gpu_key(name)


def test_every_gpu_that_is_known_has_the_drivers_name_tried() -> None:
    assert set(DRIVERS_NAMES.values()) == set(names()) - NAMED_LIKE_A_SMALLER_ONE


# From the same list, and none of them is in the table: each has a neighbour there that it must not be taken for.
@pytest.mark.parametrize(
    "given",
    ["NVIDIA GeForce RTX 3080 Laptop GPU", "NVIDIA GeForce RTX 4090 D", "NVIDIA GeForce RTX 5090 D v2", "NVIDIA RTX 6000D",
     "NVIDIA GeForce RTX 2070 with Max-Q Design", "NVIDIA GeForce RTX 2080 SUPER", "NVIDIA GeForce GTX 1660 SUPER",
     "Quadro RTX 6000", "NVIDIA RTX A4000 Laptop GPU", "NVIDIA RTX A2000 8GB Laptop GPU", "NVIDIA RTX A2000 Embedded GPU",
     "NVIDIA RTX A4000H", "NVIDIA RTX 4000 Ada Generation", "NVIDIA RTX PRO 5000 Blackwell", "NVIDIA A100-SXM-64GB",
     "NVIDIA A10M", "NVIDIA L20", "NVIDIA GB200", "NVIDIA A800-SXM4-40GB", "NVIDIA H20", "Tesla P100-PCIE-12GB",
     "NVIDIA A100-SXM4-40GB MIG 1g.5gb", "NVIDIA A10-24Q"],
)  # fmt: skip
def test_a_neighbour_is_not_taken_for_it(given: str) -> None:
    with pytest.raises(ConfigError, match="is not known"):
        find_gpu(given)


def test_every_name_finds_itself() -> None:
    assert [find_gpu(name).name for name in names()] == list(names())
    for spelt in (str.upper, str.lower, lambda name: name.replace(" ", ""), lambda name: name.replace(" ", "-")):
        assert [find_gpu(spelt(name)).name for name in names()] == list(names())


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("L4 24GB", "L4"),
        ("T4 16GB", "T4"),
        ("T4 15GB", "T4"),  # what it shows
        ("A40 48 GB", "A40"),
        ("L40S-48GB", "L40S"),
        ("A10G 24GB", "A10G"),
        ("H200 141GB", "H200"),
        ("H100 80G", "H100"),
        ("RTX 3080 10GB", "RTX 3080"),
        ("RTX 3080 12GB", "RTX 3080 12GB"),
        ("RTX 4060 Ti 8GB", "RTX 4060 Ti"),
        ("RTX 4060Ti 16 GB", "RTX 4060 Ti 16GB"),
        ("RTX A2000 6GB", "RTX A2000"),
        ("V100-32GB", "V100 32GB"),
    ],
)
def test_a_size_beside_a_name_is_the_boxes_or_what_it_shows(given: str, name: str) -> None:
    assert find_gpu(given).name == name


@pytest.mark.parametrize(
    ("given", "size"),
    [
        ("12GB", 12_000_000_000),
        ("12 GB", 12_000_000_000),
        ("16GiB", 2**34),
        ("16 GiB", 2**34),
        (" 7.5GiB ", 15 * 2**29),
        ("8000000000", 8_000_000_000),
        ("8e9", 8_000_000_000),
    ],
)
def test_any_size(given: str, size: int) -> None:
    gpu = find_gpu(given)
    assert (gpu.total_bytes, gpu.capability) == (size, None)


def test_what_is_not_known_is_told_with_what_is_near() -> None:
    with pytest.raises(ConfigError, match=r"'A100' stands for several. Did you mean A100 40GB or A100 80GB\?"):
        find_gpu("A100")
    with pytest.raises(ConfigError, match=r"'A100 20GB' is not known. Did you mean A100 40GB or A100 80GB\?"):
        find_gpu("A100 20GB")
    with pytest.raises(ConfigError, match=r"Did you mean .*RTX 4070"):
        find_gpu("RTX 4071")
    with pytest.raises(ConfigError, match=r"'RTX 3060 8GB' is not known. Did you mean RTX 3060 \(12 GiB\)\?"):
        find_gpu("RTX 3060 8GB")
    with pytest.raises(ConfigError, match=r"'Radeon VII' is not known.*such as 12GB"):
        find_gpu("Radeon VII")
    for cut, whole in (("RTX 308", "RTX 3080"), ("GTX 106", "GTX 1060 6GB"), ("RTX A200", "RTX A2000"), ("4070", "RTX 4070"),
                       ("geforce 4070", "RTX 4070"), ("H100 MIG 1g.10gb", "H100"), ("RTX 6000", "RTX 6000 Ada")):  # fmt: skip
        with pytest.raises(ConfigError, match=rf"is not known. Did you mean .*{whole}\b.*\?"):
            find_gpu(cut)
    for none in ("", "  ", "cuda:0", "gpu", "-1", "inf"):
        with pytest.raises(ConfigError, match=r"is not known\. Give one of"):
            find_gpu(none)
    for size in ("12G", "8", "12,5GB"):
        with pytest.raises(UnitError, match="GB"):
            find_gpu(size)
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
                      "V100 16GB", "V100 32GB", "A100 40GB", "A100 80GB", "RTX A2000", "RTX A2000 12GB",
                      "GH200", "GH200 144GB"}  # fmt: skip
