"""Writing into a study's record: what was started, what became of it.

:class:`autotune.search.record.StudyRecord` adds how a record is made and opened.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from autotune.errors import StudyError
from autotune.outcome import (
    Candidate,
    Confirmation,
    EpochReport,
    InferenceFigures,
    MemoryFigures,
    Outcome,
    Status,
    TrialRecord,
)
from autotune.search.reading import RecordReader
from autotune.search.rows import (
    CANDIDATE,
    EPOCH,
    INFERENCE,
    NOTE,
    OUTCOME,
    REASON,
    REFUSED,
    SEED,
    STATUS,
    TEST,
    RefusedCandidate,
    confirmation_key,
    epochs_of,
    objective_values,
    plain,
)
from autotune.search.storage import translated
from autotune.space import shape_key


class RecordWriter(RecordReader):
    """What can be written of one study, where ``write`` says that it may be. Each call is on the disk when it returns."""

    def __init__(self, storage: BaseStorage, url: str, name: str, *, write: bool) -> None:
        super().__init__(storage, url, name)
        self._write = write
        self._known_refusals: set[str] | None = None
        self._writing = threading.RLock()  # epochs may arrive in another thread than proposals

    def start(
        self,
        candidate: Candidate,
        seed: int,
        *,
        distributions: Mapping[str, BaseDistribution] | None = None,
        sampler_state: Mapping[str, Any] | None = None,
    ) -> int:
        """Enters a trial that is about to run, in one transaction; returns its number.

        distributions: of the parameters that samplers learn from; the others are kept with the candidate only.
        """
        known = {name: rule for name, rule in (distributions or {}).items() if name in candidate.params}
        trial = create_trial(
            state=TrialState.RUNNING,
            params={name: candidate.params[name] for name in known},
            distributions=known,
            user_attrs={CANDIDATE: plain(asdict(candidate)), SEED: int(seed)},
            system_attrs=dict(sampler_state or {}),
        )
        with self._writes():
            return self._storage.get_trial_number_from_id(self._storage.create_new_trial(self._study_id, trial))

    def note_epoch(self, number: int, report: EpochReport) -> None:
        """Keeps what a running trial said after an epoch; a trial that has ended is left as it is.

        Raises:
            StudyError: there is no such trial.
        """
        with self._writes():
            if not self._frozen(number).state.is_finished():
                self._set_trial(number, f"{EPOCH}{report.epoch:06d}", plain(asdict(report)))

    def finish(self, number: int, outcome: Outcome) -> Outcome:
        """Enters how a trial ended; returns the outcome as it was kept.

        Epochs that came before but are missing in the outcome are added. A "complete" without a finite metric or
        without a measured peak cannot be compared with anything and is kept as failed.

        Raises:
            StudyError: there is no such trial, it has ended already, or the status is that of a refusal.
        """
        if outcome.status is Status.REFUSED:
            raise StudyError(
                f"Trial {number} cannot end as refused: a refused configuration is never started. Use refuse()."
            )
        with self._writes():
            trial = self._frozen(number)
            if trial.state.is_finished():
                raise StudyError(
                    f"Trial {number} has ended already as {trial.user_attrs.get(STATUS)}: an outcome is entered once."
                )
            kept = outcome if outcome.epochs else replace(outcome, epochs=epochs_of(trial))
            if kept.status is Status.COMPLETE and objective_values(kept) is None:
                reason = f"ended without a finite metric or a measured peak (metric {kept.metric}, peak {kept.peak})"
                kept = replace(kept, status=Status.FAILED, reason=reason)
            # the outcome first: a kill between the writes leaves a running trial with an outcome, settled on opening
            self._set_trial(number, OUTCOME, plain(kept.to_dict()))
            self._end(trial, kept)
        return kept

    def refuse(self, candidate: Candidate, reason: str, predicted: MemoryFigures | None = None) -> None:
        """Notes that a configuration is not started, and why."""
        self.refuse_all([RefusedCandidate(candidate, reason, predicted)])

    def refuse_all(self, refused: Iterable[RefusedCandidate]) -> None:
        """Notes many refusals in one write; those whose shape (:func:`shape_key`) is known already are left out."""
        with self._writes():
            if self._known_refusals is None:
                self._known_refusals = {shape_key(row.candidate) for row in self.refusals()}
            order = len(self._known_refusals)
            rows = []
            for row in refused:
                if (key := shape_key(row.candidate)) not in self._known_refusals:
                    self._known_refusals.add(key)
                    predicted = asdict(row.predicted) if row.predicted is not None else None
                    rows.append({"candidate": asdict(row.candidate), "reason": row.reason, "predicted": predicted})
            if rows:
                self._set_study(f"{REFUSED}{order:06d}", {"order": order, "rows": plain(rows)})

    def interrupt_running(self, reason: str = "the driver ended before the trial did") -> list[Candidate]:
        """Ends as interrupted every trial that the record holds as running; returns their configurations."""
        with self._writes():
            running = [row for row in self.trials() if row.outcome is None]
            for row in running:
                self.finish(row.number, Outcome(status=Status.INTERRUPTED, reason=reason))
        return [row.candidate for row in running]

    def set_test_metrics(self, number: int, metrics: Mapping[str, float]) -> None:
        """Keeps the scores of the test part, once.

        Raises:
            StudyError: there is no such trial, it is not complete, or it has been scored before.
        """
        with self._writes():
            row = self._complete(number, "scored on the test part")
            if row.test_metrics is not None:
                raise StudyError(f"Trial {number} has been scored on the test part already: that is done once.")
            self._set_study(f"{TEST}{number}", {name: float(value) for name, value in metrics.items()})

    def confirm(self, number: int, confirmation: Confirmation) -> None:
        """Keeps how a complete trial ended on another seed; an interrupted ending may be replaced, any other is kept.

        Raises:
            StudyError: there is no such trial, it is not complete, the seed is its own, or was confirmed already.
        """
        with self._writes():
            row = self._complete(number, "confirmed on other seeds")
            if confirmation.seed == row.seed:
                raise StudyError(f"Trial {number} was trained on seed {row.seed} itself: confirm it on another seed.")
            known = {one.seed: one.outcome.status for one in row.confirmations}
            if known.get(confirmation.seed, Status.INTERRUPTED) is not Status.INTERRUPTED:
                raise StudyError(f"Trial {number} has been confirmed on seed {confirmation.seed} already.")
            self._set_study(confirmation_key(number, confirmation.seed), plain(confirmation.outcome.to_dict()))

    def set_inference(self, number: int, figures: InferenceFigures) -> None:
        """Keeps what answering with a complete trial's weights takes; a later measurement replaces an earlier one.

        Raises:
            StudyError: there is no such trial, or it is not complete.
        """
        with self._writes():
            self._complete(number, "measured answering")
            self._set_study(f"{INFERENCE}{number}", plain(asdict(figures)))

    def _complete(self, number: int, what: str) -> TrialRecord:
        row = self.trial(number)
        if row.outcome is None or row.outcome.status is not Status.COMPLETE:
            raise StudyError(f"Trial {number} is not complete: only complete trials are {what}.")
        return row

    def set_attribute(self, key: str, value: Any) -> None:
        """Keeps a note on the study, JSON only; ``attributes`` gives it back."""
        self._set_study(f"{NOTE}{key}", plain(value))

    def _settle(self) -> None:
        """Ends trials whose driver was killed between writing their outcome and closing them."""
        with self._writes():
            for trial in self.frozen_trials():
                if not trial.state.is_finished() and OUTCOME in trial.user_attrs:
                    self._end(trial, Outcome.from_dict(trial.user_attrs[OUTCOME]))

    def _end(self, trial: FrozenTrial, outcome: Outcome) -> None:
        self._set_trial(trial.number, STATUS, outcome.status.value)
        self._set_trial(trial.number, REASON, outcome.reason)
        state = {Status.COMPLETE: TrialState.COMPLETE, Status.STOPPED: TrialState.PRUNED}.get(
            outcome.status, TrialState.FAIL
        )
        values = objective_values(outcome) if state is TrialState.COMPLETE else None
        self._storage.set_trial_state_values(self._trial_id(trial.number), state, values)

    def _trial_id(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)

    def _set_study(self, key: str, value: Any) -> None:
        with self._writes():
            self._storage.set_study_user_attr(self._study_id, key, value)

    def _set_trial(self, number: int, key: str, value: Any) -> None:
        self._storage.set_trial_user_attr(self._trial_id(number), key, value)

    @contextmanager
    def _writes(self) -> Iterator[None]:
        if not self._write:
            raise StudyError(
                f"The study {self.name!r} was opened for reading or closed: open it with write=True to change it."
            )
        with self._writing, translated(self.url):
            yield
