"""What one row of the record looks like: outcomes, epochs and values as Optuna's attributes hold them, and back."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from optuna.trial import FrozenTrial

from autotune.outcome import (
    Candidate,
    Confirmation,
    EpochReport,
    InferenceFigures,
    MemoryFigures,
    Outcome,
    TrialRecord,
)

# keys of a trial's attributes
CANDIDATE, SEED, OUTCOME, STATUS, REASON, EPOCH = "candidate", "seed", "outcome", "status", "reason", "epoch:"
# keys of the study's attributes; notes carry a prefix so that they never meet the others
FORMAT, SETTINGS, REFUSED, TEST, NOTE = "format", "settings", "refused:", "test_metrics:", "note:"
CONFIRMATION, INFERENCE = "confirmation:", "inference:"


class RefusedCandidate(NamedTuple):
    """A configuration that was never started, why, and what was predicted for it."""

    candidate: Candidate
    reason: str
    predicted: MemoryFigures | None = None


def identity(candidate: Candidate) -> str:
    """Equal for configurations that would train the same model in the same way, whatever their parameters are called."""
    return json.dumps([candidate.method, candidate.training], sort_keys=True, default=_as_plain)


def plain(value: Any) -> Any:
    """The value as JSON gives it back: NumPy's numbers become numbers, tuples lists, anything else its text."""
    return json.loads(json.dumps(value, default=_as_plain))


def _as_plain(value: Any) -> Any:
    item = getattr(value, "item", None)  # scalars of NumPy and torch
    return item() if callable(item) else str(value)


def objective_values(outcome: Outcome) -> list[float] | None:
    """The two objectives of a complete trial, None where one of them is missing or not finite."""
    if outcome.metric is None or outcome.peak is None or not math.isfinite(outcome.metric):
        return None
    return [float(outcome.metric), float(outcome.peak.allocated)]


def epochs_of(trial: FrozenTrial) -> tuple[EpochReport, ...]:
    """What was noted after each epoch, in their order."""
    notes = [value for key, value in trial.user_attrs.items() if key.startswith(EPOCH)]
    return tuple(EpochReport(**note) for note in sorted(notes, key=lambda note: note["epoch"]))


def trial_record(trial: FrozenTrial, study_attributes: Mapping[str, Any]) -> TrialRecord:
    """A trial of the record in the vocabulary of this program."""
    outcome = trial.user_attrs.get(OUTCOME)
    inference = study_attributes.get(f"{INFERENCE}{trial.number}")
    return TrialRecord(
        number=trial.number,
        candidate=Candidate(**trial.user_attrs[CANDIDATE]),
        seed=trial.user_attrs[SEED],
        outcome=Outcome.from_dict(outcome) if outcome is not None else None,
        test_metrics=study_attributes.get(f"{TEST}{trial.number}"),
        confirmations=confirmations_of(trial.number, study_attributes),
        inference=None if inference is None else InferenceFigures.from_dict(inference),
    )


def confirmation_key(number: int, seed: int) -> str:
    """Of the study's attribute that holds how a trial ended on another seed."""
    return f"{CONFIRMATION}{number}:{seed}"


def confirmations_of(number: int, study_attributes: Mapping[str, Any]) -> tuple[Confirmation, ...]:
    """How a trial ended on other seeds, in the order of the seeds."""
    prefix = f"{CONFIRMATION}{number}:"
    ended = {int(key.removeprefix(prefix)): value for key, value in study_attributes.items() if key.startswith(prefix)}
    return tuple(Confirmation(seed=seed, outcome=Outcome.from_dict(ended[seed])) for seed in sorted(ended))


def refused_candidates(study_attributes: Mapping[str, Any]) -> list[RefusedCandidate]:
    """Every refusal among a study's attributes, in the order in which they were noted."""
    batches = [value for key, value in study_attributes.items() if key.startswith(REFUSED)]
    return [
        RefusedCandidate(
            Candidate(**row["candidate"]),
            row["reason"],
            MemoryFigures(**row["predicted"]) if row["predicted"] else None,
        )
        for batch in sorted(batches, key=lambda batch: batch["order"])
        for row in batch["rows"]
    ]
