"""What is corrupt or not the store's own is as if it were not there: told, computed again, and left alone."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from autotune.errors import StoreError
from autotune.features.files import digest_of
from autotune.features.store import FeatureStore
from tests.autotune.features.samples import FIRST, KEY, build, built, files, is_right, ragged


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 9)


def _rewrite(**entries: object) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))

    return change


def _link(path: Path) -> None:
    away = path.with_name("elsewhere")
    path.rename(away)
    path.symlink_to(away)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("ending", "harm", "said"),
    [
        (".json", _truncate, "cannot be read"),
        (".json", lambda path: path.write_text("[1]"), "holds something else"),
        (".json", lambda path: path.write_text(" " * 2_000_000), "far too large"),
        (".json", _rewrite(format_version=99), "another format or version"),
        (".json", _rewrite(format="parquet"), "another format or version"),
        (".json", _rewrite(key_digest="0" * 32), "another key"),
        (".json", _rewrite(stem="valid.blocks.1"), "valid.blocks.1"),
        (".json", _rewrite(rows="many"), "garbles an entry"),
        (".json", _link, "no regular file"),
        (".json", _folder, "no regular file"),
        (".json", _fifo, "no regular file"),
        (".bin", _truncate, "bytes instead of"),
        (".bin", lambda path: path.unlink(), "is missing"),
        (".bin", _link, "no regular file"),
        (".bin", _folder, "no regular file"),
    ],
)
def test_a_file_that_is_not_right_is_absent_told_and_built_again(
    tmp_path: Path, ending: str, harm: Callable[[Path], None], said: str
) -> None:
    store = built(tmp_path)
    harmed = files(store, ending)[0]
    harm(harmed)
    before = {path: path.lstat().st_ino for path in store.folder.iterdir()}
    trial = FeatureStore.find(tmp_path, KEY)
    assert trial is not None
    assert not trial.has("train", FIRST)
    assert trial.reader("train", [FIRST]) is None
    assert any(said in note for note in trial.notes), trial.notes
    again = FeatureStore.open(tmp_path, KEY)
    assert build(again, {FIRST: ragged()}) == 1
    assert is_right(again, {FIRST: ragged()})
    after = {path: path.lstat().st_ino for path in store.folder.iterdir()}
    assert before.items() <= after.items()  # nothing was deleted or written over


@pytest.mark.parametrize("place", [0, -1])
def test_changed_values_or_lengths_are_found_and_built_again(tmp_path: Path, place: int) -> None:
    layouts = {FIRST: ragged()}
    store = built(tmp_path, layouts)
    path = files(store, ".bin")[0]
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    study = FeatureStore.open(tmp_path, KEY)
    assert study.reader("train", [FIRST], verify=True) is None
    assert any("damaged" in note and "computed again" in note for note in study.notes)
    assert not study.has("train", FIRST)
    assert not path.exists()
    assert build(study, layouts) == 1
    assert is_right(study, layouts)


def test_a_trial_passes_over_a_damaged_index_and_deletes_nothing(tmp_path: Path) -> None:
    store = built(tmp_path)
    path = files(store, ".bin")[0]
    content = bytearray(path.read_bytes())
    content[-40] ^= 1  # a length
    path.write_bytes(content)
    assert store.reader("train", [FIRST]) is None
    assert "damaged index" in store.notes[-1]
    assert path.exists()


def test_sizes_that_contradict_each_other_are_passed_over(tmp_path: Path) -> None:
    store = built(tmp_path)
    _rewrite(shape=[3])(files(store, ".json")[0])
    assert store.reader("train", [FIRST]) is None
    assert "does not suit it" in store.notes[-1]


@pytest.mark.parametrize(
    "stand",
    [
        lambda path: path.write_text("mine"),
        lambda path: path.symlink_to(path.parent),
        lambda path: (path.mkdir(), (path / "meta.json").write_text("{}")),
        lambda path: (path.mkdir(), (path / "meta.json").write_text('{"format"')),
        lambda path: (path.mkdir(), (path / "meta.json").mkdir()),
        lambda path: (
            path.mkdir(),
            (path / "meta.json").write_text('{"format": "autotune features", "format_version": 1, "key": {"a": 1}}'),
        ),
    ],
)
def test_a_folder_that_is_somebody_elses_is_left_alone(tmp_path: Path, stand: Callable[[Path], object]) -> None:
    name = tmp_path / digest_of(KEY)
    stand(name)
    before = sorted(path.name for path in name.iterdir()) if name.is_dir() and not name.is_symlink() else None
    store = FeatureStore.open(tmp_path, KEY)
    assert store.folder == tmp_path / f"{digest_of(KEY)}-2"
    assert any("is not used" in note and "left as it is" in note for note in store.notes)
    build(store, {FIRST: ragged()})
    again = FeatureStore.find(tmp_path, KEY)
    assert again is not None
    assert is_right(again, {FIRST: ragged()})
    if before is not None:
        assert sorted(path.name for path in name.iterdir()) == before


def test_a_folder_killed_before_its_first_file_is_taken_up(tmp_path: Path) -> None:
    (tmp_path / digest_of(KEY)).mkdir()
    assert FeatureStore.find(tmp_path, KEY) is None
    assert FeatureStore.open(tmp_path, KEY).folder == tmp_path / digest_of(KEY)


def test_a_root_that_cannot_be_is_said_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot be stored under .* Give another folder or go on without"):
        FeatureStore.open(tmp_path / "file", KEY)
    assert FeatureStore.find(tmp_path / "file", KEY) is None


def test_a_root_where_every_name_is_taken_is_said_in_words(tmp_path: Path) -> None:
    for ending in ("", *(f"-{number}" for number in range(2, 9))):
        (tmp_path / f"{digest_of(KEY)}{ending}").write_text("mine")
    with pytest.raises(StoreError, match="taken by something else"):
        FeatureStore.open(tmp_path, KEY)
