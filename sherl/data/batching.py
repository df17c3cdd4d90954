"""Which rows stand together in a batch: by length, so that little is padding. Plain numpy, no tensors, no texts."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sherl.errors import SpecError

Indices: TypeAlias = NDArray[np.int64]

POOL_BATCHES = 50
"""Batches whose rows are sorted by length together: large enough for little padding, small enough to stay random."""


def checked_batch_size(batch_size: int) -> int:
    """The batch size itself.

    Raises:
        SpecError: it is not a whole number of at least 1.
    """
    if isinstance(batch_size, bool) or not isinstance(batch_size, int | np.integer) or batch_size < 1:
        raise SpecError(f"batch_size must be a whole number of at least 1, {batch_size!r} was given.")
    return int(batch_size)


def longest_first(lengths: NDArray[Any]) -> Indices:
    """Row indices from the longest row to the shortest, equally long ones in row order."""
    return np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")


def evaluation_plan(lengths: NDArray[Any], batch_size: int) -> list[Indices]:
    """Batches of rows from the longest to the shortest: what does not fit into memory shows in the first batch."""
    return _cut(longest_first(lengths), checked_batch_size(batch_size))


def training_plan(lengths: NDArray[Any], batch_size: int, *, seed: int, epoch: int) -> list[Indices]:
    """Batches of one epoch: every row once, rows of similar length together, in an order drawn from (seed, epoch).

    Rows are shuffled and cut into pools of about :data:`POOL_BATCHES` batches, each pool is sorted by length and cut
    into batches, and all batches are shuffled. Only one batch may be short, it holds the shortest rows of its pool. The
    same arguments give the same plan in every process.
    """
    batch_size = checked_batch_size(batch_size)
    lengths = np.asarray(lengths, dtype=np.int64)
    generator = np.random.Generator(np.random.PCG64([_unsigned(seed), _unsigned(epoch)]))
    shuffled = generator.permutation(len(lengths))
    batches = []
    for pool in _cut(shuffled, POOL_BATCHES * batch_size):
        batches += _cut(pool[longest_first(lengths[pool])], batch_size)
    return [batches[position] for position in generator.permutation(len(batches))]


def _cut(rows: Indices, size: int) -> list[Indices]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _unsigned(number: int) -> int:
    """A seed as numpy takes it; negative ones are mapped to large positive ones."""
    return int(number) % 2**64
