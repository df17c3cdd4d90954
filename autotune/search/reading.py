"""Reading a study's record; :class:`autotune.search.writing.RecordWriter` adds the writing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from autotune.errors import StudyError
from autotune.outcome import EpochReport, Status, TrialRecord
from autotune.search.rows import (
    CANDIDATE,
    FORMAT,
    NOTE,
    SETTINGS,
    RefusedCandidate,
    epochs_of,
    plain,
    refused_candidates,
    trial_record,
)
from autotune.search.storage import as_url, open_storage, place, sqlite_file, translated
from autotune.search.working_time import seconds_until_ends

RECORD_FORMAT = 1


def is_begun(storage: str | Path) -> bool:
    """Whether a study lies there with its settings, and not only what a maker left who was ended on the way.

    Raises:
        StudyError: the storage cannot be read.
    """
    url = as_url(storage)
    file = sqlite_file(url)
    if file is not None and (not file.is_file() or not file.stat().st_size):
        return False
    opened = open_storage(url, create=False)
    with translated(url):
        studies = opened.get_all_studies()
        return any(SETTINGS in opened.get_study_user_attrs(study._study_id) for study in studies)


class RecordReader:
    """What can be read of one study; any number of readers may look while one driver writes."""

    def __init__(self, storage: BaseStorage, url: str, name: str) -> None:
        self.url = url
        self.name = name
        self._storage = storage
        with translated(url):
            self._study_id = storage.get_study_id_from_name(name)

    @property
    def settings(self) -> dict[str, Any]:
        """What the study was asked for when it was made."""
        return dict(self._attributes()[SETTINGS])

    @property
    def attributes(self) -> dict[str, Any]:
        """The notes that were left on the study."""
        return {key.removeprefix(NOTE): value for key, value in self._attributes().items() if key.startswith(NOTE)}

    def trials(self) -> list[TrialRecord]:
        """Every trial that was started, by number; the running ones have no outcome."""
        attributes = self._attributes()
        return [trial_record(trial, attributes) for trial in self.frozen_trials() if CANDIDATE in trial.user_attrs]

    def trial(self, number: int) -> TrialRecord:
        """One trial.

        Raises:
            StudyError: there is none of this number.
        """
        return trial_record(self._frozen(number), self._attributes())

    def epochs(self, number: int) -> tuple[EpochReport, ...]:
        """What a trial has said after its epochs, running ones too.

        Raises:
            StudyError: there is no such trial.
        """
        return epochs_of(self._frozen(number))

    def refusals(self) -> list[RefusedCandidate]:
        """Every configuration that was not started, in the order of their refusal."""
        return refused_candidates(self._attributes())

    def frozen_trials(self) -> Sequence[FrozenTrial]:
        """Optuna's own trials, for the samplers' copy of the study."""
        with translated(self.url):
            return self._storage.get_all_trials(self._study_id, deepcopy=False)

    def seconds_until_end(self) -> dict[int, float]:
        """Seconds from the start of the first trial to the end of each that has ended, by its number, without the breaks in which
        nothing ran."""
        spans = {
            trial.number: (trial.datetime_start, trial.datetime_complete)
            for trial in self.frozen_trials()
            if trial.datetime_start is not None and trial.datetime_complete is not None
        }
        ended = [(record.number, record.outcome) for record in self.trials() if record.outcome is not None]
        interrupted = {number for number, outcome in ended if outcome.status is Status.INTERRUPTED}
        return seconds_until_ends(spans, interrupted=interrupted)

    def _frozen(self, number: int) -> FrozenTrial:
        for trial in self.frozen_trials():
            if trial.number == number and CANDIDATE in trial.user_attrs:
                return trial
        raise StudyError(f"The study {self.name!r} has no trial {number}.")

    def _attributes(self) -> dict[str, Any]:
        with translated(self.url):
            return self._storage.get_study_user_attrs(self._study_id)

    def _check(self, settings: Mapping[str, Any] | None) -> None:
        """Raises a StudyError where this is no study of this version, or one of other settings."""
        attributes = self._attributes()
        where = f"The study {self.name!r} at {place(self.url)}"
        if SETTINGS not in attributes:
            raise StudyError(
                f"{where} holds no settings: it was not made by autotune, or its start was cut off. Start it anew with `autotune run`."
            )
        if attributes.get(FORMAT) != RECORD_FORMAT:
            raise StudyError(
                f"{where} has the record format {attributes.get(FORMAT)!r}, this version reads {RECORD_FORMAT}: "
                f"use the version of autotune that wrote it."
            )
        if settings is None:
            return
        now, was, absent = plain(dict(settings)), attributes[SETTINGS], "(absent)"
        changed = [
            f"{key} was {was.get(key, absent)!r}, now {now.get(key, absent)!r}"
            for key in sorted({*now, *was})
            if (key in now, now.get(key)) != (key in was, was.get(key))
        ]
        if changed:
            raise StudyError(
                f"{where} was made with other settings: {'; '.join(changed)}. Give it the same settings, or start "
                f"another study with another --name or --study-dir."
            )
