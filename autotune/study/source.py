"""Between the search, which decides, and the runner, which runs: hands out trials and takes their outcomes into the record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from autotune.features.shared import SharedFeatures
from autotune.outcome import Candidate, EpochReport, MemoryFigures, Outcome, Status, TrialRecord
from autotune.report import pareto_front, points_from
from autotune.runner import DONE, Listener
from autotune.runner.shares import usable_cores
from autotune.runner.source import Done
from autotune.search import EarlyStopping, Proposer, StudyRecord
from autotune.study.allowance import require_gpu
from autotune.study.fit_check import FitCheck
from autotune.study.folder import StudyFolder
from autotune.study.listener import StudyListener
from autotune.tracking import Tracker
from autotune.trial.ancestry import Ancestor
from autotune.trial.request import TrialRequest
from autotune.trial.verdict import ANOTHER_TENANT
from autotune.units import count_words, format_bytes


@dataclass(frozen=True, kw_only=True)
class TrialSettings:
    """What all trials of a study share."""

    backbone_source: str
    folder: StudyFolder
    memory_cap: int
    metric: str
    device: Literal["cpu", "cuda"]
    threads: int
    driver: Ancestor
    plugins: tuple[str, ...] = ()
    features: Callable[[Candidate], SharedFeatures | None] = lambda _candidate: None
    features_budget: int | None = None
    features_lost: Callable[[Candidate], bool] = lambda _candidate: False

    def train(self, number: int, candidate: Candidate, seed: int, predicted: MemoryFigures | None) -> TrialRequest:
        """The request to train a configuration."""
        return self._request(
            number,
            method=candidate.realised.method,
            training={**candidate.realised.training, "seed": seed},
            predicted=predicted,
            features=self._features(candidate),
        )

    def score(self, number: int, candidate: Candidate, seed: int, predicted: MemoryFigures | None) -> TrialRequest:
        """The request to score a trained configuration on the test part, its heap kept as in its training."""
        return self._request(
            number,
            kind="score",
            predicted=predicted,
            features=self._features(candidate),
            method=candidate.realised.method,
            training={**candidate.realised.training, "seed": seed},
            threads=usable_cores(),  # the members are scored one after another
            checkpoint=str(self.folder.trial(number).resolve() / "checkpoint"),
            output_dir=str(self.folder.trial(number).resolve() / "test"),
        )

    def measure(
        self, number: int, candidate: Candidate, predicted: MemoryFigures | None, *, batch_rows: int
    ) -> TrialRequest:
        """The request to measure what answering takes, of the whole model: stored hidden states are of a study's own rows."""
        return self._request(
            number,
            kind="measure",
            part="valid",
            predicted=predicted,
            method=candidate.realised.method,
            training=candidate.realised.training,
            threads=usable_cores(),  # one member after another, as on a machine that serves it
            checkpoint=str(self.folder.trial(number).resolve() / "checkpoint"),
            output_dir=str(self.folder.trial(number).resolve() / "answering"),
            settings={"batch_rows": batch_rows},
        )

    def confirm(
        self, number: int, member: int, candidate: Candidate, seed: int, predicted: MemoryFigures | None
    ) -> TrialRequest:
        """The request to train a member of the front on another seed, under a number of its own, beside its own weights."""
        folder = self.folder.trial(member).resolve() / "confirm" / f"seed-{seed}"
        return replace(self.train(number, candidate, seed, predicted), output_dir=str(folder))

    def require_device(self) -> None:
        """Raises a DeviceError where the GPU that the trials run on is gone: every further trial would only fail."""
        if self.device == "cuda":
            require_gpu(self.folder.path)

    def _features(self, candidate: Candidate) -> dict[str, object] | None:
        shared = self.features(candidate)
        return None if shared is None else {**shared.to_dict(), "budget": self.features_budget}

    def _request(self, number: int, **values: object) -> TrialRequest:
        shared: dict[str, object] = {
            "number": number,
            "backbone_source": self.backbone_source,
            "prepared_dir": str(self.folder.prepared.resolve()),
            "output_dir": str(self.folder.trial(number).resolve()),
            "memory_cap": self.memory_cap,
            "metric": self.metric,
            "device": self.device,
            "threads": self.threads,
            "driver": self.driver,
        }
        return TrialRequest(**{**shared, **values})  # type: ignore[arg-type]  # values of many sorts by name


