"""Several studies and one store: each decides by what the others leave, waits no longer than they work, and keeps its own."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest

from autotune.errors import StoreError, StoreFull
from autotune.features import filling as work
from autotune.features import locks, manifests
from autotune.features.build import build
from autotune.features.errand import Errand, Stored, Wanted
from autotune.features.eviction import make_room, possible_room, usage
from autotune.features.files import Folder
from autotune.features.marks import PARTS
from autotune.features.store import FeatureStore
from autotune.features.worker import fill
from sherl.errors import SpecError
from tests.autotune.features.filled import EARLY, LATE, Filling, readable, store_of
from tests.autotune.features.samples import padded, ragged, row_values


def before_part(monkeypatch: pytest.MonkeyPatch, name: str, act: Callable[[], object]) -> None:
    """Do something once, when a part is about to be computed."""
    acted: list[object] = []

    def then_build(backbone: Any, part: Any, *arguments: Any, **settings: Any) -> object:
        if part.name == name and not acted:
            acted.append(name)
            act()
        return build(backbone, part, *arguments, **settings)

    monkeypatch.setattr(work, "build", then_build)


class Study:
    """Another study's errand in a thread of its own. waits: set when it says that it waits for somebody."""

    def __init__(self, errand: Errand) -> None:
        self._errand = errand
        self.waits = Event()
        self.notes: list[str] = []
        self.ends: Future[Stored] | None = None

    def begin(self) -> None:
        """Let it come as far as it does by itself: until it waits, or ends."""
        with_own = ThreadPoolExecutor(max_workers=1)
        self.ends = with_own.submit(fill, self._errand, self._hear)
        self.ends.add_done_callback(lambda _: self.waits.set())
        with_own.shutdown(wait=False)
        assert self.waits.wait(60)

    def _hear(self, message: dict[str, Any]) -> None:
        if "note" in message:
            self.notes.append(message["note"])
            if "waits for it" in message["note"]:
                self.waits.set()

    def end(self) -> Stored:
        assert self.ends is not None
        return self.ends.result(60)


