"""A reader holds file pages, not memory of its own."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from autotune.features.layout import Layout
from autotune.features.store import FeatureStore
from autotune.memory.process import own_private_bytes
from tests.autotune.features.samples import FIRST, KEY, SECOND, built, ragged, read

MB = 1_000_000


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_reading_a_large_file_takes_no_memory_of_its_own(tmp_path: Path) -> None:
    layout = Layout.tokens([25] * 1664, 384, torch.float32)
    assert 63 * MB < layout.file_bytes < 65 * MB
    store = FeatureStore.open(tmp_path, KEY)
    batch = torch.rand(32, 25, 384)
    with store.writer("train", {FIRST: layout}) as writer:
        for start in range(0, layout.rows, 32):
            writer.put(FIRST, np.arange(start, start + 32), batch)
    out = torch.zeros_like(batch)
    before = own_private_bytes()
    reader = store.reader("train", [FIRST], verify=True)
    assert reader is not None
    for start in range(0, layout.rows, 32):
        reader.read(FIRST, np.arange(start, start + 32), out)
        assert torch.equal(out, batch)
    assert own_private_bytes() - before < 4 * MB


def test_lengths_are_held_once_for_all_places(tmp_path: Path) -> None:
    reader = built(tmp_path, {FIRST: ragged(), SECOND: ragged(width=5)}).reader("train", [FIRST, SECOND])
    assert reader is not None
    assert reader.places == (FIRST, SECOND)
    assert reader.layout(FIRST).lengths is reader.layout(SECOND).lengths


def test_several_places_or_none(tmp_path: Path) -> None:
    store = built(tmp_path)
    assert store.reader("train", [FIRST, SECOND]) is None
    assert "no whole features of train blocks 2" in store.notes[-1]
    nothing = store.reader("train", [])
    assert nothing is not None
    assert nothing.places == ()


def test_what_is_read_stays_after_the_reader(tmp_path: Path) -> None:
    reader = built(tmp_path).reader("train", [FIRST])
    assert reader is not None
    kept = read(reader, FIRST, [0, 3])
    again = kept.clone()
    reader.close()
    assert torch.equal(kept, again)


def test_a_store_that_may_only_be_read_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built(tmp_path)

    def refuse(path: object) -> None:
        raise PermissionError(path)

    monkeypatch.setattr(os, "utime", refuse)
    store = FeatureStore.find(tmp_path, KEY)
    assert store is not None
    assert store.reader("train", [FIRST]) is not None