class StudySource:
    """The runner's source of trials: proposes, notes every epoch and outcome, tells the display and MLflow.

    ``still_there`` is called before each trial and raises when the device is gone: every further trial would only fail.
    ``learn_context`` is given the measured figures of each trial that completed. ``reserved`` says, given a way to read the trials and how
    many trials run at a time, whether what is left of the time budget is for what comes after the search.
    """

    def __init__(
        self,
        *,
        record: StudyRecord,
        proposer: Proposer,
        fits: FitCheck,
        stopping: EarlyStopping,
        settings: TrialSettings,
        tracker: Tracker,
        listener: StudyListener,
        still_there: Callable[[], None] = lambda: None,
        learn_context: Callable[[MemoryFigures], None] = lambda _peak: None,
        reserved: Callable[[Callable[[], list[TrialRecord]], int], bool] = lambda _records, _concurrent: False,
    ) -> None:
        self._still_there = still_there
        self._reserved = reserved
        self._said_reserved = False
        self.concurrent = 1
        self._learn_context = learn_context
        self._record = record
        self._proposer = proposer
        self._fits = fits
        self._stopping = stopping
        self._settings = settings
        self._tracker = tracker
        self._listener = listener
        self.candidates: dict[int, Candidate] = {}
        self._predicted: dict[int, MemoryFigures] = {}
        self._measured: dict[int, MemoryFigures] = {}

    def next(self) -> TrialRequest | Literal[Done.DONE] | None:
        """The next trial, entered in the record; DONE when the total is reached, the space is exhausted or the time left is
        reserved.

        Raises:
            DeviceError: the device is gone.
        """
        self._still_there()
        if self._reserved(self._record.trials, self.concurrent):
            if not self._said_reserved:
                self._listener.note(
                    "the search ends here: what is left of the time budget is for confirming the front; `autotune resume` goes on "
                    "with it"
                )
            self._said_reserved = True
            return DONE
        proposed = self._proposer.next()
        if proposed is None:
            return DONE
        number, candidate, seed = proposed
        predicted = self._fits.figures(candidate)
        self.candidates[number], self._predicted[number] = candidate, predicted
        return self._settings.train(number, candidate, seed, predicted)

    def rehearsed(self, number: int, figures: MemoryFigures) -> None:
        """A trial's measured peak is known."""
        self._measured[number] = figures

    def started(self, number: int) -> None:
        """A trial has got its place."""
        self._listener.started(number, self.candidates[number], self._predicted[number])

    def epoch(self, number: int, report: EpochReport) -> bool:
        """Notes an epoch; True ends the trial early."""
        self._record.note_epoch(number, report)
        self._listener.epoch(number, report)
        figures = self._measured.get(number, self._predicted[number])
        epochs = self.candidates[number].training.get("epochs")
        metric = report.metrics.get(self._settings.metric, float("nan"))
        last = epochs is not None and report.epoch >= int(epochs)
        return self._stopping.observe(number, figures.allocated, report.epoch, metric, last=last)

    def finished(self, number: int, outcome: Outcome) -> None:
        """Enters an outcome in the record, then tells MLflow and the display."""
        if outcome.unread is not None:
            self._computed_itself(number, outcome.unread)
            outcome = outcome.excused()
        self._record.finish(number, outcome)
        if outcome.status is Status.COMPLETE and outcome.peak is not None:
            if outcome.unread is None:
                self._fits.calibrate(self._predicted[number], outcome.peak)
            self._learn_context(outcome.peak)
        if outcome.status in (Status.OVER_CAP, Status.OUT_OF_MEMORY):
            self._mispredicted(number, outcome)
        trials = self._record.trials()
        ended = next(trial for trial in trials if trial.number == number)
        self._tracker.trial_finished(ended)
        self._listener.finished(ended, front_of(trials, self._settings.metric))

    def _computed_itself(self, number: int, why: str) -> None:
        """A trial did not read what it was to: said aloud, with what becomes of those after it."""
        self._listener.warning(f"trial {number} computed hidden states that it was to read: {why}")
        if self._settings.features_lost(self.candidates[number]):
            self._listener.warning(
                "what was stored is gone: trials from now on compute all of their hidden states, and are predicted so"
            )
            self._fits.forget()

    def _mispredicted(self, number: int, outcome: Outcome) -> None:
        """Its prediction fitted the cap and it did not, or others left it less: said aloud, with what becomes of it."""
        candidate = self.candidates[number]
        others = bool(outcome.details.get(ANOTHER_TENANT))
        if outcome.peak is not None and not others:  # what others took says nothing of this one
            capped = outcome.status is Status.OVER_CAP
            self._fits.learn_breach(candidate, outcome.peak.device, refused_by_cap=capped)
        retry = self._fits.cheaper(candidate)
        if retry is not None:
            why = (
                "found too little memory beside other processes"
                if others
                else f"needed more memory than the {format_bytes(self._predicted[number].device)} that were predicted"
            )
            self._listener.note(
                f"trial {number} {why} ({outcome.status}); it is tried once more with its next memory plan: {retry.label}"
            )


class RunnerListener(Listener):
    """Passes on what only the runner knows."""

    def __init__(self, source: StudySource, listener: StudyListener) -> None:
        self._source = source
        self._listener = listener

    def on_ready(self, concurrent: int) -> None:
        self._source.concurrent = concurrent
        self._listener.note(f"Ray runs; {count_words(concurrent, 'trial')} at a time")

    def on_started(self, number: int) -> None:
        self._source.started(number)

    def on_rehearsed(self, number: int, figures: MemoryFigures) -> None:
        self._source.rehearsed(number, figures)

    def on_steps(self, number: int, epoch: int, done: int, total: int) -> None:
        self._listener.steps(number, epoch, done, total)

    def on_stopping(self, why: str) -> None:
        self._listener.note(f"ending the running trials: {why}")


def front_of(records: list[TrialRecord], metric_name: str) -> list[TrialRecord]:
    """The front's members among records, from least to most memory."""
    by_number = {record.number: record for record in records}
    return [by_number[point.number] for point in pareto_front(points_from(records, metric_name=metric_name))]
