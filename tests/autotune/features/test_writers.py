"""Killed, interrupted, at once, on a full disk: what is there is whole, and nothing else is left."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from autotune.errors import StoreError, StoreFull
from autotune.features import leftovers, locks, marks
from autotune.features.new_files import free_bytes
from autotune.features.store import FeatureStore
from tests.autotune.features.samples import (
    FIRST,
    KEY,
    SECOND,
    build,
    built,
    files,
    is_right,
    padded,
    ragged,
    row_values,
)

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks, locks and /proc")


def run_builders(what: str, root: Path, numbers: Iterable[int] = ()) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.autotune.features.builders", what, str(root), *map(str, numbers)],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@linux
def test_a_kill_at_any_moment_leaves_nothing_torn(tmp_path: Path) -> None:
    seen = run_builders("random", tmp_path, range(24))
    assert seen["wrong"] == []
    assert seen["ended"].count("half-written") >= 4  # the moments do fall into the work


@linux
def test_a_kill_at_any_call_leaves_nothing_torn(tmp_path: Path) -> None:
    # 4 for meta.json (write, flush, rename, flush of the folder), 2 for room, 128 for values; then, for each of two files,
    # 2 for its index and 4 for its manifest
    steps = [*range(1, 9), 60, *range(130, 148)]
    seen = run_builders("call", tmp_path, steps)
    assert seen["wrong"] == []
    assert seen["ended"][-1] == "finished"
    assert set(seen["ended"][4:-1]) == {"half-written"}


@linux
def test_of_writers_at_once_one_does_the_work(tmp_path: Path) -> None:
    seen = run_builders("locked", tmp_path)
    assert seen["wrong"] == []
    assert sorted(seen["wrote"]) == [0, 0, 2]
    assert seen["files"] == 2


@linux
def test_without_locks_writers_at_once_all_succeed(tmp_path: Path) -> None:
    seen = run_builders("unlocked", tmp_path)
    assert seen["wrong"] == []
    assert set(seen["wrote"]) <= {0, 1, 2}
    assert 2 <= seen["files"] == sum(seen["wrote"])


def test_a_file_system_without_locks_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    store = built(tmp_path)
    assert any("has no locks" in note for note in store.notes)
    assert is_right(store, {FIRST: ragged()})
    assert not store.make_room(10**6, 10**6).enough
    assert store.has("train", FIRST)


@linux
def test_what_a_living_writer_writes_stays_and_a_dead_ones_goes(tmp_path: Path) -> None:
    store = FeatureStore.open(tmp_path, KEY)
    writer = store.writer("train", {FIRST: ragged()})
    writer.__enter__()
    writing = files(store, ".bin")
    assert len(writing) == 1
    FeatureStore.open(tmp_path, KEY)
    assert files(store, ".bin") == writing
    writer.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert files(store, ".bin") == []
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = store.folder / f"train.blocks.1.{dead.pid}-100-0123abcd.bin"
    unfinished = left.with_suffix(".tmp")
    pipe = store.folder / f"train.blocks.2.{dead.pid}-100-0123abcd.bin"
    os.mkfifo(pipe)
    # a living writer's, of which no lock speaks
    living = store.folder / f"{marks.new_name('train.blocks.2')}.bin"
    others = [store.folder / "train.blocks.1.bin", store.folder / "notes.txt", living]
    for path in (left, unfinished, *others):
        path.write_bytes(b"x")
    with left.open("rb") as held:  # its writer lives in another container, say
        assert locks.try_lock(held.fileno(), exclusive=False) is locks.Lock.HELD
        notes = FeatureStore.open(tmp_path, KEY).notes
        assert left.exists()
        assert not unfinished.exists()
        assert len(notes) == 1
    assert "left half-written by a process that is gone" in FeatureStore.open(tmp_path, KEY).notes[0]
    assert not left.exists()
    assert all(path.exists() for path in (*others, pipe))
    several = [store.folder / f"train.blocks.{place}.{dead.pid}-100-0123abcd.bin" for place in (3, 4, 5)]
    for path in several:
        path.write_bytes(b"x")
    (note,) = FeatureStore.open(tmp_path, KEY).notes
    assert note.startswith(f"3 files of {store.folder} were left half-written")
    assert not any(path.exists() for path in several)


@linux
def test_a_pid_given_again_is_another_writer() -> None:
    name = marks.new_name("train.blocks.1") + ".bin"
    assert marks.writer_lives(name)
    pid, start = name.split(".")[3].split("-")[:2]
    assert not marks.writer_lives(name.replace(f"{pid}-{start}", f"{pid}-{int(start) - 100}"))
    assert marks.writer_lives("somebody.elses.bin")


@linux
def test_a_limit_of_file_sizes_is_no_room(tmp_path: Path) -> None:
    store = FeatureStore.open(tmp_path, KEY)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with (
            pytest.raises(StoreFull, match=r"no room .* are needed, File too large, although") as caught,
            store.writer("train", {FIRST: ragged(), SECOND: ragged([9] * 10_000)}),
        ):
            pytest.fail("entered without room")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.needed == ragged().file_bytes + ragged([9] * 10_000).file_bytes
    assert caught.value.free > 0
    assert files(store, "") == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_shows_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    store = FeatureStore.open(tmp_path, KEY)

    def full(descriptor: int, offset: int, size: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StoreFull, match="go on without them"), store.writer("train", {FIRST: ragged()}):
        pytest.fail("entered without room")
    assert files(store, "") == []


def test_where_room_cannot_be_promised_free_bytes_decide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FeatureStore.open(tmp_path, KEY)
    monkeypatch.delattr(os, "posix_fallocate")
    assert build(store, {FIRST: ragged()}) == 1
    assert is_right(store, {FIRST: ragged()})
    too_many = [free_bytes(tmp_path) // 2**20] * 2**20
    with pytest.raises(StoreFull), store.writer("train", {SECOND: ragged(too_many)}):
        pytest.fail("entered without room")
    assert not store.has("train", SECOND)
    assert len(files(store, ".bin")) == 1


@pytest.mark.parametrize(("name", "error"), [("pwrite", errno.ENOSPC), ("fsync", errno.ENOSPC), ("fsync", errno.EIO)])
def test_a_disk_that_breaks_its_promise_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, error: int
) -> None:
    store = FeatureStore.open(tmp_path, KEY)

    def fail(*arguments: object) -> None:
        raise OSError(error, os.strerror(error))

    with monkeypatch.context() as patched:
        patched.setattr(os, name, fail)
        wanted: type[StoreError] = StoreFull if error == errno.ENOSPC else StoreError
        with pytest.raises(wanted, match="go on without them") as caught:
            build(store, {FIRST: ragged()})
    if isinstance(caught.value, StoreFull):
        assert caught.value.needed == ragged().file_bytes
    assert files(store, "") == []
    assert build(store, {FIRST: ragged()}) == 1


def test_short_writes_are_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real: Callable[[int, memoryview, int], int] = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, content, offset: real(descriptor, content[:5], offset))
    assert is_right(built(tmp_path), {FIRST: ragged()})


def test_a_file_removed_under_its_writer_is_an_error_and_no_manifest(tmp_path: Path) -> None:
    store = FeatureStore.open(tmp_path, KEY)
    layout = ragged()
    writer = store.writer("train", {FIRST: layout})
    writer.__enter__()
    writer.put(FIRST, range(4), padded(row_values(layout), layout))
    files(store, ".bin")[0].unlink()
    with pytest.raises(StoreError, match="was removed while it was written"):
        writer.__exit__(None, None, None)
    assert not store.has("train", FIRST)
    assert files(store, "") == []


def _as_from_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every writer lives in a container whose processes cannot be seen from here."""
    monkeypatch.setattr(leftovers, "writer_lives", lambda name: False)


