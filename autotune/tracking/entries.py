"""What a study and a trial look like in MLflow: parameters, metrics and tags. Pure; nothing here talks to a store."""

from __future__ import annotations

import hashlib
import json
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from autotune.outcome import Candidate, Confirmation, InferenceFigures, MemoryFigures, Outcome, Status, TrialRecord
from autotune.redaction import redact

_NOT_IN_A_KEY = re.compile(r"[^\w./\- ]", re.ASCII)
_LONGEST_KEY, _LONGEST_PARAM, _LONGEST_TAG = 250, 6000, 8000
_BYTES_PER_MB = 1e6
# MLflow shows a section of charts for each prefix, by the alphabet: curves come first, then kept/ (the metrics at the epoch
# whose weights were kept) and test/, last all single figures
_CURVES = "curves/"

RUN_STATUS = {
    Status.COMPLETE: "FINISHED",
    Status.STOPPED: "KILLED",
    Status.INTERRUPTED: "KILLED",
    Status.OVER_CAP: "FAILED",
    Status.OUT_OF_MEMORY: "FAILED",
    Status.DIVERGED: "FAILED",
    Status.FAILED: "FAILED",
    Status.REFUSED: "KILLED",
}


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One value of a metric. after_s: seconds after the run's start, so that a second delivery writes the same row."""

    name: str
    value: float
    step: int
    after_s: float


@dataclass(frozen=True, kw_only=True)
class TrialEntry:
    """One trial as MLflow shows it."""

    name: str
    run_status: str
    params: dict[str, str]
    tags: dict[str, str]
    metrics: tuple[Measurement, ...]
    seconds: float


def record_to_dict(record: TrialRecord) -> dict[str, Any]:
    """The record as JSON-able data; :func:`record_from_dict` reads it back."""
    return {
        "number": record.number,
        "candidate": asdict(record.candidate),
        "seed": record.seed,
        "outcome": record.outcome.to_dict() if record.outcome else None,
        "test_metrics": record.test_metrics,
        "confirmations": [{"seed": one.seed, "outcome": one.outcome.to_dict()} for one in record.confirmations],
        "inference": asdict(record.inference) if record.inference else None,
    }


def record_from_dict(plain: Mapping[str, Any]) -> TrialRecord:
    """The record that :func:`record_to_dict` wrote."""
    outcome = plain["outcome"]
    return TrialRecord(
        number=plain["number"],
        candidate=Candidate(**plain["candidate"]),
        seed=plain["seed"],
        outcome=Outcome.from_dict(outcome) if outcome is not None else None,
        test_metrics=plain["test_metrics"],
        # a message that an earlier version left in the outbox has neither
        confirmations=tuple(
            Confirmation(seed=one["seed"], outcome=Outcome.from_dict(one["outcome"]))
            for one in plain.get("confirmations", ())
        ),
        inference=InferenceFigures.from_dict(plain["inference"]) if plain.get("inference") else None,
    )


def digest(record: TrialRecord) -> str:
    """Changes whenever anything of the record does; tells a trial that is tracked already from one to bring up to date."""
    plain = json.dumps(record_to_dict(record), sort_keys=True, default=str)
    return hashlib.sha256(plain.encode()).hexdigest()[:16]


def trial_entry(record: TrialRecord, outcome: Outcome, study_id: str) -> TrialEntry:
    """What is written of a finished trial."""
    candidate = record.candidate
    tags = {
        "kind": "trial",
        "study_id": study_id,
        "trial_number": str(record.number),
        "status": outcome.status.value,
        "reason": outcome.reason,
        "label": candidate.label,
        "plan": plan_words(candidate.plan),
        "digest": digest(record),
    }
    if outcome.peak:
        tags["meter"] = outcome.peak.meter
    if outcome.checkpoint:
        tags["checkpoint"] = outcome.checkpoint
    trained = candidate.realised
    params = flatten({"method": trained.method, "training": trained.training, "seed": record.seed})
    return TrialEntry(
        name=f"{record.number:03d} {candidate.label}"[:_LONGEST_KEY],
        run_status=RUN_STATUS[outcome.status],
        params=params,
        tags={key: short_tag(value) for key, value in tags.items() if value},
        metrics=(*_epoch_metrics(outcome), *_memory_metrics(outcome), *_final_metrics(record, outcome)),
        seconds=max(0.0, outcome.seconds),
    )


