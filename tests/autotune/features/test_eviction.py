"""A budget over all keys: what was unused longest goes, what is in use or somebody else's stays."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from autotune.features import eviction
from autotune.features.eviction import make_room, possible_room, usage
from autotune.features.store import FeatureStore
from tests.autotune.features.samples import FIRST, KEY, SECOND, build, built, files, is_right, ragged

SIZE = ragged().file_bytes
OTHER = {**KEY, "version": 2}


def _aged(store: FeatureStore, place: tuple[str, int], seconds: float) -> None:
    found = store._folder.manifest("train", place)
    assert found is not None
    os.utime(found.path, (seconds, seconds))


def _two(root: Path) -> tuple[FeatureStore, FeatureStore]:
    """Two keys with a file each; the first key's was used later."""
    one, other = built(root), built(root, {SECOND: ragged()}, OTHER)
    _aged(one, FIRST, 2000)
    _aged(other, SECOND, 1000)
    return one, other


def test_usage_counts_whole_and_half_written_files_and_nothing_foreign(tmp_path: Path) -> None:
    assert usage(tmp_path / "none") == eviction.Usage(0, 0, None)
    one, _ = _two(tmp_path)
    plain = one.usage()
    assert (plain.files, plain.oldest) == (2, 1000)
    assert 2 * SIZE < plain.bytes < 2 * SIZE + 2000
    (one.folder / "notes.txt").write_bytes(b"x" * 5000)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "train.blocks.1.1-1-01234567.bin").write_bytes(b"x" * 5000)
    assert usage(tmp_path) == plain
    writer = one.writer("valid", {FIRST: ragged()})
    writer.__enter__()
    assert usage(tmp_path).bytes == plain.bytes + SIZE
    writer.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert usage(tmp_path) == plain


def test_nothing_goes_while_there_is_room(tmp_path: Path) -> None:
    one, other = _two(tmp_path)
    room = one.make_room(SIZE, 10**6)
    assert (room.enough, room.evicted) == (True, ())
    assert room.free == 10**6 - usage(tmp_path).bytes
    assert one.has("train", FIRST)
    assert other.has("train", SECOND)


def test_what_was_unused_longest_goes_first_whatever_its_key(tmp_path: Path) -> None:
    one, other = _two(tmp_path)
    room = one.make_room(SIZE, usage(tmp_path).bytes + 10)
    assert room.enough
    assert len(room.evicted) == 1
    assert "blocks.2" in room.evicted[0]
    assert "last used 1970-01-01" in room.evicted[0]
    assert room.evicted[0] in one.notes
    assert one.has("train", FIRST)
    assert not other.has("train", SECOND)
    assert files(other, "") == []


def test_opening_is_using(tmp_path: Path) -> None:
    one, other = _two(tmp_path)
    reader = other.reader("train", [SECOND])
    assert reader is not None
    reader.close()
    assert one.make_room(SIZE, usage(tmp_path).bytes).enough
    assert other.has("train", SECOND)
    assert not one.has("train", FIRST)


def test_what_is_open_stays_until_it_is_closed(tmp_path: Path) -> None:
    one, other = _two(tmp_path)
    budget = usage(tmp_path).bytes
    reader = other.reader("train", [SECOND])
    assert reader is not None
    _aged(other, SECOND, 1000)
    assert one.make_room(SIZE, budget).enough
    assert other.has("train", SECOND)
    assert not one.has("train", FIRST)
    notes: list[str] = []
    refused = make_room(tmp_path, budget, budget, notes)
    assert (refused.enough, refused.evicted) == (False, ())
    assert "Nothing was evicted" in notes[0]
    assert is_right(other, {SECOND: ragged()})
    reader.close()
    assert make_room(tmp_path, budget, budget, notes).enough
    assert not other.has("train", SECOND)


def test_possible_room_is_what_making_room_then_provides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = _two(tmp_path)
    held = usage(tmp_path).bytes
    assert possible_room(tmp_path, held + 10) == held + 10
    reader = other.reader("train", [SECOND])
    assert reader is not None
    possible = possible_room(tmp_path, held)
    assert 0 < possible < held
    assert not make_room(tmp_path, possible + 1, held, []).enough
    assert one.has("train", FIRST)
    assert make_room(tmp_path, possible, held, []).enough
    assert not one.has("train", FIRST)
    assert possible_room(tmp_path, 0) == -usage(tmp_path).bytes
    reader.close()
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # a folder of somebody else's
    assert possible_room(tmp_path, 0) == -usage(tmp_path).bytes


def test_if_all_were_not_enough_nothing_goes(tmp_path: Path) -> None:
    one, other = _two(tmp_path)
    assert not one.make_room(10**6, 10**5).enough
    assert one.has("train", FIRST)
    assert other.has("train", SECOND)
    reader = one.reader("train", [FIRST])  # the locks taken on the way are let go
    assert reader is not None


def test_a_disk_with_less_than_the_budget_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, _ = _two(tmp_path)
    monkeypatch.setattr(eviction, "free_bytes", lambda path: 100)
    room = one.make_room(50, 10**9)
    assert (room.enough, room.free) == (True, 100)
    # evicting does not show on this disk that always has 100 bytes: it is said
    room = one.make_room(101, 10**9)
    assert not room.enough
    assert len(room.evicted) == 1


