"""Files of a store brought to another root: whole and equal, or not there, whatever happens on the way."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from autotune.errors import StoreError, StoreFull
from autotune.features import copying, new_files
from autotune.features.copying import Giver, Source, stems_of, take
from autotune.features.eviction import make_room, usage
from autotune.features.layout import Layout
from autotune.features.marks import PARTS
from autotune.features.store import FeatureStore
from tests.autotune.features.samples import FIRST, KEY, SECOND, build, is_right, ragged

LAYOUTS = {FIRST: ragged([3, 1, 0, 4] * 8, width=16), SECOND: ragged([3, 1, 0, 4] * 8, width=16)}
FIXED = {("stages", 1): Layout(rows=5, shape=(2, 3), dtype=ragged().dtype, lengths=None)}


class Near(Source):
    """A store on this machine, read a few bytes at a time; ``spoil`` sees every chunk on its way."""

    def __init__(
        self, root: Path, places: Any = LAYOUTS, spoil: Callable[[str, int, bytes], bytes] = lambda *it: it[2]
    ) -> None:
        self.giver = Giver(str(root), KEY, places)
        self.brought: list[str] = []
        self._spoil = spoil

    def manifests(self) -> dict[str, dict[str, Any]]:
        return self.giver.manifests()

    def chunks(self, stem: str, size: int) -> Iterator[memoryview]:
        self.brought.append(stem)
        for offset in range(0, size, 100):
            yield memoryview(self._spoil(stem, offset, self.giver.read(stem, offset, 100)))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A store with two places of all parts."""
    root = tmp_path / "home"
    store = FeatureStore.open(root, KEY)
    for part in PARTS:
        build(store, LAYOUTS, part)
    return root


def arrived(root: Path) -> bool:
    store = FeatureStore.open(root, KEY)
    return all(is_right(store, LAYOUTS, part) for part in PARTS)


def left_in(root: Path) -> list[str]:
    """Names of all files of values and manifests, whole or not."""
    return sorted(path.name for path in root.rglob("*.blocks.*") if path.suffix != ".lock")


def test_what_arrives_is_what_was_sent_byte_for_byte(home: Path, tmp_path: Path) -> None:
    near = Near(home)
    take(str(tmp_path / "away"), KEY, LAYOUTS, lambda: near)
    assert arrived(tmp_path / "away")
    assert sorted(near.brought) == sorted(stems_of(LAYOUTS))
    sent, come = ({p.read_bytes() for p in root.rglob("*.bin")} for root in (home, tmp_path / "away"))
    assert sent == come
    assert usage(tmp_path / "away").files == 6


def test_rows_of_one_shape_and_no_rows_arrive_too(tmp_path: Path) -> None:
    none = {("stages", 2): Layout(rows=0, shape=(2, 3), dtype=ragged().dtype, lengths=None)}
    layouts = {**FIXED, **none}
    for part in PARTS:
        build(FeatureStore.open(tmp_path / "home", KEY), layouts, part)
    take(str(tmp_path / "away"), KEY, layouts, lambda: Near(tmp_path / "home", layouts))
    assert is_right(FeatureStore.open(tmp_path / "away", KEY), layouts, "valid")


def test_only_what_is_missing_is_brought(home: Path, tmp_path: Path) -> None:
    away = tmp_path / "away"
    near = Near(home, [FIRST])
    take(str(away), KEY, [FIRST], lambda: near)
    again = Near(home)
    take(str(away), KEY, LAYOUTS, lambda: again)
    assert sorted(again.brought) == sorted(stems_of([SECOND]))

    def nothing() -> Source:
        raise AssertionError("nothing is missing")

    take(str(away), KEY, LAYOUTS, nothing)
    assert arrived(away)


def test_a_file_that_is_not_there_or_not_whole_is_not_given(home: Path) -> None:
    with pytest.raises(StoreError, match=r"train\.blocks\.9 of the store .* is not there"):
        Giver(str(home), KEY, [("blocks", 9)])
    with pytest.raises(StoreError, match="is not there"):
        Giver(str(home / "none"), KEY, LAYOUTS)
    assert not (home / "none").exists()
    values = next(home.rglob("valid.blocks.1.*.bin"))
    os.truncate(values, 10)
    with pytest.raises(StoreError, match=r"valid\.blocks\.1 of the store .* is not there\. .* has 10 bytes"):
        Giver(str(home), KEY, LAYOUTS)
    assert make_room(home, 10, usage(home).bytes, []).enough  # what it had opened until then is let go


def test_what_is_given_stays_until_it_is_let_go(home: Path) -> None:
    for path in home.rglob("*.json"):
        os.utime(path, (1000, 1000))
    giver = Giver(str(home), KEY, LAYOUTS)
    assert not make_room(home, 10**6, 10**6, []).enough
    assert arrived(home)
    for path in home.rglob("*.json"):
        os.utime(path, (1000, 1000))
    giver.close()
    assert make_room(home, 10**6, 10**6, []).enough


def flipped(stem: str, offset: int, content: bytes) -> bytes:
    return content[:40] + bytes([content[40] ^ 1]) + content[41:] if offset == 200 and "valid" in stem else content


def without_an_end(stem: str, offset: int, content: bytes) -> bytes:
    return content if offset < 200 or "valid" not in stem else b""


