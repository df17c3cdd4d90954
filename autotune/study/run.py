"""``run``, ``resume`` and ``confirm``: a study is driven by one process at a time, to its end or to where it goes on later."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

from autotune.config import CONFIRM_SEEDS, StudyConfig
from autotune.errors import InterruptedStudyError, StudyError
from autotune.plugins import load_plugins
from autotune.search.lock import StudyLock
from autotune.study.folder import StudyFolder, create_folder, find_folder, remove_folder
from autotune.study.listener import StudyListener
from autotune.study.phases import Phases
from autotune.study.reading import has_trials, read_only
from autotune.study.view import StudyResult
from autotune.tracking import Tracker
from autotune.units import parse_duration


def run_study(config: StudyConfig, listener: StudyListener) -> StudyResult:
    """Runs a new study to its end.

    Raises:
        StudyError: a study lies in the folder already.
        ConfigError, DataError, SpecError: settings, space or data have problems; nothing is left behind then.
        NothingFitsError: no configuration fits the cap; nothing is left behind.
    """
    folder, made = create_folder(config)
    try:
        return _drive(folder, config, listener, time_budget=config.time_budget)
    except BaseException as error:
        if not has_trials(folder):  # it ended before anything was worth keeping
            remove_folder(folder, made=made)
            if isinstance(error, InterruptedStudyError):
                raise InterruptedStudyError(
                    f"interrupted before the first trial began: nothing is kept of it, {folder.path} "
                    f"{'was removed' if made else 'is empty again'}. Start it again with the same command."
                ) from None
        raise


def resume_study(
    study_dir: str | Path | None,
    listener: StudyListener,
    *,
    trials: int | None = None,
    time_budget: str | None = None,
    confirm: int | None = None,
) -> StudyResult:
    """Goes on with a study from its record: what is finished stays, what was running is trained again.

    A new total, time budget or number of seeds to confirm on is kept in the study's settings; a time budget counts from now.

    Raises:
        StudyError: there is no such study, or another driver runs it.
        InterruptedStudyError: by Ctrl-C, at a time when nothing was being trained.
    """
    folder = find_folder(study_dir)
    changes: dict[str, Any] = {"study_dir": str(folder.path)}
    if trials is not None:
        changes["trials"] = trials
    if time_budget is not None:
        changes["time_budget"] = parse_duration(time_budget)
    if confirm is not None:
        changes["confirm"] = confirm
    config = folder.settings().with_changes(**changes)
    return _drive(folder, config, listener, time_budget=config.time_budget)


def confirm_study(
    study_dir: str | Path | None,
    listener: StudyListener,
    *,
    seeds: int | None = None,
    time_budget: str | None = None,
) -> StudyResult:
    """The phases behind the search of a study that has run: confirms its front, measures answering, scores the test part.

    seeds: other seeds in all for each member, kept in the study's settings; None takes those, or three where they are none.
    time_budget: of this call alone.

    Raises:
        StudyError: there is no such study, no trial of it completed, or another driver runs it.
    """
    folder = find_folder(study_dir)
    with read_only(folder) as record:
        if not any(trial.outcome is not None and trial.outcome.status.has_metric for trial in record.trials()):
            raise StudyError(
                f"There is nothing to confirm: no trial of {folder.path} has completed. Go on with the search first: "
                f"`autotune resume {folder.option}`."
            )
    settings = folder.settings()
    config = settings.with_changes(study_dir=str(folder.path), confirm=seeds or settings.confirm or CONFIRM_SEEDS)
    seconds = None if time_budget is None else parse_duration(time_budget)
    return _drive(folder, config, listener, time_budget=seconds, searches=False)


def _drive(
    folder: StudyFolder,
    config: StudyConfig,
    listener: StudyListener,
    *,
    time_budget: float | None,
    searches: bool = True,
) -> StudyResult:
    deadline = None if time_budget is None else time.monotonic() + time_budget
    load_plugins(config.plugins)
    with contextlib.ExitStack() as held:
        # before anything is written: a driver that is refused leaves settings and tracking alone
        lock = held.enter_context(StudyLock(folder.lock_file))
        tracker = Tracker.open(
            config.mlflow_uri, study_dir=folder.path, study_name=config.name, on_note=listener.warning
        )
        held.callback(tracker.close)
        phases = Phases(folder, config, tracker, listener, lock, deadline, searches)
        try:
            return phases.run()
        except KeyboardInterrupt as error:
            if phases.tracked:
                tracker.finished("interrupted")
            raise InterruptedStudyError(
                f"interrupted. Nothing finished is lost: `autotune resume {folder.option}` goes on."
            ) from error
        except Exception:
            if phases.tracked:
                tracker.finished("failed")
            raise
