"""What a result says that was measured on the GPU of :mod:`stand_in_gpu`, so that nobody takes it for a real one's."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

DRIVER = "stand-in"
"""How the version of a stand-in's driver begins."""


def is_stand_in(driver: str) -> bool:
    """Whether NVML's driver is a stand-in's. It says so itself, whatever the environment of the one who asks."""
    return driver.startswith(DRIVER)


def notes(environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Which figures are torch's own and which were set."""

    def of(name: str) -> int:
        return int(environment.get(f"STAND_IN_GPU_{name}", 0))

    return {
        "kernels": "none ran: device memory is addresses alone and reads as zeros, so seconds and losses say nothing",
        "torch's own": "allocated, reserved, retries: by the caching allocator of torch's CUDA build, as its CUDA host code asks it",
        "set": {
            "context_bytes": of("CONTEXT_BYTES"),
            "driver_bytes": of("DRIVER_BYTES"),
            "cudnn_workspace_bytes": of("CUDNN_WORKSPACE_BYTES"),
            "cublas_lt_workspace_bytes": 0,
            "processors": of("PROCESSORS"),
            "threads_of_a_processor": of("THREADS"),
        },
        "weights": "not drawn",
    }