def test_foreign_files_never_go(tmp_path: Path) -> None:
    store = built(tmp_path)
    foreign = [
        tmp_path / "readme.txt",
        store.folder / "train.blocks.1.bin",
        store.folder / "notes.txt",
        tmp_path / "0123abcd" / "train.blocks.1.7-7-0123abcd.bin",
        tmp_path / ("a" * 32) / "train.blocks.1.7-7-0123abcd.bin",
    ]
    for path in foreign:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    (tmp_path / ("a" * 32) / "meta.json").write_text('{"format": "another program"}')
    for kind in (".bin", ".json"):  # of the store's names, and none of its files
        (store.folder / f"train.blocks.1.7-7-0123abce{kind}").symlink_to(foreign[2])
        (store.folder / f"train.blocks.1.7-7-0123abcf{kind}").mkdir()
    own = {store.path("train", FIRST), *(one.path for one in store._folder.manifests())}
    staying = set(tmp_path.rglob("*")) - own
    budget = usage(tmp_path).bytes
    assert make_room(tmp_path, budget, budget, []).enough
    assert not store.has("train", FIRST)
    assert set(tmp_path.rglob("*")) == staying
    assert all(path.read_text() == "mine" for path in foreign)


def test_a_file_evicted_before_it_is_opened_is_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another study evicts between a reader's look and its lock."""
    store = built(tmp_path)
    real = os.open

    def slow(path: os.PathLike[str], *arguments: int) -> int:
        descriptor = real(path, *arguments)
        if str(path).endswith(".bin"):
            with monkeypatch.context() as quick:
                quick.setattr(os, "open", real)
                assert make_room(tmp_path, 10**5, 10**5, []).enough
        return descriptor

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", slow)
        assert store.reader("train", [FIRST]) is None
    assert "is being evicted" in store.notes[-1]
    assert build(store, {FIRST: ragged()}) == 1


def test_more_files_than_a_process_may_open_all_go(tmp_path: Path) -> None:
    store = built(tmp_path, {("blocks", place): ragged() for place in range(100)})
    budget = usage(tmp_path).bytes
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened = len(os.listdir("/dev/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (opened + 20, hard))
    try:
        assert possible_room(tmp_path, budget) == budget
        assert make_room(tmp_path, budget, budget, store.notes).enough
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert files(store, "") == []


def _left_by_the_dead(store: FeatureStore) -> None:
    """A builder killed after it took its room, and one killed before its manifest was renamed."""
    for kind in (".bin", ".tmp"):
        (store.folder / f"valid.blocks.1.{2**22 + 1}-100-0123abcd{kind}").write_bytes(b"x" * 5000)


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "harm",
    [
        _left_by_the_dead,
        lambda store: _flip(files(store, ".json")[0]),
        lambda store: os.truncate(files(store, ".bin")[0], SIZE - 1),
        lambda store: files(store, ".bin")[0].unlink(),
        lambda store: files(store, ".json")[0].unlink(),
        lambda store: _flip(store.folder / "meta.json"),
        lambda store: (store.folder / "meta.json").unlink(),
    ],
    ids=["half-written", "manifest", "cut off", "no values", "no manifest", "meta", "no meta"],
)
def test_what_nobody_can_use_counts_and_goes_for_another_key(
    tmp_path: Path, harm: Callable[[FeatureStore], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eviction, "writer_lives", lambda name: False)  # this process wrote it, and is gone
    harmed = built(tmp_path)
    harm(harmed)
    held = usage(tmp_path).bytes
    assert held == sum(path.stat().st_size for path in files(harmed, ""))
    assert held > 0
    other = FeatureStore.open(tmp_path, OTHER)
    assert possible_room(tmp_path, held) == held
    before = files(harmed, "")
    assert make_room(tmp_path, 10, held + 10, []).enough  # there is room: nothing goes
    assert files(harmed, "") == before
    room = other.make_room(held, held)
    assert (room.enough, room.free) == (True, held)
    assert files(harmed, "") == []
    assert room.evicted
    assert usage(tmp_path) == eviction.Usage(0, 0, None)


def test_what_nobody_can_use_goes_before_what_is_whole(tmp_path: Path) -> None:
    one, other = _two(tmp_path)
    _flip(files(one, ".json")[0])
    room = other.make_room(SIZE, usage(tmp_path).bytes)
    assert room.enough
    assert "damaged, and of no use" in room.evicted[0]
    assert other.has("train", SECOND)


def test_what_is_damaged_and_open_or_half_written_by_the_living_stays(tmp_path: Path) -> None:
    store = built(tmp_path)
    reader = store.reader("train", [FIRST])
    assert reader is not None
    _flip(files(store, ".json")[0])
    writer = store.writer("valid", {FIRST: ragged()})
    writer.__enter__()
    budget = usage(tmp_path).bytes
    assert possible_room(tmp_path, budget) == 0
    assert not make_room(tmp_path, 10, budget, []).enough
    reader.close()
    assert make_room(tmp_path, 10, budget, []).enough
    assert [path.name.split(".")[0] for path in files(store, "")] == ["valid"]
    writer.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
