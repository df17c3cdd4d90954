"""A whole study on texts that is no classification: language modelling, whose metric lies below zero."""

from __future__ import annotations

import json
import math
from pathlib import Path

import mlflow
import pytest

import sherl
from autotune.outcome import Status, TrialRecord
from autotune.search import StudyRecord
from autotune.study import export_from_study, report_study

from .small_study import autotune
from .task_inputs import inputs_of

pytestmark = pytest.mark.slow

SPACE = """
name: two
training: {batch_size: 8, epochs: 2}
methods:
  sherl: {learning_rate: 5e-3, reduction_factor: 2, late_route: {choice: [{lora: {rank: 2}}]}}
  linear_probe: {learning_rate: 1e-3}
  full: {learning_rate: 3e-3}
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The study's folder and what the command printed."""
    folder = tmp_path_factory.mktemp("texts")
    (folder / "space.yaml").write_text(SPACE)
    options = {
        **inputs_of("gpt2 book", folder),
        "--space": str(folder / "space.yaml"),
        "--memory-cap": "2GB",
        "--confirm": "0",
    }
    study = folder / "study"
    return study, autotune("run", options={**options, "--trials": "2", "--study-dir": str(study)}).stdout


def records(study: Path) -> list[TrialRecord]:
    with StudyRecord.open(study / "study.db") as record:
        return record.trials()


def test_its_trials_are_measured_as_predicted_and_what_does_not_suit_is_refused(finished: tuple[Path, str]) -> None:
    study, printed = finished
    assert {trial.candidate.method["name"] for trial in records(study)} == {"sherl", "full"}
    for trial in records(study):
        assert trial.outcome is not None
        assert trial.outcome.status is Status.COMPLETE, trial.outcome
        assert trial.outcome.metric is not None
        assert trial.outcome.metric < -1
        assert trial.outcome.peak is not None
        assert trial.outcome.predicted is not None
        assert trial.outcome.peak.allocated == trial.outcome.predicted.allocated
    with StudyRecord.open(study / "study.db") as record:
        (refused,) = record.refusals()
    assert "nothing would train" in refused.reason
    assert "0 do not fit 2.00 GB (1.86 GiB), 1 do not suit the model or the task" in printed
    assert "1 configuration refused" in printed


def test_front_report_and_mlflow_take_a_metric_below_zero(finished: tuple[Path, str]) -> None:
    study, printed = finished
    assert "Accuracy-memory front (neg_perplexity on validation)" in printed
    report = report_study(study).to_dict()
    assert report["metric"] == "neg_perplexity"
    best = max(report["front"], key=lambda member: member["metric"])
    assert best["metric"] == max(member["metric"] for member in report["trials"])
    assert report["selected"] == best["number"]
    assert best["test_metrics"]["neg_perplexity"] < -1
    assert (study / "report" / "front.png").stat().st_size > 1000
    client = mlflow.MlflowClient(f"sqlite:///{study / 'mlflow.db'}")
    (experiment,) = [one for one in client.search_experiments() if client.search_runs([one.experiment_id])]
    shown = [value for run in client.search_runs([experiment.experiment_id]) for value in run.data.metrics.values()]
    assert any(value == pytest.approx(best["metric"]) for value in shown)


def test_it_is_selected_by_a_bound_below_zero_exported_and_answers(finished: tuple[Path, str], tmp_path: Path) -> None:
    study, _ = finished
    worst = min(trial.outcome.metric for trial in records(study) if trial.outcome and trial.outcome.metric)
    chosen = autotune("select", "--study-dir", study, "--min-metric", str(worst - 1), "--prefer", "memory", "--json")
    assert json.loads(chosen.stdout)["point"]["metric"] >= worst - 1
    export_from_study(study, tmp_path / "model")
    predictor = sherl.load(tmp_path / "model")
    answer = predictor.predict("good film the plot")
    assert answer["tokens"] == 3
    assert answer["perplexity"] == pytest.approx(math.exp(answer["nll"]))
    printed = autotune("predict", tmp_path / "model", "good film the plot", "good").stdout.splitlines()
    assert printed == [f"perplexity {answer['perplexity']:.4f}\tgood film the plot", "no token to predict\tgood"]
