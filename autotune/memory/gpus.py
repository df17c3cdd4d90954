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


# name: (MiB that the driver shows, compute capability, streaming multiprocessors: of several versions the most)
_GPUS: dict[str, tuple[int, tuple[int, int], int]] = {
    "GTX 1060 6GB": (6_144, (6, 1), 10),
    "GTX 1070": (8_192, (6, 1), 15),
    "GTX 1080": (8_192, (6, 1), 20),
    "GTX 1080 Ti": (11_264, (6, 1), 28),
    "GTX 1650": (4_096, (7, 5), 14),
    "GTX 1660": (6_144, (7, 5), 22),
    "GTX 1660 Ti": (6_144, (7, 5), 24),
    "RTX 2060": (6_144, (7, 5), 30),
    "RTX 2070": (8_192, (7, 5), 36),
    "RTX 2080": (8_192, (7, 5), 46),
    "RTX 2080 Ti": (11_264, (7, 5), 68),
    "Titan RTX": (24_576, (7, 5), 72),
    "RTX 3050": (8_192, (8, 6), 20),
    "RTX 3060": (12_288, (8, 6), 28),
    "RTX 3060 Ti": (8_192, (8, 6), 38),
    "RTX 3070": (8_192, (8, 6), 46),
    "RTX 3070 Ti": (8_192, (8, 6), 48),
    "RTX 3080": (10_240, (8, 6), 68),
    "RTX 3080 12GB": (12_288, (8, 6), 70),
    "RTX 3080 Ti": (12_288, (8, 6), 80),
    "RTX 3090": (24_576, (8, 6), 82),
    "RTX 3090 Ti": (24_564, (8, 6), 84),
    "RTX 4050 Laptop": (6_141, (8, 9), 20),
    "RTX 4060": (8_188, (8, 9), 24),
    "RTX 4060 Ti": (8_188, (8, 9), 34),
    "RTX 4060 Ti 16GB": (16_380, (8, 9), 34),
    "RTX 4070": (12_282, (8, 9), 46),
    "RTX 4070 Laptop": (8_188, (8, 9), 36),
    "RTX 4070 Super": (12_282, (8, 9), 56),
    "RTX 4070 Ti": (12_282, (8, 9), 60),
    "RTX 4070 Ti Super": (16_376, (8, 9), 66),
    "RTX 4080": (16_376, (8, 9), 76),
    "RTX 4080 Super": (16_376, (8, 9), 80),
    "RTX 4090": (24_564, (8, 9), 128),
    "RTX 5060": (8_151, (12, 0), 30),
    "RTX 5060 Ti": (8_151, (12, 0), 36),
    "RTX 5060 Ti 16GB": (16_311, (12, 0), 36),
    "RTX 5070": (12_227, (12, 0), 48),
    "RTX 5070 Ti": (16_303, (12, 0), 70),
    "RTX 5080": (16_303, (12, 0), 84),
    "RTX 5090": (32_607, (12, 0), 170),
    "RTX A2000": (6_138, (8, 6), 26),
    "RTX A2000 12GB": (12_282, (8, 6), 26),
    "RTX A4000": (16_376, (8, 6), 48),
    "RTX A5000": (24_564, (8, 6), 64),
    "RTX A6000": (49_140, (8, 6), 84),
    "RTX 6000 Ada": (49_140, (8, 9), 142),
    "RTX PRO 6000": (97_887, (12, 0), 188),
    "T4": (15_360, (7, 5), 40),
    "P100": (16_384, (6, 0), 56),
    "V100 16GB": (16_384, (7, 0), 80),
    "V100 32GB": (32_768, (7, 0), 80),
    "A10": (23_028, (8, 6), 72),
    "A10G": (23_028, (8, 6), 80),
    "A16": (15_356, (8, 6), 10),
    "A30": (24_576, (8, 0), 56),
    "A40": (46_068, (8, 6), 84),
    "A100 40GB": (40_960, (8, 0), 108),
    "A100 80GB": (81_920, (8, 0), 108),
    "L4": (23_034, (8, 9), 58),
    "L40": (46_068, (8, 9), 142),
    "L40S": (46_068, (8, 9), 142),
    "H100": (81_559, (9, 0), 132),
    "H100 NVL": (95_830, (9, 0), 132),
    "H200": (143_771, (9, 0), 132),
    "GH200": (97_871, (9, 0), 132),
    "GH200 144GB": (146_831, (9, 0), 132),
    "B200": (183_359, (10, 0), 148),
}

