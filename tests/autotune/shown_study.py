"""A study of five trials, written into an MLflow store as a study writes it, its names as odd as they may be."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from autotune.config import StudyConfig
from autotune.outcome import Status, TrialRecord
from autotune.report import front_table, points_from, select, write_report
from autotune.tracking import Tracker
from tests.autotune._records import SHERL, trial

HOSTILE = '<img src=x onerror="window.harmed=1">|`*_[x](javascript:harmed) @you :smile: www.example.com'
"""A name that a person could give, which is more than text wherever it is not escaped."""


def records() -> list[TrialRecord]:
    """Five trials: a front of three, of which one has a hostile name, one that was stopped and one over the cap."""
    made = [
        trial(0, 0.71, 150_000_000, test_metrics={"accuracy": 0.70}),
        trial(1, 0.79, 420_000_000, method={**SHERL, "name": HOSTILE}, test_metrics={"accuracy": 0.78}),
        trial(2, 0.83, 1_900_000_000, method={"name": "full"}, test_metrics={"accuracy": 0.82}),
        trial(3, 0.65, 900_000_000, status=Status.STOPPED, reason="stopped early"),
        trial(4, None, 2_600_000_000, status=Status.OVER_CAP, reason="over the cap", epochs=0),
    ]
    held = []
    for record in made:
        assert record.outcome is not None
        assert record.outcome.peak is not None
        device = record.outcome.peak.device
        series = tuple((0.05 * step, int(device * (0.6 + 0.4 * math.sin(step / 76) ** 2))) for step in range(240))
        held.append(replace(record, outcome=replace(record.outcome, memory_over_time=series)))
    return held


def write_study(uri: str, folder: Path) -> tuple[str, str]:
    """The study's run and that of trial 2, written as a study writes them."""
    from mlflow import MlflowClient

    trials = records()
    points = points_from(trials, metric_name="accuracy")
    selection = select(points)
    settings = {"name": HOSTILE, "model": "all-minilm-l6-v2", "memory_cap": 3_000_000_000, "metric": "accuracy"}
    paths = write_report(folder / "report", trials, settings, selection=selection)
    tracker = Tracker.open(uri, study_dir=folder, study_name=HOSTILE)
    tracker.study_started({"memory_cap": 3_000_000_000, "model": "all-minilm-l6-v2"})
    for record in trials:
        tracker.trial_finished(record)
    tracker.front(paths.all(), front_table(points), selection.to_dict(), titles=paths.titles())
    tracker.finished("complete")
    assert tracker.close(timeout_s=120) == 0, tracker.notes
    client = MlflowClient(uri)
    experiment = client.get_run(str(tracker.run_id)).info.experiment_id
    (best,) = client.search_runs([experiment], "tags.trial_number = '2'")
    return str(tracker.run_id), str(best.info.run_id)


def make_folder(folder: Path, *, uri: str | None = None) -> Path:
    """A study's folder with its settings."""
    folder.mkdir(parents=True, exist_ok=True)
    config = StudyConfig(memory_cap=3_000_000_000, model="all-minilm-l6-v2", study_dir=folder, mlflow_uri=uri)
    config.save(folder / StudyConfig.FILE_NAME)
    return folder
