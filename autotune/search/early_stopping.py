"""When a running trial is stopped early: only against trials that use no more memory than it does.

A front of accuracy against memory is made of trials that no cheaper one beats. So a trial is judged only by its peers
of equal or smaller memory: a cheap trial is never stopped for being worse than an expensive one. The rule is the
median stopping rule (Golovin et al., Google Vizier, KDD 2017, section 3.1.1) with that restriction: a trial is stopped
after an epoch where the best metric that it has shown lies below the median of the best metrics that its peers had
shown by the same epoch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from autotune.errors import ConfigError
from autotune.outcome import Status, TrialRecord


class EarlyStopping:
    """Decides after each epoch whether a trial goes on. Pure: no clock, no files, the same answers for the same calls.

    Args:
        epochs: how many epochs a trial trains; after the last one nothing is stopped. None where they differ: give
            ``last`` to :meth:`observe` then.
        grace_epochs: in so many first epochs nothing is stopped.
        min_peers: with fewer peers (other trials of no more memory that have reached this epoch) nothing is stopped;
            so the cheapest trials never are.
        quantile: where among its peers a trial must stand to go on: 0.5 is their median, smaller is more patient.
        margin: how far below that value, in units of the metric, a trial may still lie.

    Raises:
        ConfigError: an argument is out of its range; all are named.
    """

    def __init__(
        self,
        *,
        epochs: int | None = None,
        grace_epochs: int = 1,
        min_peers: int = 3,
        quantile: float = 0.5,
        margin: float = 0.0,
    ) -> None:
        problems = []
        if epochs is not None and epochs < 1:
            problems.append(f"epochs: {epochs!r} was given, allowed is a number of at least 1 or None")
        if grace_epochs < 0:
            problems.append(f"grace_epochs: {grace_epochs!r} was given, allowed is a number of at least 0")
        if min_peers < 1:
            problems.append(f"min_peers: {min_peers!r} was given, allowed is a number of at least 1")
        if not 0 < quantile < 1:
            problems.append(f"quantile: {quantile!r} was given, allowed is a number between 0 and 1, both excluded")
        if not (math.isfinite(margin) and margin >= 0):
            problems.append(f"margin: {margin!r} was given, allowed is a finite number of at least 0")
        if problems:
            raise ConfigError(problems, where="early stopping")
        self.epochs = epochs
        self.grace_epochs = grace_epochs
        self.min_peers = min_peers
        self.quantile = quantile
        self.margin = margin
        self._memory: dict[int, int] = {}
        self._metrics: dict[int, dict[int, float]] = {}

    def observe(self, number: int, memory: int | None, epoch: int, metric: float, *, last: bool = False) -> bool:
        """Takes in a trial's metric (higher is better) after an epoch (from 1); whether the trial is to be stopped.

        memory: peak allocated bytes of the trial; without it the trial is neither judged nor a peer. A metric that is
        not finite is no ground to stop here: such a trial has diverged and ends as that.
        """
        if memory is None or not math.isfinite(metric):
            return False
        self._memory[number] = memory
        self._metrics.setdefault(number, {})[epoch] = metric
        if last or epoch <= self.grace_epochs or (self.epochs is not None and epoch >= self.epochs):
            return False
        peers = self._peers(number, epoch)
        if len(peers) < self.min_peers:
            return False
        return self._best(number, epoch) < _quantile(peers, self.quantile) - self.margin

    def learn(self, trials: Iterable[TrialRecord], metric: str) -> None:
        """Takes in what a record holds already, so that a resumed study judges as if it had never ended."""
        for trial in trials:
            outcome = trial.outcome
            if outcome is None or outcome.status is Status.INTERRUPTED or outcome.peak is None:
                continue  # an interrupted trial runs again and must not be its own peer
            for report in outcome.epochs:
                if metric in report.metrics:
                    self.observe(trial.number, outcome.peak.allocated, report.epoch, report.metrics[metric], last=True)

    def _peers(self, number: int, epoch: int) -> list[float]:
        """Best metrics by this epoch of the other trials that use no more memory and have come as far."""
        return [
            self._best(other, epoch)
            for other, memory in self._memory.items()
            if other != number and memory <= self._memory[number] and epoch in self._metrics[other]
        ]

    def _best(self, number: int, epoch: int) -> float:
        return max(value for at, value in self._metrics[number].items() if at <= epoch)


def _quantile(values: list[float], share: float) -> float:
    """Linear interpolation between the two nearest values."""
    if len(values) == 1:
        return values[0]
    ordered = sorted(values)
    position = share * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])
