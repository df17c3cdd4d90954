"""Trial records for tests of what reads them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from autotune.outcome import Candidate, Confirmation, EpochReport, MemoryFigures, Outcome, Status, TrialRecord
from autotune.report.front import Point

SHERL = {
    "name": "sherl",
    "reduction_factor": 8,
    "insertion": "multi",
    "start_layer": -2,
    "late_route": {"name": "lora", "rank": 8, "alpha": 16},
}


def trial(
    number: int,
    metric: float | None = 0.8,
    allocated: int | None = 400_000_000,
    *,
    device: int | None = None,
    status: Status = Status.COMPLETE,
    method: dict[str, Any] | None = None,
    test_metrics: dict[str, float] | None = None,
    reason: str = "",
    epochs: int = 2,
    params: dict[str, Any] | None = None,
    confirmed: tuple[float, ...] = (),
    **outcome_values: Any,
) -> TrialRecord:
    """A finished trial; device defaults to 600 MB above allocated. outcome_values: other fields of its outcome."""
    training = {"learning_rate": 1e-3, "batch_size": 32, "epochs": epochs}
    reports = tuple(
        EpochReport(epoch=epoch, train_loss=1 / epoch, metrics={"accuracy": 0.7 + epoch / 100}, seconds=float(epoch))
        for epoch in range(1, epochs + 1)
    )
    peak = None
    if allocated is not None:
        device = device if device is not None else allocated + 600_000_000
        peak = MemoryFigures(allocated=allocated, device=device, meter="process private bytes")
    values: dict[str, Any] = {
        "status": status,
        "reason": reason,
        "metric": metric,
        "metrics": {"accuracy": metric} if metric is not None else {},
        "best_epoch": epochs or None,
        "epochs": reports,
        "peak": peak,
        "predicted": MemoryFigures(allocated=390_000_000, device=1_100_000_000, meter="prediction"),
        "seconds": 12.5,
        "step_seconds": 0.25,
        "trainable_parameters": 12_345,
        "checkpoint": f"/somewhere/trial-{number}",
    }
    outcome = Outcome(**{**values, **outcome_values})
    if params is None:
        params = {"method": "sherl", "batch_size": 32}
    candidate = Candidate(method=method or SHERL, training=training, params=params)
    confirmations = tuple(
        Confirmation(seed=1000 + seed, outcome=Outcome(status=Status.COMPLETE, metric=value))
        for seed, value in enumerate(confirmed)
    )
    return TrialRecord(
        number=number,
        candidate=candidate,
        seed=number,
        outcome=outcome,
        test_metrics=test_metrics,
        confirmations=confirmations,
    )


@dataclass(frozen=True)
class Refusal:
    """A configuration that was never started, as figures take it."""

    candidate: Candidate
    reason: str
    predicted: MemoryFigures | None = None


def refusal(allocated: int | None, device: int = 0, *, name: str = "full", reason: str = "over the cap") -> Refusal:
    """A refused configuration with its prediction, where there is one."""
    predicted = None if allocated is None else MemoryFigures(allocated=allocated, device=device, meter="prediction")
    return Refusal(Candidate(method={"name": name}, training={"batch_size": 64}, params={}), reason, predicted)


def point(number: int, metric: float | None, memory: int | None, **others: Any) -> Point:
    """A complete point whose device peak is its memory."""
    defaults: dict[str, Any] = {
        "label": f"configuration {number}",
        "device": memory,
        "status": Status.COMPLETE,
        "metric_name": "accuracy",
    }
    return Point(number=number, metric=metric, memory=memory, **{**defaults, **others})
