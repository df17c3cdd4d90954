"""The commands that a report tells a person to type act on the study that was reported."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import pytest

from autotune.config import StudyConfig
from autotune.study import report_study
from autotune.study.folder import StudyFolder, find_folder
from tests.autotune.test_compare import make_study


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """An older and a newer study under ./studies, by paths as a person would give them."""
    monkeypatch.chdir(tmp_path)
    made = []
    for age, name in enumerate(("old", "new")):
        folder = make_study(tmp_path / "studies" / name, [0.7, 0.8])
        os.utime(folder / StudyConfig.FILE_NAME, (1e9 + age, 1e9 + age))
        made.append(Path("studies") / name)
    return made[0], made[1]


def told(study_dir: Path | None) -> list[list[str]]:
    """The commands of a report's last lines, as a shell reads them."""
    closing = report_study(study_dir).closing
    found = re.findall(r"autotune (?:select|export|confirm|resume)\b[^\n,(`]*", closing[closing.index("Report:") :])
    return [shlex.split(command) for command in found]


def acts_on(command: list[str]) -> Path:
    given = command[command.index("--study-dir") + 1] if "--study-dir" in command else None
    return find_folder(given).path.resolve()


def test_of_an_older_study_every_command_names_it(two: tuple[Path, Path]) -> None:
    old, _ = two
    commands = told(old)
    assert {command[1] for command in commands} == {"select", "export", "confirm"}
    assert all(acts_on(command) == old.resolve() for command in commands)
    assert all(str(old) in command for command in commands)


@pytest.mark.parametrize("given", [True, False])
def test_of_the_newest_study_no_command_needs_to(two: tuple[Path, Path], given: bool) -> None:
    _, new = two
    commands = told(new if given else None)
    assert len(commands) == 3
    assert all("--study-dir" not in command and acts_on(command) == new.resolve() for command in commands)


def test_of_a_study_elsewhere_the_path_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = make_study(tmp_path / "my $tudies" / "it's one", [0.7])
    commands = told(folder)
    assert len(commands) == 3
    assert all(acts_on(command) == folder.resolve() for command in commands)
    assert all(command[command.index("--study-dir") + 1] == str(StudyFolder(folder).path) for command in commands)
