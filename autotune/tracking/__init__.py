"""What people see in MLflow: one run a study, one nested run a trial. A view only; its absence never costs a trial."""

from __future__ import annotations

from autotune.tracking.tracker import Tracker

__all__ = ["Tracker"]
