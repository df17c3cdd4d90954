"""The table of runs: what a trial has to sort and filter by, its curves, and whose run it is nested in."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autotune.outcome import Confirmation, InferenceFigures, MemoryFigures, Outcome, Status, TrialRecord
from autotune.tracking import entries, page
from tests.autotune._records import trial
from tests.autotune.conftest import Opener
from tests.autotune.mlflow_store import history, runs_of


def client_of(folder: Path) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")


def outcome_of(record: TrialRecord) -> Outcome:
    assert record.outcome is not None
    return record.outcome


def confirmed(record: TrialRecord, *metrics: float | None) -> TrialRecord:
    """The record with trainings on other seeds; one without a metric went wrong."""
    rest = tuple(
        Confirmation(
            seed=100 + index,
            outcome=replace(
                outcome_of(record), metric=metric, status=Status.FAILED if metric is None else Status.COMPLETE
            ),
        )
        for index, metric in enumerate(metrics)
    )
    return replace(record, confirmations=rest)


def test_runs_sort_and_filter_by_what_people_compare(opened: Opener, tmp_path: Path) -> None:
    tracker = opened()
    tracker.study_started({})
    planned = trial(0, 0.70, 300_000_000)
    tracker.trial_finished(replace(planned, candidate=replace(planned.candidate, plan={"accumulation": 4})))
    tracker.trial_finished(trial(1, 0.90, 900_000_000))
    tracker.trial_finished(trial(2, 0.80, 100_000_000))
    tracker.trial_finished(trial(3, None, 2_000_000_000, status=Status.OVER_CAP, reason="over the cap", epochs=0))
    tracker.front([], [{"number": 1}, {"number": 2}])
    assert tracker.close() == 0, tracker.notes
    client, experiment = client_of(tmp_path), runs_of(tmp_path, "study")[0].info.experiment_id

    def numbers(condition: str, order: str) -> list[str]:
        found = client.search_runs([experiment], f"tags.kind = 'trial' and {condition}", order_by=[order])
        return [run.data.tags["trial_number"] for run in found]

    everything = "tags.study_id != ''"
    assert numbers(everything, "metrics.metric DESC")[:3] == ["1", "2", "0"]
    assert numbers(everything, "metrics.peak_device_mb ASC") == ["2", "0", "1", "3"]
    assert numbers(everything, "metrics.peak_allocated_mb DESC") == ["3", "1", "0", "2"]
    assert numbers("metrics.peak_device_mb < 1000", "metrics.metric DESC") == ["2", "0"]
    assert numbers("tags.on_front = 'true'", "metrics.metric DESC") == ["1", "2"]
    assert numbers("tags.on_front = 'false'", "metrics.seconds ASC") == ["0", "3"] or numbers(
        "tags.on_front = 'false'", "metrics.seconds ASC"
    ) == ["3", "0"]
    assert numbers("tags.status = 'over_cap'", "metrics.metric DESC") == ["3"]
    assert numbers("tags.plan = 'accumulation=4'", "metrics.metric DESC") == ["0"]
    assert numbers("tags.plan = 'none'", "metrics.metric DESC")[:2] == ["1", "2"]


def test_the_view_of_the_table_has_columns_that_the_runs_have(opened: Opener, tmp_path: Path) -> None:
    tracker = opened()
    tracker.study_started({})
    tracker.trial_finished(confirmed(trial(0), 0.7))
    tracker.front([], [{"number": 0, "accuracy": 0.8}])
    assert tracker.close() == 0
    (study,), (run,) = runs_of(tmp_path, "study"), runs_of(tmp_path, "trial")
    client = client_of(tmp_path)
    name = f"autotune-{tracker.study_id[:12]}"
    assert f"viewStateShareKey={name}" in study.data.tags["mlflow.note.content"]
    view = json.loads(client.get_experiment(study.info.experiment_id).tags[f"mlflow.sharedViewState.{name}"])
    for column in view["selectedColumns"]:
        kind, _, key = column.partition(".")
        assert key.strip("`") in {"metrics": run.data.metrics, "tags": run.data.tags}[kind], column
    order = f"{view['orderByKey']} {'ASC' if view['orderByAsc'] else 'DESC'}"
    found = client.search_runs([study.info.experiment_id], view["searchFilter"], order_by=[order])
    assert [one.info.run_id for one in found] == [run.info.run_id]
    assert view == json.loads(page.table_view(tracker.study_id))


def test_memory_over_time_is_a_curve(opened: Opener, tmp_path: Path) -> None:
    series = tuple((round(0.05 * step, 3), 400_000_000 + step) for step in range(240))
    record = trial(0, None, 2_000, status=Status.OUT_OF_MEMORY, reason="out of memory", epochs=0)
    record = replace(record, outcome=replace(outcome_of(record), memory_over_time=series))
    tracker = opened()
    tracker.study_started({})
    tracker.trial_finished(record)
    assert tracker.close() == 0
    tracker = opened()
    tracker.trial_finished(replace(record, test_metrics={"accuracy": 0.5}))  # all of it is sent once more
    assert tracker.close() == 0
    (run,) = runs_of(tmp_path, "trial")
    curve = history(tmp_path, run.info.run_id, "curves/memory_device_mb")
    assert len(curve) == 240
    assert curve[0] == (0, 400.0)
    assert curve[-1] == (11_950, 400.0)
    timestamps = [
        one.timestamp for one in client_of(tmp_path).get_metric_history(run.info.run_id, "curves/memory_device_mb")
    ]
    assert max(timestamps) - run.info.start_time == 11_950


def test_confirmations_and_answering_are_figures_too(opened: Opener, tmp_path: Path) -> None:
    inference = InferenceFigures(
        peak=MemoryFigures(allocated=90_000_000, device=400_000_000, meter="process private bytes"),
        latency_seconds=0.0125,
        rows_per_second=640.0,
        batch_rows=32,
        threads=1,
        device="cpu",
    )
    tracker = opened()
    tracker.study_started({})
    record = replace(trial(0), inference=inference)
    tracker.trial_finished(confirmed(record, 0.9))
    assert tracker.deliver_pending() == 0
    first = runs_of(tmp_path, "trial")[0].data.metrics
    assert (first["confirmed_mean"], first["confirmed_seeds"]) == (0.9, 1)
    assert "confirmed_spread" not in first
    tracker.trial_finished(confirmed(record, 0.9, 0.7, None, 0.8))
    assert tracker.close() == 0
    metrics = runs_of(tmp_path, "trial")[0].data.metrics
    assert metrics["confirmed_mean"] == pytest.approx(0.8), "the mean of the latest, though an earlier one was higher"
    assert metrics["confirmed_spread"] == pytest.approx(0.1)
    assert metrics["confirmed_seeds"] == 3
    assert metrics["inference_latency_ms"] == 12.5
    assert metrics["inference_peak_device_mb"] == 400.0
    assert metrics["inference_rows_per_second"] == 640.0


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        ({}, "none"),
        ({"activation_checkpointing": True, "accumulation": 4}, "activation_checkpointing, accumulation=4"),
        ({"activation_checkpointing": False, "eval_batch_size": None}, "none"),
    ],
)
def test_a_plan_in_words(plan: dict[str, Any], words: str) -> None:
    assert entries.plan_words(plan) == words


def test_a_run_id_in_the_environment_is_the_run_around_the_study(
    opened: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = client_of(tmp_path)
    outer = client.create_run(client.create_experiment("pipeline"), run_name="nightly")
    monkeypatch.setenv("MLFLOW_RUN_ID", outer.info.run_id)
    tracker = opened()
    tracker.study_started({})
    tracker.trial_finished(trial(0))
    assert tracker.close() == 0
    assert tracker.notes == []
    (study,), (run,) = runs_of(tmp_path, "study"), runs_of(tmp_path, "trial")
    assert study.info.run_id != outer.info.run_id
    assert study.data.tags["mlflow.parentRunId"] == outer.info.run_id
    assert study.info.experiment_id == outer.info.experiment_id
    assert run.data.tags["mlflow.parentRunId"] == study.info.run_id
    assert client.get_run(outer.info.run_id).data.tags.keys() == outer.data.tags.keys(), "it is left as it was"


def test_a_run_id_that_is_none_is_said_aloud(opened: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", "0123456789abcdef0123456789abcdef")
    tracker = opened()
    tracker.study_started({})
    assert tracker.close() == 0
    assert "mlflow.parentRunId" not in runs_of(tmp_path, "study")[0].data.tags
    (note,) = tracker.notes
    assert "MLFLOW_RUN_ID=0123456789abcdef0123456789abcdef is no run of this store" in note


@pytest.mark.parametrize("by", ["name", "id"])
def test_the_experiment_is_the_one_that_a_person_names(
    by: str, opened: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = client_of(tmp_path)
    made = client.create_experiment("Team's experiment")
    monkeypatch.setenv(
        *(("MLFLOW_EXPERIMENT_NAME", "Team's experiment") if by == "name" else ("MLFLOW_EXPERIMENT_ID", made))
    )
    tracker = opened()
    tracker.study_started({})
    assert tracker.close() == 0
    assert runs_of(tmp_path, "study")[0].info.experiment_id == made
    assert "mlflow.experimentKind" not in client.get_experiment(made).tags, "another's experiment stays of its sort"


def test_an_experiment_that_is_not_there_is_said_aloud_and_loses_nothing(
    opened: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "4711")
    tracker = opened()
    tracker.study_started({})
    assert tracker.close() == 1
    assert any("4711" in note for note in tracker.notes)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_ID")
    assert opened().deliver_pending() == 0
    assert len(runs_of(tmp_path, "study")) == 1