def test_a_file_finished_while_it_is_looked_at_is_none_of_the_leftovers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _as_from_elsewhere(monkeypatch)
    store = FeatureStore.open(tmp_path, KEY)
    layout = ragged()
    writer = store.writer("train", {FIRST: layout})
    writer.__enter__()
    writer.put(FIRST, range(4), padded(row_values(layout, FIRST[1]), layout))
    seen = leftovers.left_over(store.folder)
    assert seen == files(store, ".bin")
    assert not leftovers.remove_left_over(seen[0])  # its writer holds it
    writer.__exit__(None, None, None)
    assert not leftovers.remove_left_over(seen[0])  # it has a manifest by now
    assert is_right(store, {FIRST: layout})


def test_a_manifest_that_is_being_written_elsewhere_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _as_from_elsewhere(monkeypatch)
    store = FeatureStore.open(tmp_path, KEY)
    real = os.replace

    def later(source: Path, target: Path) -> None:
        FeatureStore.open(tmp_path, KEY)  # clears away
        real(source, target)

    monkeypatch.setattr(os, "replace", later)
    assert build(store, {FIRST: ragged()}) == 1
    assert is_right(store, {FIRST: ragged()})
    assert store.notes == []


def test_a_new_file_that_was_taken_for_left_over_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between making it and locking it somebody else clears away."""
    removed: list[Path] = []

    def slow(descriptor: int) -> locks.Lock:
        if not removed:
            removed.extend(tmp_path.iterdir())
            removed[0].unlink()
        return locks.lock_shared(descriptor)

    monkeypatch.setattr(leftovers, "lock_shared", slow)
    descriptor, path = leftovers.new_file(tmp_path, "train.blocks.1", ".bin")
    os.close(descriptor)
    assert list(tmp_path.iterdir()) == [path]
    assert removed
    assert path not in removed
