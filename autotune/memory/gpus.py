"""The GPUs that people have: how much memory each shows, and its generation. Plain data for planning without one.

Sizes are the totals that the driver shows (``nvidia-smi``), which are below the round figure on the box by what the
driver and error correction keep. They were taken from public listings; on a machine with the GPU NVML's figure is used.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from autotune.errors import ConfigError
from autotune.units import parse_bytes

MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class KnownGpu:
    """name: as people write it. total_bytes: what the driver shows. capability: compute capability, (major, minor);
    None where only a size was given."""

    name: str
    total_bytes: int
    capability: tuple[int, int] | None


# name: (MiB that the driver shows, compute capability)
_GPUS: dict[str, tuple[int, tuple[int, int]]] = {
    "GTX 1060 6GB": (6_144, (6, 1)),
    "GTX 1070": (8_192, (6, 1)),
    "GTX 1080": (8_192, (6, 1)),
    "GTX 1080 Ti": (11_264, (6, 1)),
    "GTX 1650": (4_096, (7, 5)),
    "GTX 1660": (6_144, (7, 5)),
    "GTX 1660 Ti": (6_144, (7, 5)),
    "RTX 2060": (6_144, (7, 5)),
    "RTX 2070": (8_192, (7, 5)),
    "RTX 2080": (8_192, (7, 5)),
    "RTX 2080 Ti": (11_264, (7, 5)),
    "Titan RTX": (24_576, (7, 5)),
    "RTX 3050": (8_192, (8, 6)),
    "RTX 3060": (12_288, (8, 6)),
    "RTX 3060 Ti": (8_192, (8, 6)),
    "RTX 3070": (8_192, (8, 6)),
    "RTX 3070 Ti": (8_192, (8, 6)),
    "RTX 3080": (10_240, (8, 6)),
    "RTX 3080 12GB": (12_288, (8, 6)),
    "RTX 3080 Ti": (12_288, (8, 6)),
    "RTX 3090": (24_576, (8, 6)),
    "RTX 3090 Ti": (24_564, (8, 6)),
    "RTX 4050 Laptop": (6_141, (8, 9)),
    "RTX 4060": (8_188, (8, 9)),
    "RTX 4060 Ti": (8_188, (8, 9)),
    "RTX 4060 Ti 16GB": (16_380, (8, 9)),
    "RTX 4070": (12_282, (8, 9)),
    "RTX 4070 Laptop": (8_188, (8, 9)),
    "RTX 4070 Super": (12_282, (8, 9)),
    "RTX 4070 Ti": (12_282, (8, 9)),
    "RTX 4070 Ti Super": (16_376, (8, 9)),
    "RTX 4080": (16_376, (8, 9)),
    "RTX 4080 Super": (16_376, (8, 9)),
    "RTX 4090": (24_564, (8, 9)),
    "RTX 5060": (8_151, (12, 0)),
    "RTX 5060 Ti": (8_151, (12, 0)),
    "RTX 5060 Ti 16GB": (16_311, (12, 0)),
    "RTX 5070": (12_227, (12, 0)),
    "RTX 5070 Ti": (16_303, (12, 0)),
    "RTX 5080": (16_303, (12, 0)),
    "RTX 5090": (32_607, (12, 0)),
    "RTX A2000 12GB": (12_282, (8, 6)),
    "RTX A4000": (16_376, (8, 6)),
    "RTX A5000": (24_564, (8, 6)),
    "RTX A6000": (49_140, (8, 6)),
    "RTX 6000 Ada": (49_140, (8, 9)),
    "RTX PRO 6000": (97_887, (12, 0)),
    "T4": (15_360, (7, 5)),
    "P100": (16_384, (6, 0)),
    "V100 16GB": (16_384, (7, 0)),
    "V100 32GB": (32_768, (7, 0)),
    "A10": (23_028, (8, 6)),
    "A10G": (23_028, (8, 6)),
    "A16": (15_356, (8, 6)),
    "A30": (24_576, (8, 0)),
    "A40": (46_068, (8, 6)),
    "A100 40GB": (40_960, (8, 0)),
    "A100 80GB": (81_920, (8, 0)),
    "L4": (23_034, (8, 9)),
    "L40": (46_068, (8, 9)),
    "L40S": (46_068, (8, 9)),
    "H100": (81_559, (9, 0)),
    "H100 NVL": (95_830, (9, 0)),
    "H200": (143_771, (9, 0)),
    "GH200": (97_871, (9, 0)),
    "B200": (183_359, (10, 0)),
}


# Maker, series and form: a name without them is the same GPU. (Quadro is not among them: Quadro RTX 6000 is none of those
# that came after it.)
_FORMS = ("sxm", "sxm2", "sxm3", "sxm4", "sxm5", "sxm6", "pcie", "fhhl", "dgxs", "hbm2", "hbm2e", "hbm3", "hbm3e")
_SAY_NOTHING = frozenset(("nvidia", "geforce", "tesla", "gpu", "generation", *_FORMS))
# One GPU under several names, as the driver has them (README of NVIDIA's open kernel modules, "Compatible GPUs").
_ALSO_CALLED = {
    f"rtxpro6000blackwell{edition}": "rtxpro6000"
    for edition in ("", "workstationedition", "maxqworkstationedition", "serveredition")
}
# A size of memory that stands as a word of its own (80GB, 80 GB, 144G); not the 1g.5gb of a slice.
_SIZE = re.compile(r"(?<![a-z0-9.])[0-9]+ ?gi?b?(?![a-z0-9.])")


def names() -> tuple[str, ...]:
    """All known names."""
    return tuple(_GPUS)


def find_gpu(name_or_size: str) -> KnownGpu:
    """A GPU by its name (``RTX 4070``, ``NVIDIA GeForce RTX 4070``, ``a100-80gb``), or any by its size (``16GB``).

    Raises:
        ConfigError: the name is not known, or several GPUs have it; the message says which are near.
    """
    wanted = _key(name_or_size)
    by_key = {_key(name): name for name in _GPUS}
    if wanted in by_key:
        return _known(by_key[wanted])
    if re.fullmatch(r"[0-9.]+(e[0-9]+)?([kmgt]i?b|b)?", name_or_size.strip().lower()):
        return KnownGpu(name=name_or_size.strip(), total_bytes=parse_bytes(name_or_size), capability=None)
    begins = [name for key, name in by_key.items() if wanted and re.fullmatch(re.escape(wanted) + r"[0-9]+gb", key)]
    if sized := re.search(
        r"[^a-z0-9]([0-9]+) ?gb\b", name_or_size.lower()
    ):  # the driver says some sizes, people do not
        name = by_key.get(_key(name_or_size.lower().replace(sized[0], " ")))
        if name is not None and abs(_known(name).total_bytes / 2**30 - int(sized[1])) < 1:
            return _known(name)
    if len(begins) == 1:
        return _known(begins[0])
    near = begins or [by_key[key] for key in difflib.get_close_matches(wanted, by_key, n=4, cutoff=0.7)]
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    raise ConfigError(
        f"GPU {name_or_size!r} is not known.{hint} Give one of {', '.join(_GPUS)}; or its size in bytes, such as 12GB."
    )


def _known(name: str) -> KnownGpu:
    size, capability = _GPUS[name]
    return KnownGpu(name=name, total_bytes=size * MIB, capability=capability)


def gpu_key(name: str) -> str:
    """One word for a kind of GPU, whoever names it: ``NVIDIA GeForce RTX 4070`` (NVML) and ``RTX 4070`` (a person) are
    ``rtx4070``, ``NVIDIA A100-SXM4-80GB`` is ``a100``. "" where the name says nothing but a size.

    The size of its memory is left out, since what a context takes does not depend on it; a slice (``MIG 1g.5gb``) is a
    kind of its own. A key is its own key.
    """
    key = _key(_SIZE.sub(" ", name.lower()))
    return _ALSO_CALLED.get(key, key)


def _key(name: str) -> str:
    """What is left of a name without maker, series and punctuation; its memory's size stays."""
    return "".join(word for word in re.sub(r"[^a-z0-9]+", " ", name.lower()).split() if word not in _SAY_NOTHING)
