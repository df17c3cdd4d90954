"""What ``autotune train`` comes to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotune.outcome import TrialRecord


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a training came to; an interrupted one has no export and no record of its outcome."""

    directory: Path
    record: TrialRecord
    metric_name: str
    rows: Mapping[str, int]
    plan: Mapping[str, Any]
    interrupted: bool = False
    explanation: str = ""

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dictionary; sizes are bytes."""
        outcome = self.record.outcome
        return {
            "directory": str(self.directory),
            "interrupted": self.interrupted,
            "metric": self.metric_name,
            "validation": outcome.metrics if outcome is not None else {},
            "best_epoch": outcome.best_epoch if outcome is not None else None,
            "epochs": len(outcome.epochs) if outcome is not None else 0,
            "test": self.record.test_metrics,
            "device_bytes": outcome.peak.device if outcome is not None and outcome.peak is not None else None,
            "plan": dict(self.plan),
            "rows": dict(self.rows),
            "configuration": self.record.candidate.label,
        }
