"""The filling process's own work, without a process: what it decides with a store that is partly filled, tight or closed to it."""

from __future__ import annotations

import errno
import importlib
import io
import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from autotune.errors import StoreError
from autotune.features import deciding, eviction, worker
from autotune.features.errand import Errand
from autotune.features.eviction import usage
from autotune.features.reader import Reader
from sherl.backbones import Backbone, load_backbone
from tests.autotune.features.filled import EARLY, LATE, Filling, readable, store_of
from tests.autotune.features.samples import FIRST, built, ragged, read


def refuse(monkeypatch: pytest.MonkeyPatch, which: Callable[[str, int], bool], code: int = errno.EACCES) -> None:
    """As another user, or on a disk that is mounted for reading: the system opens some files for nobody."""
    real = os.open

    def opened(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
        if which(str(path), flags):
            raise OSError(code, os.strerror(code), str(path))
        return real(path, flags, *arguments, **options)

    monkeypatch.setattr(os, "open", opened)


def to_write(path: str, flags: int) -> bool:
    return "store" in path and bool(flags & (os.O_WRONLY | os.O_RDWR))


# ---- whose code it is


def with_norm(monkeypatch: pytest.MonkeyPatch, folder: Path, factor: float) -> None:
    """A family of one's own: of the same weights, with a norm whose code lies in a file."""
    (folder / "own_norm.py").write_text(
        f"from torch import nn\n\nclass Norm(nn.LayerNorm):\n    def forward(self, x):\n        return {factor} * super().forward(x)\n"
    )
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(
        sys, "dont_write_bytecode", True
    )  # one of an equal age and size would be taken for the new one's
    monkeypatch.setitem(sys.modules, "own_norm", None)  # removed again behind the test
    del sys.modules["own_norm"]
    norm = importlib.import_module("own_norm").Norm

    def load(source: str, **settings: Any) -> Backbone:
        backbone = load_backbone(source, **settings)
        own = norm(backbone.width)
        own.load_state_dict(backbone.model.embeddings.LayerNorm.state_dict())
        backbone.model.embeddings.LayerNorm = own
        return backbone

    monkeypatch.setattr(worker, "load_backbone", load)


def test_states_of_other_code_are_not_read(filling: Filling, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, _ = filling(LATE)
    states = []
    made = []
    for factor in (1.5, 2.5, 1.5):
        with_norm(monkeypatch, tmp_path, factor)
        stored, _ = filling(LATE)
        made.append(stored)
        with store_of(stored, tmp_path).reader("test", [LATE]) or Reader("test", {}) as reader:
            states.append(read(reader, LATE, range(5)))
    assert plain.key["backbone"] == made[0].key["backbone"] == made[1].key["backbone"]
    assert made[0].key == made[2].key
    assert made[0].key != made[1].key
    assert torch.equal(states[0], states[2])
    assert not torch.allclose(states[0], states[1])
    assert sum(path.is_dir() for path in (tmp_path / "store").iterdir()) == 3


def test_of_code_that_cannot_be_told_nothing_is_stored(
    filling: Filling, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_norm(monkeypatch, tmp_path, 1.5)
    (tmp_path / "own_norm.py").unlink()
    stored, _ = filling(LATE)
    assert (stored.verdict, stored.places) == ("none", ())
    assert "Which code computes hidden states cannot be told: the module 'own_norm'" in stored.reason
    assert not (tmp_path / "store").exists()


# ---- room


def test_a_studys_own_files_never_go_for_what_it_adds(filling: Filling, tmp_path: Path) -> None:
    first, _ = filling(EARLY)
    size = usage(tmp_path / "store").bytes
    other = built(tmp_path / "store", {FIRST: ragged([500] * 120, width=32)})
    held = other.reader("train", [FIRST])
    assert held is not None
    in_all = usage(tmp_path / "store").bytes
    assert in_all > 2 * size
    with held:  # by another study: neither it nor the study's own files can go
        tight, _ = filling(EARLY, LATE, budget=in_all + size // 2)
    assert (tight.verdict, tight.places) == ("some", (EARLY,))
    assert readable(tight, tmp_path)
    assert tight.key == first.key
    more, notes = filling(EARLY, LATE, budget=in_all + size // 2)
    assert (more.verdict, more.places) == ("all", (EARLY, LATE))
    assert any("Evicted" in note for note in notes)
    assert readable(more, tmp_path)
    assert not other.has("train", FIRST)


@pytest.mark.parametrize("mode", ["on", "auto"])
def test_a_store_that_is_whole_needs_no_room(filling: Filling, tmp_path: Path, mode: str) -> None:
    filling()
    again, _ = filling(mode=mode, budget=1)
    assert (again.verdict, again.places) == ("all", (LATE,))
    assert readable(again, tmp_path)
    some, _ = filling(EARLY, LATE, mode=mode, budget=1)
    assert (some.verdict, some.places) == ("some", (LATE,))
    assert "need more than the room of 0 B" in some.reason


# ---- measuring


def test_nothing_is_written_to_measure_what_is_whole_or_was_asked_for(
    filling: Filling, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> tuple[float, float]:
        raise AssertionError("64 MiB were written")

    monkeypatch.setattr(deciding, "disk_speeds", never)
    assert filling(mode="on")[0].verdict == "all"
    assert filling(mode="auto")[0].verdict == "all"
    with pytest.raises(AssertionError, match="64 MiB"):
        filling(EARLY, mode="auto")


def test_reading_is_measured_where_nothing_is_missing(filling: Filling, monkeypatch: pytest.MonkeyPatch) -> None:
    filling(mode="on")
    monkeypatch.setattr(deciding, "read_speed", lambda path, total: 1.0)
    slow, _ = filling(mode="auto")
    assert slow.verdict == "none"
    assert "a pass over the stored hidden states would take" in slow.reason


def test_a_disk_that_cannot_be_measured_is_a_reason(filling: Filling, tmp_path: Path) -> None:
    def full(*_: Any) -> tuple[float, float]:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(deciding, "disk_speeds", full)
        nothing, _ = filling(mode="auto")
        assert (nothing.verdict, nothing.places) == ("none", ())
        assert "No space left on device" in nothing.reason
    filling(mode="on")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(deciding, "disk_speeds", full)
        some, _ = filling(EARLY, LATE, mode="auto")
    assert (some.verdict, some.places) == ("some", (LATE,))
    assert "No space left on device" in some.reason
    assert readable(some, tmp_path)


def test_on_a_full_disk_what_is_old_goes_before_it_is_measured(
    filling: Filling, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = built(tmp_path / "store", {FIRST: ragged([500] * 120, width=32)})

    def free(_: Path) -> int:
        return 10**9 if not other.has("train", FIRST) else 0

    monkeypatch.setattr(eviction, "free_bytes", free)
    monkeypatch.setattr(deciding, "SAMPLE_BYTES", 10_000)
    stored, notes = filling(mode="auto", budget=10**9)
    assert stored.verdict == "all"
    assert any("Evicted" in note for note in notes)
    assert readable(stored, tmp_path)


# ---- permission


@pytest.mark.parametrize("mode", ["on", "auto"])
def test_a_whole_store_is_read_from_a_disk_that_takes_nothing(
    filling: Filling, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    filling()
    refuse(monkeypatch, to_write, errno.EROFS)
    stored, _ = filling(mode=mode)
    assert (stored.verdict, stored.places) == ("all", (LATE,))
    some, _ = filling(EARLY, LATE, mode=mode)
    assert (some.verdict, some.places) == ("some", (LATE,))
    assert "Read-only file system" in some.reason
    assert readable(some, tmp_path)


def test_a_folder_that_may_not_be_written_is_said(filling: Filling, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch, to_write)
    with pytest.raises(StoreError, match=r"cannot be stored under .*Permission denied"):
        filling()


def test_a_file_that_may_not_be_read_is_done_without(
    filling: Filling, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filling(EARLY, LATE)
    refuse(monkeypatch, lambda path, _: "valid.blocks.3" in path and path.endswith(".bin"))
    none, _ = filling(LATE)
    assert (none.verdict, none.places) == ("none", ())
    assert "cannot be read (Permission denied)" in none.reason
    some, notes = filling(EARLY, LATE)
    assert (some.verdict, some.places) == ("some", (EARLY,))
    assert any("cannot be read (Permission denied)" in note for note in notes)
    assert readable(some, tmp_path)


def test_a_manifest_that_may_not_be_read_is_stored_beside(
    filling: Filling, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = filling()
    (closed,) = store_of(first, tmp_path).folder.glob("train.blocks.3.*.json")
    real = Path.read_bytes

    def read(path: Path) -> bytes:
        if path == closed:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", read)
    again, notes = filling()
    assert again.verdict == "all"
    assert sum("cannot be read (PermissionError)" in note for note in notes) == 1
    assert readable(again, tmp_path)


def test_what_was_damaged_is_stored_anew(filling: Filling, tmp_path: Path) -> None:
    first, _ = filling()
    (damaged,) = store_of(first, tmp_path).folder.glob("test.blocks.3.*.bin")
    content = bytearray(damaged.read_bytes())
    content[7] ^= 1
    damaged.write_bytes(content)
    again, notes = filling()
    assert again.verdict == "all"
    assert any("damaged row" in note for note in notes)
    assert readable(again, tmp_path)


# ---- plugins


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (None, "ModuleNotFoundError: No module named 'own_plugin'"),
        ("import nowhere_at_all", "ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("from os import nothing_such", "ImportError: cannot import name 'nothing_such'"),
        ("raise ValueError('a name is taken')", "ValueError: a name is taken"),
        ("def", "SyntaxError: "),
    ],
)
def test_a_plugin_that_cannot_be_imported_is_named(
    errand: Errand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str | None, said: str
) -> None:
    if source is not None:
        (tmp_path / "own_plugin.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    told = tmp_path / "told"
    with told.open("w") as channel:
        monkeypatch.setattr(sys, "argv", ["worker", str(os.dup(channel.fileno()))])
    monkeypatch.setattr(sys, "stdin", io.StringIO(replace(errand, plugins=("own_plugin",)).to_json() + "\n"))
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    with pytest.raises(SystemExit):
        worker.main()
    (message,) = told.read_text().splitlines()
    failed = json.loads(message)["failed"]
    assert "The plugin 'own_plugin' could not be imported" in failed
    assert said in failed
