"""Where ``autotune train`` works until its export is written: another's folder is left alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from autotune.errors import StudyError
from autotune.study.train import train_configuration
from autotune.study.train_settings import Changes, TrainSettings
from autotune.study.train_sources import settings_from_file


class Deaf:
    """Hears nothing."""

    def phase(self, name: str, text: str) -> None: ...

    def progress(self, what: str, done: int, total: int) -> None: ...

    def note(self, text: str) -> None: ...

    def warning(self, text: str) -> None: ...


@pytest.fixture
def settings(tmp_path: Path) -> TrainSettings:
    """Of a model that is nowhere, so that whatever gets past the folder ends at once."""
    file = tmp_path / "c.yaml"
    file.write_text(
        "method: lora\ntraining: {learning_rate: 1e-3}\nmodel: ./nowhere\ndata: {train: rows.csv}\nmemory_cap: 1GB\n"
    )
    return settings_from_file(file, None, Changes())


@pytest.mark.parametrize("restart", [False, True])
def test_a_folder_that_is_not_its_own_is_left_as_it_is(settings: TrainSettings, tmp_path: Path, restart: bool) -> None:
    others = tmp_path / "o.training"
    others.mkdir()
    (others / "my_notes.txt").write_text("precious")
    with pytest.raises(StudyError, match=r"holds other things \(my_notes\.txt\).*another --out"):
        train_configuration(settings, tmp_path / "o", Deaf(), restart=restart)
    assert [path.name for path in others.iterdir()] == ["my_notes.txt"]
    assert (others / "my_notes.txt").read_text() == "precious"


def test_a_file_or_a_link_in_its_place_is_left_too(settings: TrainSettings, tmp_path: Path) -> None:
    (tmp_path / "o.training").write_text("precious")
    with pytest.raises(StudyError, match="is a file or a link"):
        train_configuration(settings, tmp_path / "o", Deaf())
    assert (tmp_path / "o.training").read_text() == "precious"
    (tmp_path / "p.training").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StudyError, match="is a file or a link"):
        train_configuration(settings, tmp_path / "p", Deaf())
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("kept", [[], ["train.lock"], ["train.lock", "train.json"]])
def test_an_empty_one_and_its_own_are_taken(kept: list[str], tmp_path: Path) -> None:
    from autotune.study.train_folder import require_own

    work = tmp_path / "o.training"
    require_own(work)
    work.mkdir()
    for name in kept:
        (work / name).write_text("{}")
    if kept:
        (work / "prepared").mkdir()
    require_own(work)
