"""What of a GPU decides how many bytes a step takes there: its generation, its processors, and what cuBLAS is given to work in."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from autotune.errors import DeviceError
from autotune.memory.gpus import processors_of

KIB = 1024
# Hopper: of the generations that are in use it is given the largest workspace, so a guess errs upwards.
DEFAULT_CAPABILITY = (9, 0)

# Of each generation the most processors that a GPU of it has, so that a guess errs upwards, as (capability, processors).
_MOST_PROCESSORS = (
    ((12, 0), 188),
    ((10, 0), 160),
    ((9, 0), 132),
    ((8, 9), 142),
    ((8, 6), 84),
    ((8, 0), 108),
    ((7, 5), 72),
    ((7, 0), 80),
    ((6, 1), 30),
    ((6, 0), 56),
    ((5, 0), 24),
)


@dataclass(frozen=True, kw_only=True)
class GpuKind:
    """capability: the compute capability, (major, minor). workspace_bytes: of cuBLAS, for each thread that multiplies.
    separate_lt_bytes: a second one of cuBLASLt, where it does not share the first; lt_takes_both: whether its first product brings
    both into being. processors: streaming multiprocessors; 0 takes the most that one of the generation has. cudnn_attention: whether torch prefers cuDNN's
    attention here; None decides by the generation, as torch does with cuDNN above 9.15.

    Raises:
        DeviceError: the capability is below 5.0, the oldest that torch has kernels for.
    """

    capability: tuple[int, int] = DEFAULT_CAPABILITY
    workspace_bytes: int = 4096 * 8 * KIB
    separate_lt_bytes: int = 0
    lt_takes_both: bool = False
    processors: int = 0
    cudnn_attention: bool | None = None

    def __post_init__(self) -> None:
        if self.capability < (5, 0):
            raise DeviceError(
                f"A compute capability is (major, minor), at least (5, 0); {self.capability!r} was given. "
                "`nvidia-smi --query-gpu=compute_cap --format=csv` shows it."
            )
        if self.processors == 0:
            object.__setattr__(self, "processors", _most_processors(self.capability))

    @classmethod
    def of(
        cls,
        capability: tuple[int, int] | None = None,
        environment: Mapping[str, str] = os.environ,
        *,
        name: str = "",
        torch_version: str = torch.__version__,
    ) -> GpuKind:
        """The kind of this capability (None: not known, :data:`DEFAULT_CAPABILITY`) under an environment's settings and with a version
        of torch. name: of the GPU, which tells its processors where it is known.

        ``CUBLAS_WORKSPACE_CONFIG``, ``CUBLASLT_WORKSPACE_SIZE``, ``TORCH_CUBLASLT_UNIFIED_WORKSPACE`` and
        ``TORCH_CUDNN_SDPA_DEPRIORITIZED`` are read as torch reads them.
        """
        capability = DEFAULT_CAPABILITY if capability is None else capability
        return cls(
            capability=capability,
            workspace_bytes=cublas_workspace_bytes(capability, environment),
            separate_lt_bytes=_separate_lt_bytes(environment, torch_version),
            lt_takes_both=_before_2_12(torch_version),
            processors=processors_of(name) or 0,
            cudnn_attention=False if _is_on(environment.get("TORCH_CUDNN_SDPA_DEPRIORITIZED")) else None,
        )

    @property
    def prefers_cudnn(self) -> bool:
        """Whether cuDNN's attention is asked first: on 9.x and 10.x, unless it was said otherwise."""
        return self.capability[0] in (9, 10) if self.cudnn_attention is None else self.cudnn_attention

    @property
    def threads_per_processor(self) -> int:
        """The most threads that one processor keeps at once (CUDA C++ Programming Guide, "Compute Capabilities")."""
        if self.capability == (7, 5):
            return 1024
        return 1536 if self.capability[0] == 12 or self.capability in ((8, 6), (8, 7), (8, 9), (11, 0)) else 2048

    @property
    def key(self) -> str:
        """A name for all that is in here."""
        major, minor = self.capability
        spaces = f"{self.workspace_bytes}-{self.separate_lt_bytes}-{int(self.lt_takes_both)}"
        return f"sm{major}{minor}x{self.processors}-{spaces}-{int(self.prefers_cudnn)}"


def cublas_workspace_bytes(capability: tuple[int, int], environment: Mapping[str, str] = os.environ) -> int:
    """What torch gives a cuBLAS handle to work in (``aten/src/ATen/cuda/CublasHandlePool.cpp``, torch 2.11 to 2.13).

    ``CUBLAS_WORKSPACE_CONFIG`` in the form ``:KIB:COUNT``, repeated, decides; by default ``:4096:2:16:8`` (8,519,680 bytes), 32 MiB
    on Hopper and Blackwell.
    """
    pairs = re.findall(r":([0-9]+):([0-9]+)", environment.get("CUBLAS_WORKSPACE_CONFIG", ""))
    if pairs:
        return sum(int(size) * KIB * int(count) for size, count in pairs)
    return 4096 * 8 * KIB if capability[0] in (9, 10, 12) else (4096 * 2 + 16 * 8) * KIB


def _separate_lt_bytes(environment: Mapping[str, str], torch_version: str) -> int:
    unified = environment.get("TORCH_CUBLASLT_UNIFIED_WORKSPACE")
    if (unified is None and not _before_2_12(torch_version)) or _is_on(unified):
        return 0
    size = environment.get("CUBLASLT_WORKSPACE_SIZE", "")
    return (int(size) if size.isdigit() else 1024) * KIB


def _before_2_12(torch_version: str) -> bool:
    """Until then cuBLASLt had a workspace of its own by default, and a product that it makes called for cuBLAS' too."""
    found = re.match(r"(\d+)\.(\d+)", torch_version)
    return found is not None and (int(found[1]), int(found[2])) < (2, 12)


def _most_processors(capability: tuple[int, int]) -> int:
    return next((most for known, most in _MOST_PROCESSORS if capability >= known), _MOST_PROCESSORS[-1][1])


def _is_on(flag: str | None) -> bool:
    return flag is not None and flag.upper() in ("1", "TRUE", "YES", "Y", "ON")