# Maker, series and form: a name without them is the same GPU. (Quadro is not among them: Quadro RTX 6000 is none of those
# that came after it.)
_FORMS = ("sxm", "sxm2", "sxm3", "sxm4", "sxm5", "sxm6", "pcie", "fhhl", "dgxs", "hbm2", "hbm2e", "hbm3", "hbm3e")
_SAY_NOTHING = frozenset(("nvidia", "geforce", "tesla", "gpu", "generation", *_FORMS))
# The size on the box, or in the driver's name, where it is not what the driver shows, in GB. (Of a GH200 it is its CPU's.)
_SOLD_AS: dict[str, tuple[int, ...]] = {
    "T4": (16,),
    "A10": (24,),
    "A10G": (24,),
    "A16": (16,),
    "A40": (48,),
    "L4": (24,),
    "L40": (48,),
    "L40S": (48,),
    "H200": (141,),
    "GH200": (120, 480),
    "B200": (180, 192),
}
# One GPU under several names, as the driver has them (README of NVIDIA's open kernel modules, "Compatible GPUs").
_ALSO_CALLED = {
    f"rtxpro6000blackwell{edition}": "rtxpro6000"
    for edition in ("", "workstationedition", "maxqworkstationedition", "serveredition")
} | {"h200nvl": "h200"}
# A size of memory that stands as a word of its own (80GB, 80 GB, 144G); not the 1g.5gb of a slice.
_SIZE = re.compile(r"(?<![a-z0-9.])([0-9]+) ?gi?b?(?![a-z0-9.])")


def names() -> tuple[str, ...]:
    """All known names."""
    return tuple(_GPUS)


def find_gpu(name_or_size: str) -> KnownGpu:
    """A GPU by its name as a person (``RTX 4070``, ``a100-80gb``) or the driver (``NVIDIA GeForce RTX 4070``) writes it, or any
    by its size (``16GB``, ``16 GB``). Words are taken whole: ``RTX 308`` is no RTX 3080. A size beside a name is the box's
    or what the driver shows; without one the GPU whose name says none is meant.

    Raises:
        ConfigError: the name is not known, or several GPUs have it; the message says which are near.
        UnitError: it begins as a size and is none.
    """
    text = name_or_size.strip()
    key, sizes = gpu_key(text), [int(size) for size in _SIZE.findall(text.lower())]
    alike = [name for name in _GPUS if gpu_key(name) == key] if key else []
    spelt = [name for name in _GPUS if _key(name) == _key(text)]  # rtx4060ti16gb, of one word
    meant = spelt or [name for name in alike if all(_has(name, size) for size in sizes)]
    if len(meant) > 1 and not sizes:
        meant = [name for name in meant if not _SIZE.search(name.lower())] or meant
    if len(meant) == 1:
        return _known(meant[0])
    near = alike or _near(text)
    if text[:1].isdigit() and not (near and text.isdigit()):  # 4070 is no size, but a name without its series
        return KnownGpu(name=text, total_bytes=parse_bytes(text), capability=None)
    what = "stands for several" if len(meant) > 1 else "is not known"
    hint = f" Did you mean {' or '.join(_described(name) for name in near)}?" if near else ""
    raise ConfigError(
        f"GPU {name_or_size!r} {what}.{hint} Give one of {', '.join(_GPUS)}; or its size in bytes, such as 12GB."
    )


def _has(name: str, size: int) -> bool:
    """Whether a GPU is called or sold with so many GB, or shows as many."""
    called = [int(own) for own in _SIZE.findall(name.lower())]
    return size in (*called, *_SOLD_AS.get(name, ())) or (
        not called and size == round(_known(name).total_bytes / 2**30)
    )


def _near(text: str) -> list[str]:
    """The names that hold all its words and numbers whole (``4070``), else those whose own it all holds (of a slice, its
    GPU), else those that are written much like it."""
    words = set(_words(_SIZE.sub(" ", text.lower())))
    own = {name: set(_words(_SIZE.sub(" ", name.lower()))) for name in _GPUS}
    if holding := [name for name in _GPUS if words and words <= own[name]]:
        return holding
    if held := [name for name in _GPUS if own[name] <= words]:
        return held
    keys = {gpu_key(name): None for name in _GPUS}
    like = difflib.get_close_matches(gpu_key(text), keys, n=4, cutoff=0.65)
    return [name for key in like for name in _GPUS if gpu_key(name) == key]


def _described(name: str) -> str:
    """A name, with its memory where that is not a part of it."""
    return name if _SIZE.search(name.lower()) else f"{name} ({round(_known(name).total_bytes / 2**30)} GiB)"


def _known(name: str) -> KnownGpu:
    size, capability, _ = _GPUS[name]
    return KnownGpu(name=name, total_bytes=size * MIB, capability=capability)


def processors_of(name: str) -> int | None:
    """How many streaming multiprocessors a GPU of this name has, whoever names it; of several, the most; None for a name that is
    not known."""
    key = gpu_key(name)
    return max((processors for known, (_, _, processors) in _GPUS.items() if gpu_key(known) == key), default=None)


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
    return "".join(_words(name))


def _words(name: str) -> list[str]:
    return [word for word in re.sub(r"[^a-z0-9]+", " ", name.lower()).split() if word not in _SAY_NOTHING]
