"""``run``, ``resume`` and ``confirm``: the phases of a study, in order."""

from __future__ import annotations

import time
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import torch

from autotune.config import CONFIRM_SEEDS, StudyConfig
from autotune.errors import StudyError
from autotune.memory.device import DeviceInfo, available_device
from autotune.redaction import redacted
from autotune.report import front_table
from autotune.runner import Ended, Machine
from autotune.runner.shares import usable_cores
from autotune.search import StudyRecord
from autotune.space import SearchSpace
from autotune.study.allowance import allowance_for
from autotune.study.answering import measure_front
from autotune.study.confirm import confirm_front, confirmations_due
from autotune.study.features import store_features
from autotune.study.fit_check import FitCheck
from autotune.study.folder import StudyFolder, create_folder, find_folder, remove_folder
from autotune.study.listener import StudyListener
from autotune.study.prediction import learn_context, predictor_for
from autotune.study.preparing import prepared_data
from autotune.study.reading import has_trials, read_only
from autotune.study.scoring import score_front
from autotune.study.searching import search
from autotune.study.source import TrialSettings
from autotune.study.suits import require_model_suits
from autotune.study.view import StudyResult, summarise
from autotune.tracking import Tracker
from autotune.tracking.location import locate
from autotune.trial.ancestry import Ancestor
from autotune.trial.fork_server import PRELOAD, ForkServer
from autotune.units import format_bytes, parse_duration
from sherl.backbones import Backbone, backbone_from_config, load_config
from sherl.data import DataSpec, PreparedData
from sherl.tasks import task_for

SURVEY_SECONDS = 8.0
"""How long the plan may predict before the first trial starts; what is left is predicted when it is drawn."""


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
    except BaseException:
        if not has_trials(folder):  # it ended before anything was worth keeping
            remove_folder(folder, made=made)
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
                f"`autotune resume --study-dir {folder.path}`."
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
    locate(config.mlflow_uri, folder.path)  # refused before anything is done
    listener.phase("prepare", f"{config.model} in {folder.path}")
    backbone_config = load_config(config.model)
    with torch.device("meta"):  # without weights
        backbone = backbone_from_config(backbone_config)
    require_model_suits(backbone, DataSpec.from_dict(config.data), max_length=config.max_length)
    for note in backbone.notes:
        listener.note(note)
    space = SearchSpace.load(
        folder.keep_space(config.space),
        methods=config.methods,
        depth=len(backbone.last_stack),
        width=backbone.width,
        precision=config.precision,
    )
    for note in space.notes:
        listener.note(note)
    # it imports while the data is prepared, and every trial of this machine is forked from it in the end
    with ForkServer(
        preload=(*PRELOAD, *config.plugins), backbone=config.model, driver=Ancestor.of(), lends=True
    ) as server:
        data = prepared_data(folder, config, backbone.max_tokens, listener.progress)
        _describe(data, listener)
        return _try(folder, config, backbone_config, backbone, data, space, server, listener, deadline, searches)