def with_more(stem: str, offset: int, content: bytes) -> bytes:
    return content + b"more" if len(content) < 100 and "valid" in stem else content


@pytest.mark.parametrize("spoil", [flipped, without_an_end, with_more])
def test_what_is_damaged_on_the_way_is_not_kept_and_what_came_before_is(
    home: Path, tmp_path: Path, spoil: Callable[[str, int, bytes], bytes]
) -> None:
    away = tmp_path / "away"
    with pytest.raises(
        StoreError, match=r"What came of valid\.blocks\.1 is not what was sent: its (row \d+ is|index is|file of)"
    ):
        take(str(away), KEY, LAYOUTS, lambda: Near(home, spoil=spoil))
    store = FeatureStore.open(away, KEY)
    assert is_right(store, LAYOUTS, "train")
    assert not store.has("valid", FIRST)
    assert len(left_in(away)) == 2 * 2  # values and manifest of two places of train
    take(str(away), KEY, LAYOUTS, lambda: Near(home))
    assert arrived(away)


def test_a_manifest_of_another_format_is_refused(home: Path, tmp_path: Path) -> None:
    near = Near(home)
    for content in near.giver.manifests().values():
        content["format_version"] = 99
    with pytest.raises(StoreError, match="is not what was sent"):
        take(str(tmp_path / "away"), KEY, LAYOUTS, lambda: near)
    assert left_in(tmp_path / "away") == []


def test_without_room_for_all_of_it_nothing_is_begun(home: Path, tmp_path: Path) -> None:
    near, away = Near(home), tmp_path / "away"
    needed = sum(content["file_bytes"] for content in near.manifests().values())
    with pytest.raises(StoreFull) as caught:
        take(str(away), KEY, LAYOUTS, lambda: near, budget=needed - 1)
    assert caught.value.needed == needed
    assert near.brought == []
    assert left_in(away) == []


def test_a_full_disk_is_said_and_leaves_nothing(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(new_files.os, "posix_fallocate", full)
    with pytest.raises(StoreFull, match=r"There is no room for features in .*away"):
        take(str(tmp_path / "away"), KEY, LAYOUTS, lambda: Near(home))
    assert left_in(tmp_path / "away") == []


def test_older_files_of_the_other_machine_go_for_what_comes(home: Path, tmp_path: Path) -> None:
    away = tmp_path / "away"
    old = FeatureStore.open(away, {**KEY, "version": 2})
    build(old, LAYOUTS)
    for path in away.rglob("*.json"):
        os.utime(path, (1000, 1000))
    near = Near(home)
    needed = sum(content["file_bytes"] for content in near.manifests().values())
    take(str(away), KEY, LAYOUTS, lambda: near, budget=needed + 1000)
    assert arrived(away)
    assert not old.has("train", FIRST)


def test_what_is_ended_midway_leaves_what_is_whole_and_nothing_else(home: Path, tmp_path: Path) -> None:
    away, seen = tmp_path / "away", 0

    def going_on() -> None:
        nonlocal seen
        seen += 1
        if seen > 120:
            raise StoreError("it was ended")

    with pytest.raises(StoreError, match="it was ended"):
        take(str(away), KEY, LAYOUTS, lambda: Near(home), going_on=going_on)
    whole = FeatureStore.open(away, KEY)
    assert whole.has("train", FIRST)
    assert not whole.has("test", SECOND)
    assert len(left_in(away)) == 2 * sum(whole.has(part, place) for part in PARTS for place in LAYOUTS)


def test_a_folder_that_cannot_be_made_is_said(home: Path, tmp_path: Path) -> None:
    (tmp_path / "away").write_text("a file")
    with pytest.raises(StoreError, match="Features cannot be written to"):
        take(str(tmp_path / "away"), KEY, LAYOUTS, lambda: Near(home))


def test_a_source_that_fails_is_told_as_it_says(home: Path, tmp_path: Path) -> None:
    def gone(stem: str, offset: int, content: bytes) -> bytes:
        raise StoreError("the other machine is gone")

    with pytest.raises(StoreError, match="the other machine is gone"):
        take(str(tmp_path / "away"), KEY, LAYOUTS, lambda: Near(home, spoil=gone))
    assert left_in(tmp_path / "away") == []


def test_of_two_that_want_the_same_one_brings_it(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = threading.Barrier(2)
    sources: list[Near] = []
    monkeypatch.setattr(copying, "alone", _met(both, copying.alone))

    def opened() -> Source:
        sources.append(Near(home))
        return sources[-1]

    with ThreadPoolExecutor(2) as threads:
        wanted = [threads.submit(take, str(tmp_path / "away"), KEY, LAYOUTS, opened) for _ in range(2)]
        assert [one.result(60) for one in wanted] == [None, None]
    assert len(sources) == 1
    assert arrived(tmp_path / "away")
    assert len(left_in(tmp_path / "away")) == 12


def _met(both: threading.Barrier, alone: Callable[..., Any]) -> Callable[..., Any]:
    """The lock of a folder, for which two threads ask at one time."""

    def call(path: Path, *arguments: Any) -> Any:
        if path.name == copying.BUILDING_LOCK:
            both.wait(30)
        return alone(path, *arguments)

    return call
