"""What a run asks of an allocator, in order: each allocation and each free, with its size and what it was for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Part = Literal[
    "weights",
    "gradients",
    "optimizer",
    "inputs",
    "kept features",
    "fusion",
    "late route",
    "logits",
    "workspace",
    "activations",
]

PARTS: tuple[Part, ...] = (
    "weights",  # of the backbone and of added modules; buffers too
    "gradients",  # of parameters
    "optimizer",  # its state, and what its step makes for the moment
    "inputs",  # batches
    "kept features",  # hidden states of early blocks that a fusion reads
    "fusion",  # what a fusion makes
    "late route",  # what late blocks of a method with an early route make
    "logits",  # what the head makes
    "workspace",  # of cuBLAS, and of attention kernels
    "activations",  # everything else: other blocks, and what backward makes for the moment
)


@dataclass(frozen=True, slots=True)
class Event:
    """One allocation or free.

    id: of the allocation; its free has the same one. nbytes: as asked for, not rounded. label: what it was called last
    (a gradient is born in backward as an activation and named afterwards); the same in both events of an id.
    """

    kind: Literal["alloc", "free"]
    id: int
    nbytes: int
    label: str

    @property
    def change(self) -> int:
        """What it does to the live bytes."""
        return self.nbytes if self.kind == "alloc" else -self.nbytes