def _epoch_metrics(outcome: Outcome) -> list[Measurement]:
    rows = []
    for report in outcome.epochs:
        values = {"train_loss": report.train_loss}
        values |= {f"valid_{name}": value for name, value in report.metrics.items()}
        rows += [
            Measurement(name=safe_key(_CURVES + name), value=float(value), step=report.epoch, after_s=report.seconds)
            for name, value in values.items()
        ]
    return rows


def _memory_metrics(outcome: Outcome) -> list[Measurement]:
    """What the process held of the device over time; the step is milliseconds since its start."""
    return [
        Measurement(name=f"{_CURVES}memory_device_mb", value=_megabytes(held), step=round(1000 * at), after_s=at)
        for at, held in outcome.memory_over_time
    ]


def _final_metrics(record: TrialRecord, outcome: Outcome) -> list[Measurement]:
    values: dict[str, float | int | None] = {
        "metric": outcome.metric,
        "best_epoch": outcome.best_epoch,
        "seconds": round(outcome.seconds, 2),
        "step_seconds": outcome.step_seconds,
        "trainable_parameters": outcome.trainable_parameters,
        **_memory("peak", outcome.peak),
        **_memory("predicted", outcome.predicted),
        **_inference(record.inference),
        **{f"kept/{name}": value for name, value in outcome.metrics.items()},
        **{f"test/{name}": value for name, value in (record.test_metrics or {}).items()},
    }
    after_s = max(0.0, outcome.seconds)
    rows = [
        Measurement(name=safe_key(name), value=float(value), step=0, after_s=after_s)
        for name, value in values.items()
        if value is not None
    ]
    # the step is how many seeds are known: MLflow shows the value of the highest step, and these change with each seed
    seeds = _confirmed(record)
    return rows + [
        Measurement(name=name, value=float(value), step=len(seeds), after_s=after_s)
        for name, value in _spread_of(seeds).items()
    ]


def _confirmed(record: TrialRecord) -> list[float]:
    ended = [one.outcome for one in record.confirmations if one.outcome.status.has_metric]
    return [one.metric for one in ended if one.metric is not None and math.isfinite(one.metric)]


def _spread_of(seeds: Sequence[float]) -> dict[str, float]:
    """Mean and spread (standard deviation of a sample) over other seeds than the search's."""
    if not seeds:
        return {}
    spread = {"confirmed_spread": statistics.stdev(seeds)} if len(seeds) > 1 else {}
    return {"confirmed_mean": statistics.fmean(seeds), "confirmed_seeds": len(seeds), **spread}


def _inference(figures: InferenceFigures | None) -> dict[str, float | None]:
    """What answering takes. Latency in milliseconds, as people speak of it."""
    if figures is None:
        return {}
    return {
        **_memory("inference_peak", figures.peak),
        "inference_latency_ms": 1000 * figures.latency_seconds,
        "inference_rows_per_second": figures.rows_per_second,
    }


def _memory(what: str, figures: MemoryFigures | None) -> dict[str, float | None]:
    """The figures in MB (1e6 bytes), as people read a table; the study's record holds bytes."""
    if figures is None:
        return {}
    return {
        f"{what}_allocated_mb": _megabytes(figures.allocated),
        f"{what}_reserved_mb": None if figures.reserved is None else _megabytes(figures.reserved),
        f"{what}_device_mb": _megabytes(figures.device),
    }


def _megabytes(count: int) -> float:
    """Rounded to the kB: MLflow shows every digit it is given."""
    return round(count / _BYTES_PER_MB, 3)


def plan_words(plan: Mapping[str, Any]) -> str:
    """A memory plan in one cell of a table."""
    words = [key if value is True else f"{key}={value}" for key, value in plan.items() if value not in (None, False)]
    return ", ".join(words) or "none"


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as ``{"method.late_route.rank": "8"}``, within MLflow's limits, passwords blotted out."""
    flat: dict[str, str] = {}
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{name}.")
        else:
            flat[safe_key(name)] = redact(str(value))[:_LONGEST_PARAM]
    return flat


def safe_key(name: str) -> str:
    """A name with only the characters that MLflow allows in keys, and no path tricks."""
    words = [word.strip() for word in _NOT_IN_A_KEY.sub("_", name).split("/")]
    return "/".join(word for word in words if word.strip("."))[:_LONGEST_KEY] or "_"


def short_tag(value: str) -> str:
    """A tag's text within MLflow's limit, passwords blotted out."""
    return redact(value)[:_LONGEST_TAG]


def table_columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Rows in the layout of MLflow's table artifacts: ``{"columns": [...], "data": [[...], ...]}``."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    return {"columns": columns, "data": [[row.get(column) for column in columns] for row in rows]}
