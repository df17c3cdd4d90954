"""A whole study on a folder of images, on a convolutional network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import sherl
from autotune.outcome import Status, TrialRecord
from autotune.search import StudyRecord
from autotune.study import export_from_study, select_from_study
from sherl.data import PreparedData

from .small_study import autotune
from .task_inputs import inputs_of

pytestmark = pytest.mark.slow

SPACE = """
name: images
training: {batch_size: 8, epochs: 2}
methods:
  sherl:
    learning_rate: 5e-3
    reduction_factor: 4
    start_layer: {choice: [-1, -3]}
  linear_probe: {learning_rate: 3e-2}
  full: {learning_rate: 1e-3}
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The study's folder and what the command printed."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "space.yaml").write_text(SPACE)
    options = {
        **inputs_of("resnet photos", folder),
        "--space": str(folder / "space.yaml"),
        "--memory-cap": "2GB",
        "--confirm": "0",
    }
    study = folder / "study"
    printed = autotune("run", options={**options, "--trials": "3", "--study-dir": str(study)}).stdout
    return study, printed


def records(study: Path) -> list[TrialRecord]:
    with StudyRecord.open(study / "study.db") as record:
        return record.trials()


def test_its_trials_are_measured_as_predicted(finished: tuple[Path, str]) -> None:
    study, printed = finished
    assert "left out -3; allowed: -2 to -1" in printed
    assert {trial.candidate.method["name"] for trial in records(study)} == {"sherl", "linear_probe", "full"}
    for trial in records(study):
        assert trial.outcome is not None
        assert trial.outcome.status is Status.COMPLETE, trial.outcome
        assert trial.outcome.peak is not None
        assert trial.outcome.predicted is not None
        assert trial.outcome.peak.allocated == trial.outcome.predicted.allocated


def test_a_selected_model_classifies_image_files_as_in_its_trial(finished: tuple[Path, str], tmp_path: Path) -> None:
    study, _ = finished
    chosen = select_from_study(study, prefer="memory")
    said = export_from_study(study, tmp_path / "model").explanation
    assert f"autotune predict {tmp_path / 'model'} photo.jpg" in said
    card = (tmp_path / "model" / "README.md").read_text()
    assert "An image classification model" in card
    assert "train: photos" in card
    (trial,) = [trial for trial in records(study) if trial.number == chosen.point.number]
    assert trial.outcome is not None
    data = PreparedData.open(study / "prepared")
    part = data.part("valid")
    files = [str(study.parent / "photos" / name) for name in map(_below_the_folder, part.texts)]
    predictor = sherl.load(tmp_path / "model")
    right = (predictor.logits(files).argmax(-1) == part.labels).float().mean()
    assert float(right) == pytest.approx(trial.outcome.metrics["accuracy"], abs=1e-5)
    printed = autotune("predict", tmp_path / "model", files[0], files[1], "--json").stdout
    assert [answer["label"] for answer in json.loads(printed)] == [
        answer["label"] for answer in predictor.predict(files[:2])
    ]


def _below_the_folder(name: object) -> str:
    """What a row is called is its path, from the data folder's own name on."""
    return str(name).partition("/")[2]