@pytest.fixture
def size(filling: Filling, tmp_path: Path) -> int:
    """Bytes of one place, in fp32, with its manifests; the store is empty again."""
    filling(LATE)
    root = tmp_path / "store"
    bytes_ = usage(root).bytes
    for path in sorted(root.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    root.rmdir()
    return bytes_


# ---- its own files


def test_a_studys_own_files_stay_while_it_builds(
    filling: Filling, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def another() -> None:
        held = usage(tmp_path / "store").bytes
        asked.append((possible_room(tmp_path / "store", held), make_room(tmp_path / "store", 100, held, []).enough))

    before_part(monkeypatch, "valid", another)
    stored, _ = filling(LATE)
    assert asked == [(0, False)]
    assert stored.verdict == "all"
    assert readable(stored, tmp_path)


def test_what_was_found_of_some_parts_stays_too(
    filling: Filling, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = filling(LATE)
    store = store_of(first, tmp_path)
    for path in store.folder.glob("test.*"):
        path.unlink()
    files = set(store.folder.glob("*.bin"))
    before_part(monkeypatch, "test", lambda: make_room(tmp_path / "store", 10**6, 10**6, []))
    again, _ = filling(LATE)
    assert again.verdict == "all"
    assert readable(again, tmp_path)
    assert files < set(store.folder.glob("*.bin"))


def test_what_was_stored_stays_until_the_study_has_opened_it(
    filling: Filling, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "store"
    for _ in range(2):  # built, then found
        stored, _ = filling(LATE)
        held = usage(root).bytes
        assert possible_room(root, held) == 0
        assert not make_room(root, 100, held, []).enough
        assert readable(stored, tmp_path)  # opens all, and lets them go
        assert possible_room(root, held) == held
    filling(LATE)
    monkeypatch.setattr(manifests, "HANDOVER_SECONDS", 0.0)  # nobody came
    assert possible_room(root, held) == held
    assert make_room(root, held, held, []).enough


def test_a_wrong_clock_keeps_nothing_for_ever(filling: Filling, tmp_path: Path) -> None:
    stored, _ = filling(LATE)
    for path in store_of(stored, tmp_path).folder.glob("*.json"):
        os.utime(path, (4e9, 4e9))
    assert make_room(tmp_path / "store", 10**6, 10**6, []).enough


# ---- two at once


def test_a_second_study_waits_and_then_needs_no_room(
    filling: Filling, errand: Errand, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = (Wanted(places=(LATE,), passes=1e5),)
    budget = round(1.3 * size)
    other = Study(replace(errand, root=str(tmp_path / "store"), wanted=wanted, budget=budget))
    before_part(monkeypatch, "valid", other.begin)
    first, _ = filling(LATE, budget=budget)
    second = other.end()
    assert (first.verdict, second.verdict) == ("all", "all")
    assert sum("waits for it" in note for note in other.notes) == 1
    assert readable(second, tmp_path)
    assert usage(tmp_path / "store").files == len(PARTS)


def test_studies_of_other_keys_together_stay_within_the_budget(
    filling: Filling, errand: Errand, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second comes between the first's look at the room and its taking it."""
    root, budget = tmp_path / "store", round(1.2 * size)
    other = Study(replace(errand, root=str(root), precision="bf16", budget=budget))
    real = FeatureStore.make_room

    def then_another(store: FeatureStore, *arguments: int) -> object:
        made = real(store, *arguments)
        if other.ends is None:
            other.begin()
        return made

    monkeypatch.setattr(FeatureStore, "make_room", then_another)
    first, _ = filling(LATE, budget=budget)
    second = other.end()
    assert first.verdict == "all"
    assert second.verdict == "none"
    assert "there is room for" in second.reason
    assert usage(root).bytes <= budget
    assert readable(first, tmp_path)


def test_nobody_waits_for_room_while_another_computes(
    filling: Filling, errand: Errand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Study(replace(errand, root=str(tmp_path / "store"), precision="bf16"))
    ended: list[Stored] = []

    def whole() -> None:
        other.begin()
        ended.append(other.end())

    before_part(monkeypatch, "train", whole)
    first, _ = filling(LATE)
    assert (first.verdict, ended[0].verdict) == ("all", "all")
    assert other.notes == []


# ---- a builder that hangs


@pytest.fixture
def held_lock(filling: Filling, tmp_path: Path) -> Path:
    """The lock of a folder that has one place."""
    first, _ = filling(EARLY)
    return store_of(first, tmp_path).folder / "building.lock"


def test_a_builder_that_hangs_is_waited_for_a_while(
    filling: Filling, held_lock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "STALLED_SECONDS", 0.3)
    with locks.alone(held_lock, pytest.fail, lambda: None):
        some, notes = filling(EARLY, LATE)
        assert (some.verdict, some.places) == ("some", (EARLY,))
        assert "it hangs, or was stopped" in some.reason
        none, _ = filling(LATE)
        assert (none.verdict, none.places) == ("none", ())
        whole, told = filling(EARLY)  # needs nobody
    assert "this one waits for it" in notes[0]
    assert whole.verdict == "all"
    assert told == []
    assert readable(some, tmp_path)


def test_who_waits_says_so_first_and_waits_as_long_as_something_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lock"
    monkeypatch.setattr(locks, "STALLED_SECONDS", 0.2)
    monkeypatch.setattr(locks, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(locks, "LONGEST_SECONDS", 0.6)
    signs = iter(range(10**6))
    said: list[str] = []
    with locks.alone(path, pytest.fail, lambda: None):
        with (
            pytest.raises(StoreError, match="has been building features for more than"),
            locks.alone(path, said.append, lambda: next(signs)),
        ):
            pytest.fail("two at once")
        assert len(said) == 1
        with (
            pytest.raises(StoreError, match=r"added nothing to what it builds.*End that process"),
            locks.alone(path, said.append, lambda: None),
        ):
            pytest.fail("two at once")
    assert next(signs) > 20  # longer than without a sign
    with locks.alone(path, pytest.fail, lambda: None) as held:
        assert held


def test_writing_is_a_sign_of_life(tmp_path: Path) -> None:
    store = FeatureStore.open(tmp_path, {"a": 1})
    place, layout = ("blocks", 1), ragged()
    with store.writer("train", {place: layout}) as writer:
        before = store._folder.work_seen()
        assert store._folder.work_seen() == before
        os.utime(next(store.folder.glob("*.bin")), (1, 1))
        aged = store._folder.work_seen()
        writer.put(place, np.arange(layout.rows), padded(row_values(layout), layout))
        assert store._folder.work_seen() not in (before, aged)


# ---- no room, no leftovers


def test_room_of_all_parts_is_taken_before_anything_is_computed(
    filling: Filling, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = os.posix_fallocate, []

    def full_at_the_second(descriptor: int, offset: int, size: int) -> None:
        calls.append(size)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor, offset, size)

    monkeypatch.setattr(os, "posix_fallocate", full_at_the_second)
    monkeypatch.setattr(work, "build", lambda *_, **__: pytest.fail("computed"))
    with pytest.raises(StoreFull, match="go on without them"):
        filling(LATE)
    assert len(calls) == 2
    assert usage(tmp_path / "store").bytes == 0


def test_what_a_failed_attempt_finished_goes_with_it(
    filling: Filling, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        assert usage(tmp_path / "store").files == 1  # train's
        raise SpecError("no more")

    before_part(monkeypatch, "valid", fail)
    with pytest.raises(SpecError, match="no more"):
        filling(LATE)
    assert usage(tmp_path / "store").bytes == 0


def test_what_somebody_reads_stays_even_then(filling: Filling, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readers = []

    def fail() -> None:
        (folder,) = (path for path in (tmp_path / "store").iterdir() if path.is_dir())
        store = FeatureStore(tmp_path / "store", Folder(folder, folder.name, []))
        readers.append(store.reader("train", [LATE]))
        raise SpecError("no more")

    before_part(monkeypatch, "valid", fail)
    with pytest.raises(SpecError, match="no more"):
        filling(LATE)
    assert None not in readers
    assert usage(tmp_path / "store").files == 1


# ---- rows of other lengths


def test_states_of_rows_of_other_lengths_are_computed_anew(filling: Filling, tmp_path: Path) -> None:
    first, _ = filling(LATE)
    store = store_of(first, tmp_path)
    reader = store.reader("valid", [LATE])
    assert reader is not None
    with reader:
        layout = reader.layout(LATE)
    for path in store.folder.glob("valid.blocks.*"):
        path.unlink()
    assert layout.lengths is not None
    other = ragged(layout.lengths[::-1] + np.arange(layout.rows) % 2, width=layout.shape[0])
    with store.writer("valid", {LATE: other}) as writer:
        writer.put(LATE, np.arange(other.rows), padded(row_values(other), other))
    again, notes = filling(LATE)
    assert again.verdict == "all"
    assert any("is of other rows, lengths or types" in note for note in notes)
    with store.reader("valid", [LATE]) or pytest.fail("not there") as made:
        assert made.layout(LATE).same_rows(layout)
