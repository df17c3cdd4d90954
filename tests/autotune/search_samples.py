"""Candidates, outcomes and a study's settings for tests of the record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna

from autotune.outcome import Candidate, EpochReport, MemoryFigures, Outcome, Status

SETTINGS = {"memory_cap": 8 * 10**9, "model": "all-minilm-l6-v2", "methods": ("sherl", "full")}
PEAK = MemoryFigures(allocated=1000, device=2000, reserved=1500, meter="process private bytes")


def candidate(rate: float = 1e-3, **method: Any) -> Candidate:
    return Candidate(
        method={"name": "sherl", "reduction_factor": 8, "late_route": {"name": "lora", "rank": 4}, **method},
        training={"learning_rate": rate, "batch_size": 16},
        params={"method": "sherl", "sherl.learning_rate": rate},
    )


def report(epoch: int, accuracy: float = 0.5) -> EpochReport:
    return EpochReport(epoch=epoch, train_loss=1 / epoch, metrics={"accuracy": accuracy}, seconds=float(epoch))


def complete(metric: float = 0.8, **values: Any) -> Outcome:
    return Outcome(**{"status": Status.COMPLETE, "metric": metric, "peak": PEAK, **values})


def optuna_trials(file: Path) -> list[optuna.trial.FrozenTrial]:
    """What Optuna itself sees, without this program."""
    return optuna.load_study(study_name="demo", storage=f"sqlite:///{file}").trials
