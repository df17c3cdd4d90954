"""The pairs that a user's studies share: what is read and written, by several at once, and how much of it stays."""

from __future__ import annotations

import json
import multiprocessing
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autotune.memory import shared_pairs
from autotune.memory.pairs import Origin, Pair
from autotune.memory.shared_pairs import SharedPairs, pairs_file
from autotune.outcome import MemoryFigures
from tests.autotune.memory.test_pairs import finish, on_gpu, predicted_on
from tests.autotune.memory.test_predict import BASELINE, MB, _candidate, _predictor, traced

__all__ = ["traced"]  # a fixture


@pytest.fixture
def shared(tmp_path: Path) -> SharedPairs:
    def refuse(why: str) -> None:
        raise AssertionError(why)

    return SharedPairs(tmp_path / "cache" / "pairs.jsonl", refuse)


def pair(beyond: int = 5, **origin: Any) -> Pair:
    return Pair(kind="cuda", base=100, beyond=beyond, origin=Origin(torch="2.13", gpu="a100", **origin))


def test_they_lie_in_the_cache_unless_they_are_to_lie_elsewhere_or_nowhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AUTOTUNE_CACHE", str(tmp_path))
    assert pairs_file({}) == tmp_path / "pairs.jsonl"
    assert pairs_file({"AUTOTUNE_PAIRS": "~/here"}) == Path.home() / "here"
    assert pairs_file({"AUTOTUNE_PAIRS": ""}) is None
    assert SharedPairs.usual() is None, "as the tests have it"
    monkeypatch.delenv("AUTOTUNE_PAIRS")
    usual = SharedPairs.usual()
    assert usual is not None
    assert usual.path == tmp_path / "pairs.jsonl"


@pytest.mark.usefixtures("traced")
def test_the_next_study_starts_with_what_the_last_one_taught(shared: SharedPairs, tmp_path: Path) -> None:
    first = on_gpu(tmp_path / "one.jsonl", 600 * MB, shared_pairs=shared)
    finish(first, 1300 * MB)
    assert predicted_on(on_gpu(tmp_path / "two.jsonl", 600 * MB, shared_pairs=shared)) == 1300 * MB
    assert predicted_on(on_gpu(None, 640 * MB, shared_pairs=shared, driver="")) == 1300 * MB, "a plan's"
    assert predicted_on(on_gpu(tmp_path / "two.jsonl", 600 * MB)) == 1144 * MB
    assert predicted_on(on_gpu(None, 600 * MB, shared_pairs=shared, device_name="L4")) == 1144 * MB
    assert on_gpu(tmp_path / "two.jsonl", 600 * MB, shared_pairs=shared).taught_by_others == 1
    assert on_gpu(tmp_path / "one.jsonl", 600 * MB, shared_pairs=shared).taught_by_others == 0, "its own"


@pytest.mark.usefixtures("traced")
def test_what_memory_ended_is_not_held_against_later_studies(shared: SharedPairs, tmp_path: Path) -> None:
    first = on_gpu(tmp_path / "one.jsonl", 600 * MB, shared_pairs=shared)
    first.learn_breach(_candidate(), 9000 * MB)
    assert predicted_on(first) > 9000 * MB
    assert predicted_on(on_gpu(None, 600 * MB, shared_pairs=shared)) == 1144 * MB


@pytest.mark.usefixtures("traced")
def test_a_pair_in_two_files_counts_once(shared: SharedPairs, tmp_path: Path) -> None:
    file = tmp_path / "study.jsonl"
    study = on_gpu(file, 600 * MB, shared_pairs=shared)
    for _ in range(10):  # not enough for a quantile, and twice as many would be
        finish(study, (480 + 600 + 1) * MB)
    assert predicted_on(study) == predicted_on(on_gpu(file, 600 * MB, shared_pairs=shared)) == 1144 * MB


@pytest.mark.usefixtures("traced")
def test_a_line_holds_sizes_and_kinds_alone(shared: SharedPairs, tmp_path: Path) -> None:
    finish(on_gpu(tmp_path / "secret-study.jsonl", 600 * MB, shared_pairs=shared), 1300 * MB)
    cpu = _predictor(threads=2, shared_pairs=shared)
    cpu.calibrate(cpu.predict(_candidate()), MemoryFigures(allocated=1, device=BASELINE + 900 * MB, meter="process"))
    kept = shared.path.read_text()
    first, second = (json.loads(line) for line in kept.splitlines() if line)
    own = {"pair", "kind", "beyond", "torch", "gpu", "driver", "model", "threads"}
    assert set(first) == own | {"reserved"}
    assert set(second) == own | {"allocated"}
    assert (first["gpu"], first["driver"], first["model"]) == ("a100", "580", "bert")
    assert (second["gpu"], second["driver"], second["threads"]) == ("", "", 2)
    assert "secret" not in kept
    assert stat.S_IMODE(shared.path.stat().st_mode) & 0o077 == 0


