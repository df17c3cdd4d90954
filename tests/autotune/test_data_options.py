"""Every task's data reaches a study: from options to settings, from settings to prepared files."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from autotune.config import StudyConfig
from autotune.study import folder as folders
from autotune.study.preparing import describe_data, prepared_data
from sherl.data import DataSpec, PreparedData
from tests.sherl.data_samples import sentence, write_csv
from tests.sherl.glue_samples import write_glue
from tests.sherl.image_samples import backbone_folder, write_folder
from tests.sherl.text_to_text_samples import saved_model

from .small_study import ROOT

DOCS = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")


TASKS_NAMED = ("text-to-text", "language-modelling", "token-classification", "image-classification")


def blocks(language: str) -> list[str]:
    found: list[str] = re.findall(rf"```{language}\n(.*?)```", DOCS, flags=re.DOTALL)
    return found


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[StudyConfig]:
    """The settings of each study that is asked for; none is run."""
    configs: list[StudyConfig] = []

    class Stop(Exception):
        pass

    def run_study(config: StudyConfig, _display: Any) -> None:
        configs.append(config)
        raise Stop

    monkeypatch.setattr("autotune.study.run_study", run_study)
    return configs


def ask(words: list[str]) -> Any:
    from autotune.cli.app import app

    return CliRunner().invoke(app, words)


def prepared(config: StudyConfig, where: Path) -> PreparedData:
    where.mkdir(exist_ok=True)
    return prepared_data(folders.StudyFolder(where), config, None, lambda *_: None)


def test_the_pages_commands_are_understood(asked: list[StudyConfig]) -> None:
    commands = [line for block in blocks("bash") for line in block.strip().splitlines()]
    for command in commands:
        ask(shlex.split(command)[1:])
    assert len(asked) == len(commands)
    by_task = {DataSpec.from_dict(config.data).task: config for config in asked}
    assert set(by_task) == {"auto", *TASKS_NAMED}
    assert any(
        config.data["template"] == "summarize: {text}" and config.data["target_length"] == 40 for config in asked
    )
    assert by_task["image-classification"].data["image_size"] == 56
    assert by_task["language-modelling"].max_length == 128


def test_the_pages_settings_are_sound_and_name_every_task() -> None:
    made = [eval(block, {"DataSpec": DataSpec}) for block in blocks("python")]
    named = {spec.task for spec in made} | {"classification", "regression"}
    assert {
        row.strip(" `") for line in DOCS.splitlines() if line.startswith("| `") for row in line.split("|")[1].split(",")
    } <= named


def test_a_glue_folder_is_kept_by_its_whole_path(
    asked: list[StudyConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_glue(tmp_path / "GLUE", "rte")
    monkeypatch.chdir(tmp_path)
    ask(["run", "--memory-cap", "8GB", "--train", "glue:rte@GLUE", "--task", "text-to-text"])
    assert asked[0].data["train"] == f"glue:rte@{tmp_path / 'GLUE'}"


def test_wrong_settings_are_told_before_anything_is_made(asked: list[StudyConfig]) -> None:
    result = ask(["run", "--memory-cap", "8GB", "--template", "{label}", "--image-size", "0"])
    assert result.exit_code != 0
    assert not asked
    told = str(result.exception) + result.output
    for expected in (
        "template is a setting of the task text-to-text",
        "image_size must be a whole number of at least 1",
    ):
        assert expected in told


def test_a_study_prepares_text_to_text(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", [(sentence(n), "yes" if n % 2 else "no") for n in range(40)])
    model = saved_model(tmp_path / "model")
    data = {"train": str(tmp_path / "a.csv"), "task": "text-to-text", "template": "say {text}"}
    made = prepared(StudyConfig(memory_cap="8GB", model=model, data=data), tmp_path / "study")
    assert (made.task.kind, made.task.template, made.max_length) == ("text-to-text", "say {text}", 128)
    assert made.part("train").largest_batch(4)["labels"].shape == (4, made.task.target_length)
    describe_data(made, _Listener())


def test_a_study_prepares_images(tmp_path: Path) -> None:
    write_folder(tmp_path / "pets", {"cat": 10, "dog": 10})
    model = backbone_folder(tmp_path / "model", {"model_type": "vit", "image_size": 16}, None)
    config = StudyConfig(memory_cap="8GB", model=model, data={"train": str(tmp_path / "pets"), "image_size": 8})
    made = prepared(config, tmp_path / "study")
    assert made.part("train").largest_form(4)["pixel_values"].shape == (4, 3, 8, 8)
    listener = _Listener()
    describe_data(made, listener)
    assert any("ImageNet's mean" in note for note in listener.notes)


class _Listener:
    """Keeps notes; all else is passed over."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def phase(self, *_: str) -> None:
        pass

    def progress(self, *_: object) -> None:
        pass
