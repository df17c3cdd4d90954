"""What a trial scored on other seeds."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

from autotune.outcome import TrialRecord


@dataclass(frozen=True)
class ConfirmedScores:
    """The metric of each complete training on another seed, the trial's own seed not among them."""

    seeds: tuple[int, ...]
    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return statistics.fmean(self.values)

    @property
    def spread(self) -> float | None:
        """Standard deviation of a sample; None of one value."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


def confirmed_scores(record: TrialRecord) -> ConfirmedScores | None:
    """What the trial's confirmations scored; None where none ended with a finite metric."""
    ended = [(one.seed, one.outcome.metric) for one in record.confirmations if one.outcome.status.has_metric]
    known = [(seed, metric) for seed, metric in ended if metric is not None and math.isfinite(metric)]
    if not known:
        return None
    return ConfirmedScores(tuple(seed for seed, _ in known), tuple(metric for _, metric in known))
