"""Reading what a study has written into the MLflow store in its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def runs_of(folder: Path, kind: str) -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return sorted(
        client.search_runs(experiments, f"tags.kind = '{kind}'"), key=lambda run: run.data.tags.get("trial_number", "")
    )


def history(folder: Path, run_id: str, key: str) -> list[tuple[int, float]]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    return sorted((metric.step, metric.value) for metric in client.get_metric_history(run_id, key))
