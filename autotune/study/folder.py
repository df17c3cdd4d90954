"""A study's folder: where each thing lies in it, how one is made and found."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotune.config import StudyConfig
from autotune.errors import StudyError
from autotune.report import Rule
from autotune.space.files import find as find_space

STUDIES = Path("studies")


@dataclass(frozen=True)
class StudyFolder:
    """The folder of one study. ``study.json`` holds the settings, ``study.db`` the record (the one truth)."""

    path: Path

    @property
    def settings_file(self) -> Path:
        """The settings that the study was started with."""
        return self.path / StudyConfig.FILE_NAME

    @property
    def record_file(self) -> Path:
        """SQLite file of the Optuna study."""
        return self.path / "study.db"

    @property
    def lock_file(self) -> Path:
        """Held by the study's one driver."""
        return self.path / "study.db.lock"

    @property
    def option(self) -> str:
        """``--study-dir 'my study'``, for a command that a person is to type."""
        return f"--study-dir {shlex.quote(str(self.path))}"

    @property
    def storage_url(self) -> str:
        """The record as Optuna (and optuna-dashboard) open it."""
        return f"sqlite:///{self.record_file.resolve()}"

    @property
    def prepared(self) -> Path:
        """Tokenised data, read by every trial."""
        return self.path / "prepared"

    @property
    def predictions_file(self) -> Path:
        """Predicted memory by shape, so that nothing is predicted twice."""
        return self.path / "predictions.jsonl"

    @property
    def report(self) -> Path:
        """Figures and tables."""
        return self.path / "report"

    @property
    def selection_file(self) -> Path:
        """The last selection, which ``autotune export`` takes."""
        return self.path / "selection.json"

    def trial(self, number: int) -> Path:
        """Folder of one trial: its checkpoint and what it wrote to stderr."""
        return self.path / "trials" / f"{number:05d}"

    def keep_space(self, name_or_path: str) -> Path:
        """The study's own copy of its search space, taken at the start: a later change elsewhere does not reach it.

        Raises:
            ConfigError: there is no such search space.
        """
        kept = self.path / "space.yaml"
        if not kept.exists():
            shutil.copyfile(find_space(name_or_path), kept)
        return kept

    def settings(self) -> StudyConfig:
        """The settings that the study was started with.

        Raises:
            ConfigError: they cannot be read.
        """
        return StudyConfig.load(self.settings_file)

    def read_selection(self) -> dict[str, Any] | None:
        """The last selection, or None.

        Raises:
            StudyError: the file cannot be read, or is damaged.
        """
        if not self.selection_file.exists():
            return None
        try:
            read = json.loads(self.selection_file.read_text(encoding="utf-8"))
            if not isinstance(read, dict):
                raise TypeError(f"it holds a {type(read).__name__}")
            Rule(**read.get("rule", {}))
        except (OSError, ValueError, TypeError) as error:  # cut off, no UTF-8, or no conditions that make sense
            raise StudyError(
                f"{self.selection_file} is no selection ({error}). Run `autotune select` again; it writes the file anew."
            ) from error
        return read


def default_name(model: str, train: str | None) -> str:
    """A readable name of a new study: model, data, time."""
    data = "movie-reviews" if train is None else Path(train).name.split(".")[0]
    return f"{_readable(f'{Path(model).name}-{data}')}-{time.strftime('%Y%m%d-%H%M%S')}"


def name_of(folder: Path) -> str:
    """The name of a new study in a folder that was given: the folder's, as far as a name may have it."""
    name = folder.expanduser().resolve().name
    return name if name and not name.startswith(".") and "\\" not in name else _readable(name)


def _readable(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.") or "study"


def create_folder(config: StudyConfig) -> tuple[StudyFolder, bool]:
    """Make a new study's folder and write its settings; also says whether the folder itself is new.

    Raises:
        StudyError: a study lies there already, or the folder holds something else.
    """
    folder = StudyFolder(Path(config.study_dir))
    if folder.settings_file.exists():
        raise StudyError(
            f"{folder.path} already holds a study. Go on with it: `autotune resume {folder.option}`; "
            "or give a new --study-dir or --name."
        )
    if folder.path.exists() and (not folder.path.is_dir() or any(folder.path.iterdir())):
        raise StudyError(f"{folder.path} is not an empty folder and holds no study. Give a new or empty --study-dir.")
    made = not folder.path.exists()
    folder.path.mkdir(parents=True, exist_ok=True)
    config.save(folder.settings_file)
    return folder, made


def remove_folder(folder: StudyFolder, *, made: bool) -> None:
    """Take away a study that came to nothing; a folder that was there before is only emptied."""
    if made:
        shutil.rmtree(folder.path)
        return
    for item in folder.path.iterdir():
        if item.is_dir() and not item.is_symlink():
            shutil.rmtree(item)
        else:
            item.unlink()


_NAMED = 3
"""Studies that a message names at most."""


def find_folder(study_dir: str | Path | None) -> StudyFolder:
    """The folder asked for, or the newest study under ``./studies``.

    Raises:
        StudyError: there is no study.
    """
    if study_dir is not None:
        folder = StudyFolder(Path(study_dir))
        if not folder.settings_file.exists():
            what = "is no study's folder (it has no study.json)" if folder.path.exists() else "does not exist"
            raise StudyError(
                f"{folder.path} {what}. Give the --study-dir of a study that `autotune run` made{_those_in(folder.path)}."
            )
        return folder
    found = _studies_in(STUDIES)
    if not found:
        here = Path()
        if StudyFolder(here).settings_file.exists():
            raise StudyError(f"There is no study under ./studies of {Path.cwd()}, which is one itself: --study-dir .")
        raise StudyError(
            f"There is no study under ./studies of {Path.cwd()}. Give --study-dir{_those_in(here)}, or start one: autotune run "
            "--memory-cap 8GB"
        )
    return found[0]


def _studies_in(folder: Path) -> list[StudyFolder]:
    """The newest first."""
    found = [StudyFolder(file.parent) for file in folder.glob(f"*/{StudyConfig.FILE_NAME}")]
    return sorted(found, key=lambda study: (study.settings_file.stat().st_mtime, study.path.name), reverse=True)


def _those_in(folder: Path) -> str:
    """Some studies of a folder, behind a sentence that asks for one; "" where it holds none."""
    found = [shlex.quote(str(study.path)) for study in _studies_in(folder)]
    return f", such as {' or '.join(found[:_NAMED])}" if found else ""


def study_dir_option(folder: StudyFolder) -> str:
    """:attr:`StudyFolder.option` behind a blank; "" where a command finds this study without it."""
    try:
        newest = find_folder(None)
    except StudyError:
        newest = None
    if newest is not None and newest.path.resolve() == folder.path.resolve():
        return ""
    return f" {folder.option}"
