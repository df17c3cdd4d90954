"""Opening a study's record for reading."""

from __future__ import annotations

from autotune.errors import StudyError
from autotune.outcome import Outcome, TrialRecord
from autotune.search import StudyRecord, is_begun
from autotune.study.folder import StudyFolder
from sherl.data import PreparedData


def outcome_of(record: TrialRecord) -> Outcome:
    """The outcome of a trial that has ended.

    Raises:
        StudyError: it still runs.
    """
    if record.outcome is None:
        raise StudyError(
            f"Trial {record.number} still runs: wait for it, or `autotune resume` where its driver is gone."
        )
    return record.outcome


def metric_of(folder: StudyFolder) -> str:
    """The metric that the study maximises, as the prepared data names it."""
    return PreparedData.open(folder.prepared).task.metric


def read_only(folder: StudyFolder) -> StudyRecord:
    """The record for reading."""
    if not is_begun(folder.record_file):
        raise StudyError(
            f"{folder.path} has no record yet: its run ended before the search. Start it with `autotune resume "
            f"{folder.option}`."
        )
    return StudyRecord.open(folder.record_file)


def has_trials(folder: StudyFolder) -> bool:
    """Whether the study's record holds a trial."""
    if not is_begun(folder.record_file):
        return False
    with StudyRecord.open(folder.record_file) as record:
        return bool(record.trials())
