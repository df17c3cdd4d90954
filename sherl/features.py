"""Places of hidden states in a backbone, and the names under which a batch brings stored ones.

h_n of a stack: h_0 is what its first block gets, h_n the input of block n, h_N the last block's output, before any final norm.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # whoever hands on places alone need not load torch
    from torch import Tensor

PREFIX = "features"
SHAPE_ALONE = frozenset({"pixel_values"})
"""Of a batch that brings hidden states, what is looked at for its shape alone: the images that they were computed from."""


class Place(NamedTuple):
    """h_n of a stack: ``blocks``, or of an encoder-decoder ``encoder`` or ``decoder``."""

    stack: str
    n: int


def feature_name(place: tuple[str, int]) -> str:
    """What a batch calls the stored hidden states of a place, e.g. ``features.blocks.3``."""
    stack, n = place
    return f"{PREFIX}.{stack}.{n}"


def place_of(name: str) -> Place | None:
    """The place that a batch's tensor of this name holds hidden states of; None where it holds something else."""
    parts = name.split(".")
    if len(parts) != 3 or parts[0] != PREFIX or not parts[2].isdecimal():
        return None
    return Place(parts[1], int(parts[2]))


def features_of(batch: Mapping[str, Tensor]) -> dict[Place, Tensor]:
    """The stored hidden states that a batch brings: [batch, tokens, width], or maps [batch, channels, height, width]."""
    return {place: tensor for name, tensor in batch.items() if (place := place_of(name)) is not None}


def stacks_stored(names: Iterable[str]) -> tuple[str, ...]:
    """The stacks that tensors of these names hold hidden states of, sorted."""
    return tuple(sorted({place.stack for name in names if (place := place_of(name)) is not None}))
