"""Where a command looks for a study, and what it says where it finds none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from autotune.config import StudyConfig
from autotune.errors import StudyError
from autotune.study.folder import find_folder
from tests.autotune.test_compare import make_study


def refusal(study_dir: str | None) -> str:
    with pytest.raises(StudyError) as caught:
        find_folder(study_dir)
    return str(caught.value)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with ``studies/old`` and ``studies/the new``."""
    for age, name in enumerate(("old", "the new")):
        made = make_study(tmp_path / "studies" / name, [0.7])
        os.utime(made / StudyConfig.FILE_NAME, (1e9 + age, 1e9 + age))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_newest_is_taken(place: Path) -> None:
    assert find_folder(None).path == Path("studies/the new")


def test_from_elsewhere_it_says_where_it_looked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said = refusal(None)
    assert f"no study under ./studies of {tmp_path}." in said
    assert "Give --study-dir, or start one: autotune run" in said


def test_in_the_folder_of_studies_it_names_them(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place / "studies")
    assert "Give --study-dir, such as 'the new' or old, or start one" in refusal(None)


def test_in_a_study_it_says_so(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place / "studies" / "old")
    assert "which is one itself: --study-dir ." in refusal(None)
    assert find_folder(".").settings_file.exists()


def test_the_folder_of_studies_is_none_itself(place: Path) -> None:
    said = refusal("studies")
    assert "is no study's folder (it has no study.json)" in said
    assert "such as 'studies/the new' or studies/old" in said


def test_no_more_than_three_are_named(place: Path) -> None:
    for number in range(3):
        make_study(place / "studies" / f"s{number}", [0.7])
    assert refusal("studies").count("studies/") == 3