def test_damaged_lines_are_passed_over(shared: SharedPairs) -> None:
    shared.path.parent.mkdir()
    good = json.dumps(pair().to_line())
    cut, infinite = good[:-9], good.replace('"beyond": 5', '"beyond": 1e999')
    assert infinite != good
    shared.path.write_bytes("\n".join([cut, infinite, "[]", "\x00", good[::-1], cut]).encode() + b"\xff")
    assert list(shared.read()) == []
    shared.add(pair(7))  # behind a line without its end
    assert [found.beyond for found in shared.read()] == [7]


def test_the_older_half_goes_and_the_newest_stays(monkeypatch: pytest.MonkeyPatch, shared: SharedPairs) -> None:
    monkeypatch.setattr(shared_pairs, "MOST_BYTES", 20_000)
    sizes = []
    for number in range(400):
        shared.add(pair(number))
        sizes.append(shared.path.stat().st_size)
    assert max(sizes) <= 20_000
    assert min(sizes[150:]) > 20_000 / 2 - 300
    found = [one.beyond for one in shared.read()]
    assert found == list(range(400 - len(found), 400))
    assert stat.S_IMODE(shared.path.stat().st_mode) & 0o077 == 0
    assert list(shared.path.parent.iterdir()) == [shared.path], "nothing is left lying"


def _write(path: Path, writer: int, count: int, most: int) -> None:
    shared_pairs.MOST_BYTES = most
    one = SharedPairs(path)
    for number in range(count):
        one.add(pair(number, driver=str(writer)))


@pytest.mark.parametrize("trimmed", [False, True])
def test_several_studies_write_at_once(trimmed: bool, shared: SharedPairs) -> None:
    writers, count = 4, 120
    most = 30_000 if trimmed else 10**6
    begin = multiprocessing.get_context("fork").Process
    started = [begin(target=_write, args=(shared.path, writer, count, most)) for writer in range(writers)]
    for process in started:
        process.start()
    for process in started:
        process.join(60)
    assert [process.exitcode for process in started] == [0] * writers
    found = list(shared.read())
    lines = [line for line in shared.path.read_text().splitlines() if line]
    assert len(lines) == len(found), "each line is whole"
    for writer in range(writers):
        own = [one.beyond for one in found if one.origin.driver == str(writer)]
        assert own == list(range(count - len(own), count)), "in order, and none is missing among the newest"
        assert trimmed or len(own) == count


def test_who_waited_while_the_file_was_trimmed_writes_into_the_new_one(
    monkeypatch: pytest.MonkeyPatch, shared: SharedPairs
) -> None:
    shared.add(pair(1))
    lock: Callable[[int], None] = shared_pairs._lock
    meanwhile = iter([shared._trim, shared.path.unlink])

    def slow(descriptor: int) -> None:
        next(meanwhile, lambda: None)()
        lock(descriptor)

    monkeypatch.setattr(shared_pairs, "_lock", slow)
    shared.add(pair(2))
    assert [one.beyond for one in shared.read()] == [2], "trimmed, then taken away, then begun anew"


def test_a_lock_that_is_never_given_back_holds_nobody_up(monkeypatch: pytest.MonkeyPatch, shared: SharedPairs) -> None:
    fcntl = pytest.importorskip("fcntl")
    monkeypatch.setattr(shared_pairs, "PATIENCE_SECONDS", 0.05)
    shared.add(pair(1))
    with shared.path.open("rb") as stopped:  # a study that was suspended at the wrong moment
        fcntl.flock(stopped, fcntl.LOCK_EX)
        shared.add(pair(2))
    assert [one.beyond for one in shared.read()] == [1, 2]


@pytest.mark.usefixtures("traced")
def test_a_study_goes_on_where_nothing_can_be_kept_and_says_so_once(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("no folder")
    told: list[str] = []
    shared = SharedPairs(tmp_path / "cache" / "pairs.jsonl", told.append)
    study = on_gpu(tmp_path / "study.jsonl", 600 * MB, shared_pairs=shared)
    finish(study, 1300 * MB)
    finish(study, 1300 * MB)
    assert predicted_on(study) == predicted_on(on_gpu(tmp_path / "study.jsonl", 600 * MB)) == 1300 * MB
    assert len(told) == 1
    assert "could not be kept for later studies" in told[0]
    assert str(shared.path) in told[0]
    assert os.sep in told[0]