def _try(
    folder: StudyFolder,
    config: StudyConfig,
    backbone_config: Any,
    backbone: Backbone,
    data: PreparedData,
    space: SearchSpace,
    server: ForkServer,
    listener: StudyListener,
    deadline: float | None,
    searches: bool,
) -> StudyResult:
    """From prepared data to the report. ``backbone`` has no weights. ``searches``: whether further trials are tried."""
    device = available_device()
    allowance = allowance_for(config, device)
    for note in allowance.notes:
        listener.warning(note)
    config = config.with_changes(memory_cap=allowance.cap, gpu_budget=allowance.kept_budget)
    config.save(folder.settings_file)
    cap = config.memory_cap
    machine = _machine(config, device, allowance.budget)
    driver = Ancestor.of()
    with (
        _record(folder, config) as record,
        # the driver alone delivers: opened once the record's lock is held, closed before it is let go
        closing(
            Tracker.open(config.mlflow_uri, study_dir=folder.path, study_name=config.name, on_note=listener.warning)
        ) as tracker,
        store_features(
            config if searches else _to_confirm(config, record, data),
            backbone,
            data,
            space,
            device,
            usable_cores(),
            listener,
        ) as features,
    ):
        for candidate in record.interrupt_running():
            listener.note(f"was running when the driver ended and is trained again: {candidate.label}")
        predictor = predictor_for(
            config,
            folder,
            backbone_config,
            data,
            device,
            record,
            threads=machine.threads,
            features=features,
            server=server,
        )
        fits = FitCheck(predictor, cap, writes_text=task_for(data.task).writes_text)
        if searches:
            listener.phase("plan", f"predicting memory for {format_bytes(cap)} on {device.name}")
            plan = fits.survey(space, seconds=SURVEY_SECONDS, seed=config.seed, progress=listener.progress)
            record.refuse_all(fits.refused)
            listener.planned(plan)
        tracker.study_started(config.to_dict())
        for trial in record.trials():
            if trial.outcome is not None:
                tracker.trial_finished(trial)
        settings = TrialSettings(
            backbone_source=config.model,
            folder=folder,
            memory_cap=cap,
            metric=data.task.metric,
            device=device.kind,
            threads=machine.threads,
            driver=driver,
            plugins=config.plugins,
            features=features.of,
        )
        learn = partial(learn_context, device, warn=listener.warning)
        ended = Ended.DONE
        if searches:
            ended = search(
                record, space, fits, learn, config, settings, machine, tracker, listener, deadline, server.lender
            )
        if ended is not Ended.INTERRUPTED:
            confirmed = confirm_front(
                config, record, fits, settings, machine, listener, deadline=deadline, lender=server.lender
            )
            ended = ended if confirmed is Ended.DONE else confirmed
        if ended is not Ended.INTERRUPTED:  # these take seconds a member, also when the time budget is used up
            measure_front(record, settings, listener, server, data, device)
            score_front(record, settings, listener, server)
        return _close(folder, record, tracker, listener, ended)


def _describe(data: PreparedData, listener: StudyListener) -> None:
    summary = data.summary
    rows = ", ".join(f"{len(data.part(name))} {name}" for name in ("train", "valid", "test"))
    listener.phase(
        "prepare",
        f"{summary.get('name') or summary.get('source')}: {data.task.kind}, rows: {rows}; metric {data.task.metric}",
    )
    for note in summary.get("notes", ()):
        listener.note(str(note))


def _machine(config: StudyConfig, device: DeviceInfo, budget: int) -> Machine:
    cores = usable_cores()
    if config.threads is not None:
        threads = config.threads
    elif config.parallel is not None:
        threads = max(1, cores // config.parallel)
    else:
        threads = 1 if device.kind == "cpu" else max(1, cores // 4)
    return Machine(device=device.kind, threads=threads, budget=budget, max_concurrent=config.parallel)


def _to_confirm(config: StudyConfig, record: StudyRecord, data: PreparedData) -> StudyConfig:
    """The settings by which it is decided whether stored hidden states pay for the trainings that are due, and no search."""
    due = confirmations_due(record.trials(), data.task.metric, study_seed=config.seed, seeds=config.confirm)
    return config.with_changes(trials=len(due)) if due else config.with_changes(features="off")


def _record(folder: StudyFolder, config: StudyConfig) -> StudyRecord:
    if folder.record_file.exists():
        return StudyRecord.open(folder.record_file, write=True)
    return StudyRecord.create(folder.record_file, config.name, settings=redacted(config.to_dict()))


def _close(
    folder: StudyFolder, record: StudyRecord, tracker: Tracker, listener: StudyListener, ended: Ended
) -> StudyResult:
    listener.phase("report", str(folder.report))
    result, paths = summarise(folder, record, save_selection=True, interrupted=ended is Ended.INTERRUPTED)
    for member in result.front:  # once more: the scores of the test part came after the trial
        tracker.trial_finished(member)
    selection = None if result.selection is None else result.selection.to_dict()
    tracker.front(paths.all(), front_table(result.points), selection, titles=paths.titles())
    tracker.finished("complete" if ended is Ended.DONE else "interrupted")
    return result
