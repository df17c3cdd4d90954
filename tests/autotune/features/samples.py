"""Small stores with known values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from autotune.features.layout import Layout
from autotune.features.reader import Reader
from autotune.features.store import FeatureStore

KEY = {"backbone": "a1b2", "precision": "float32", "data": {"rows": [4, 2]}, "version": 1}
FIRST, SECOND = ("blocks", 1), ("blocks", 2)


def ragged(lengths: Sequence[int] = (3, 1, 0, 4), width: int = 2, dtype: torch.dtype = torch.float32) -> Layout:
    return Layout.tokens(list(lengths), width, dtype)


def row_values(layout: Layout, seed: int = 0) -> list[Tensor]:
    """What each row holds: ``[tokens, width]`` or the fixed shape."""
    generator = torch.Generator().manual_seed(seed)
    shapes = (
        [layout.shape] * layout.rows if layout.lengths is None else [(int(n), *layout.shape) for n in layout.lengths]
    )
    return [torch.randn(shape, generator=generator).to(layout.dtype) for shape in shapes]


def padded(rows: Sequence[Tensor], layout: Layout, *, fill: float = 0.0, extra: int = 0) -> Tensor:
    """A batch of rows, ``fill`` at padding; slow and plain, so that it can be trusted."""
    if layout.lengths is None:
        return torch.stack(list(rows)) if rows else torch.empty(0, *layout.shape, dtype=layout.dtype)
    longest = max((len(row) for row in rows), default=0) + extra
    made = torch.full((len(rows), longest, *layout.shape), fill, dtype=layout.dtype)
    for number, row in enumerate(rows):
        made[number, : len(row)] = row
    return made


def build(store: FeatureStore, layouts: Mapping[tuple[str, int], Layout], part: str = "train", seed: int = 0) -> int:
    """Write places whole, all rows at once; how many places there were to write."""
    with store.writer(part, layouts) as writer:
        for place, layout in layouts.items():
            rows = row_values(layout, seed + place[1])
            writer.put(place, np.arange(layout.rows), padded(rows, layout, fill=7.0))
        return len(writer.places)


def built(root: Path, layouts: Mapping[tuple[str, int], Layout] | None = None, key: Any = None) -> FeatureStore:
    store = FeatureStore.open(root, KEY if key is None else key)
    build(store, layouts or {FIRST: ragged()})
    return store


def read(reader: Reader, place: tuple[str, int], rows: Sequence[int]) -> Tensor:
    index = np.array(rows, dtype=np.int64)
    out = torch.full(reader.shape(place, index), 9.0, dtype=reader.layout(place).dtype)
    reader.read(place, index, out)
    return out


def is_right(
    store: FeatureStore, layouts: Mapping[tuple[str, int], Layout], part: str = "train", seed: int = 0
) -> bool:
    """Whether every place reads, verified, as :func:`build` wrote it."""
    with store.reader(part, layouts, verify=True) or Reader(part, {}) as reader:
        return all(
            place in reader.places
            and torch.equal(
                read(reader, place, range(layout.rows)), padded(row_values(layout, seed + place[1]), layout)
            )
            for place, layout in layouts.items()
        )


def files(store: FeatureStore, ending: str) -> list[Path]:
    return sorted(store.folder.glob(f"*.blocks.*{ending}"))
