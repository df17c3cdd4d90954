"""A study's place in MLflow: what still waits for delivery, and where its run is to be seen."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotune.config import StudyConfig
from autotune.errors import StudyError
from autotune.redaction import redact
from autotune.search.lock import StudyLock
from autotune.study.folder import StudyFolder, find_folder
from autotune.tracking import Tracker
from autotune.tracking.location import Location, locate
from autotune.tracking.state import State


@dataclass(frozen=True, kw_only=True)
class StudyInMlflow:
    """Where a study's run lies. served: the store is a database, to be shown by a server of ours; else it has its own."""

    location: Location
    served: bool
    experiment_id: str
    run_id: str

    def address(self, base: str | None = None) -> str:
        """The run's page, on the server at ``base`` or on the store's own."""
        from autotune.tracking.ui import run_address

        return run_address(base or self.location.uri, self.experiment_id, self.run_id)


@dataclass(frozen=True, kw_only=True)
class Front:
    """A front to be shown: the report's files, their figures' titles, the members as rows, what was selected."""

    paths: Sequence[Path]
    titles: Mapping[str, str]
    table: Sequence[Mapping[str, Any]]
    selected: Mapping[str, Any] | None


def send_waiting(
    folder: StudyFolder, *, front: Front | None = None, on_note: Callable[[str], None] | None = None
) -> Tracker:
    """Delivers what waits, unless the study's driver runs, which does it itself (two would write everything twice).

    front: sent too where it differs from the one that the store shows, as a person may have selected another member since,
    and in place of one that waits. on_note: told in a line what could not be sent, to which store, and why.
    Returns the tracker, closed, which knows the store, the study and its run.
    """
    config = folder.settings()
    tracker = Tracker.open(config.mlflow_uri, study_dir=folder.path, study_name=config.name, on_note=on_note)
    is_there = tracker.front_waits or tracker.run_id is not None
    new = front if front and is_there and not tracker.shows_front(front.table, front.selected) else None
    if tracker.undelivered or new:
        # the lock is held by a driver, or the folder is for reading only: a tracker that was not used needs no closing
        with (
            contextlib.suppress(StudyError),
            StudyLock(folder.lock_file),
        ):
            if new:
                tracker.front(new.paths, new.table, new.selected, titles=new.titles)
            tracker.close()
    return tracker


def store_words(folder: StudyFolder, config: StudyConfig) -> str:
    """The store that a study's runs go to now, without a password, and where earlier ones are if that is another."""
    location = locate(config.mlflow_uri, folder.path.expanduser().resolve())
    shown = str(folder.path / "mlflow.db") if location.own else location.shown
    state = State.read(folder.path / "tracking", location)
    if state is None or location.key in state.runs or not state.runs:
        return shown
    return f"{shown} (no run of this study yet; it has runs in {' and '.join(state.elsewhere(location, folder.path.resolve() / 'mlflow.db'))})"


def find_in_mlflow(study_dir: str | Path | None, *, on_note: Callable[[str], None]) -> StudyInMlflow:
    """The study's run, once everything that waited has been delivered as far as the store takes it.

    Raises:
        StudyError: there is no such study, its store does not answer, or the store has no run of it.
    """
    from autotune.tracking.ui import can_be_served, find_run

    folder = find_folder(study_dir)
    tracker = send_waiting(folder, on_note=on_note)
    location = tracker.location
    try:
        found = find_run(location, study_id=tracker.study_id, run_id=tracker.run_id)
    except Exception as error:  # a store's client, driver or plug-in raises anything
        first_line = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise StudyError(
            f"MLflow at {location.shown} does not answer: {redact(first_line)}. Start it and try again; the study's figures "
            f"are also in {folder.report}."
        ) from error
    if found is None:
        elsewhere = tracker.elsewhere
        hint = (
            f"Its runs went to {' and '.join(elsewhere)}: set MLFLOW_TRACKING_URI to that again."
            if elsewhere
            else "They are written once its search has begun; `autotune resume` goes on with it."
        )
        raise StudyError(f"MLflow at {location.shown} has no run of the study in {folder.path}. {hint}")
    experiment_id, run_id = found
    return StudyInMlflow(location=location, served=can_be_served(location), experiment_id=experiment_id, run_id=run_id)
