"""What of a GPU decides how many bytes a step takes there: its generation, and what cuBLAS is given to work in."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from autotune.errors import DeviceError

KIB = 1024
# Hopper: of the generations that are in use it is given the largest workspace, so a guess errs upwards.
DEFAULT_CAPABILITY = (9, 0)


@dataclass(frozen=True, kw_only=True)
class GpuKind:
    """capability: the compute capability, (major, minor). workspace_bytes: of cuBLAS, for each thread that multiplies.
    separate_lt_bytes: a second one of cuBLASLt, where it does not share the first. cudnn_attention: whether torch prefers cuDNN's
    attention here; None decides by the generation, as torch does with cuDNN above 9.15.

    Raises:
        DeviceError: the capability is below 5.0, the oldest that torch has kernels for.
    """

    capability: tuple[int, int] = DEFAULT_CAPABILITY
    workspace_bytes: int = 4096 * 8 * KIB
    separate_lt_bytes: int = 0
    cudnn_attention: bool | None = None

    def __post_init__(self) -> None:
        if self.capability < (5, 0):
            raise DeviceError(
                f"A compute capability is (major, minor), at least (5, 0); {self.capability!r} was given. "
                "`nvidia-smi --query-gpu=compute_cap --format=csv` shows it."
            )

    @classmethod
    def of(cls, capability: tuple[int, int] | None = None, environment: Mapping[str, str] = os.environ) -> GpuKind:
        """The kind of this capability (None: not known, :data:`DEFAULT_CAPABILITY`) under an environment's settings.

        ``CUBLAS_WORKSPACE_CONFIG``, ``CUBLASLT_WORKSPACE_SIZE``, ``TORCH_CUBLASLT_UNIFIED_WORKSPACE`` and
        ``TORCH_CUDNN_SDPA_DEPRIORITIZED`` are read as torch reads them.
        """
        capability = DEFAULT_CAPABILITY if capability is None else capability
        return cls(
            capability=capability,
            workspace_bytes=cublas_workspace_bytes(capability, environment),
            separate_lt_bytes=_separate_lt_bytes(environment),
            cudnn_attention=False if _is_on(environment.get("TORCH_CUDNN_SDPA_DEPRIORITIZED")) else None,
        )

    @property
    def prefers_cudnn(self) -> bool:
        """Whether cuDNN's attention is asked first: on 9.x and 10.x, unless it was said otherwise."""
        return self.capability[0] in (9, 10) if self.cudnn_attention is None else self.cudnn_attention

    @property
    def key(self) -> str:
        """A name for all that is in here."""
        major, minor = self.capability
        return f"sm{major}{minor}-{self.workspace_bytes}-{self.separate_lt_bytes}-{int(self.prefers_cudnn)}"


def cublas_workspace_bytes(capability: tuple[int, int], environment: Mapping[str, str] = os.environ) -> int:
    """What torch gives a cuBLAS handle to work in (``aten/src/ATen/cuda/CublasHandlePool.cpp``, torch 2.11 to 2.13).

    ``CUBLAS_WORKSPACE_CONFIG`` in the form ``:KIB:COUNT``, repeated, decides; by default ``:4096:2:16:8`` (8,519,680 bytes), 32 MiB
    on Hopper and Blackwell.
    """
    pairs = re.findall(r":([0-9]+):([0-9]+)", environment.get("CUBLAS_WORKSPACE_CONFIG", ""))
    if pairs:
        return sum(int(size) * KIB * int(count) for size, count in pairs)
    return 4096 * 8 * KIB if capability[0] in (9, 10, 12) else (4096 * 2 + 16 * 8) * KIB


def _separate_lt_bytes(environment: Mapping[str, str]) -> int:
    unified = environment.get("TORCH_CUBLASLT_UNIFIED_WORKSPACE")
    if unified is None or _is_on(unified):
        return 0
    size = environment.get("CUBLASLT_WORKSPACE_SIZE", "")
    return (int(size) if size.isdigit() else 1024) * KIB


def _is_on(flag: str | None) -> bool:
    return flag is not None and flag.upper() in ("1", "TRUE", "YES", "Y", "ON")
