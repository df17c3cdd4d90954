"""What tests of filling have in common: two places of a tiny BERT, and whether what was stored can be read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from autotune.features.errand import Stored
from autotune.features.marks import PARTS
from autotune.features.store import FeatureStore
from sherl.features import Place

EARLY, LATE = Place("blocks", 2), Place("blocks", 3)
Filling: TypeAlias = Callable[..., tuple[Stored, list[str]]]
"""Fills a store under the test's folder with places, by an errand with other settings where some are given; and what it said."""


def store_of(stored: Stored, tmp_path: Path) -> FeatureStore:
    found = FeatureStore.find(tmp_path / "store", stored.key)
    assert found is not None
    return found


def readable(stored: Stored, tmp_path: Path) -> bool:
    """Whether everything that it says lies there does."""
    store = store_of(stored, tmp_path)
    readers = [store.reader(part, stored.places, verify=True) for part in PARTS]
    return None not in readers
