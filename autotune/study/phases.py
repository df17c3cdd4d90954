"""The phases of a study, in order, for whatever drives it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

from autotune.config import StudyConfig
from autotune.memory.device import DeviceInfo, available_device
from autotune.memory.shared_pairs import pairs_file
from autotune.redaction import redacted
from autotune.report import front_table
from autotune.runner import Ended, Machine
from autotune.runner.shares import usable_cores
from autotune.search import StudyRecord, is_begun
from autotune.search.lock import StudyLock
from autotune.space import SearchSpace
from autotune.study.allowance import allowance_for
from autotune.study.answering import measure_front
from autotune.study.confirm import confirm_front, confirmations_due
from autotune.study.features import store_features
from autotune.study.fit_check import FitCheck
from autotune.study.folder import StudyFolder
from autotune.study.listener import StudyListener
from autotune.study.prediction import learn_context, predictor_for
from autotune.study.preparing import backbone_without_weights, describe_data, prepared_data
from autotune.study.reading import has_trials
from autotune.study.scoring import score_front
from autotune.study.searching import search
from autotune.study.source import TrialSettings
from autotune.study.view import StudyResult, summarise
from autotune.tracking import Tracker
from autotune.trial.ancestry import Ancestor
from autotune.trial.fork_server import PRELOAD, ForkServer
from autotune.units import count_words, format_bytes
from sherl.backbones import Backbone
from sherl.data import PreparedData
from sherl.tasks import task_for

SURVEY_SECONDS = 8.0
"""How long the plan may predict before the first trial starts; what is left is predicted when it is drawn."""


@dataclass
class Phases:
    """One study that is driven. lock: of its record, held. deadline: in the clock of ``time.monotonic``. searches: whether
    further trials are tried. tracked: whether the tracker has been told of the study."""

    folder: StudyFolder
    config: StudyConfig
    tracker: Tracker
    listener: StudyListener
    lock: StudyLock
    deadline: float | None
    searches: bool = True
    tracked: bool = field(default=False, init=False)

    def run(self) -> StudyResult:
        """Prepare, plan, search, confirm, measure, test, report."""
        config, listener = self.config, self.listener
        listener.phase("prepare", f"{config.model} in {self.folder.path}")
        backbone_config, backbone = backbone_without_weights(config)
        for note in backbone.notes:
            listener.note(note)
        space = SearchSpace.load(
            self.folder.keep_space(config.space),
            methods=config.methods,
            depth=len(backbone.last_stack),
            width=backbone.width,
            precision=config.precision,
            called=f"the search space {config.space}",
        )
        for note in space.notes:
            listener.note(note)
        # it imports while the data is prepared, and every trial of this machine is forked from it in the end
        with ForkServer(
            preload=(*PRELOAD, *config.plugins), backbone=config.model, driver=Ancestor.of(), lends=True
        ) as server:
            data = prepared_data(self.folder, config, backbone.max_tokens, listener.progress)
            describe_data(data, listener, f"{data.summary.get('name') or data.summary.get('source')}: ")
            return self._with_data(backbone_config, backbone, data, space, server)

    def _with_data(
        self, backbone_config: Any, backbone: Backbone, data: PreparedData, space: SearchSpace, server: ForkServer
    ) -> StudyResult:
        """From prepared data to the report. ``backbone`` has no weights."""
        folder, tracker, listener = self.folder, self.tracker, self.listener
        device = available_device()
        config, machine = self._allowed(device)
        cap = config.memory_cap
        with (
            self._record(config) as record,
            store_features(
                config if self.searches else _to_confirm(config, record, data),
                backbone,
                data,
                space,
                device,
                usable_cores(),
                listener,
                deadline=self.deadline,
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
                warn=listener.warning,
            )
            if predictor.taught_by_others:
                taught = count_words(predictor.taught_by_others, "trial")
                listener.note(f"margins of memory begin with what {taught} of other studies taught ({pairs_file()})")
            fits = FitCheck(predictor, cap, writes_text=task_for(data.task).writes_text)
            if self.searches:
                listener.phase("plan", f"predicting memory for {format_bytes(cap)} on {device.name}")
                plan = fits.survey(space, seconds=SURVEY_SECONDS, seed=config.seed, progress=listener.progress)
                record.refuse_all(fits.refused)
                listener.planned(plan)
            tracker.study_started(config.to_dict())
            self.tracked = True
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
                driver=Ancestor.of(),
                plugins=config.plugins,
                features=features.of,
                features_budget=config.features_budget,
                features_lost=features.lost,
            )
            ended = self._train(config, record, space, fits, settings, machine, device, server)
            if ended is not Ended.INTERRUPTED:  # these take seconds a member, also when the time budget is used up
                measure_front(record, settings, listener, server, data, device)
                score_front(record, settings, listener, server)
            return self._close(record, ended)

    def _allowed(self, device: DeviceInfo) -> tuple[StudyConfig, Machine]:
        """The settings with what the device can give now, and how trials share it."""
        allowance = allowance_for(self.config, device)
        for note in allowance.notes:
            self.listener.warning(note)
        allowed = self.config.with_changes(memory_cap=allowance.cap, gpu_budget=allowance.kept_budget)
        # a study that begins keeps what was lowered, as all its trials have it; of one that goes on it is lowered for today
        (self.config if has_trials(self.folder) else allowed).save(self.folder.settings_file)
        return allowed, _machine(allowed, device, allowance.budget)

    def _record(self, config: StudyConfig) -> StudyRecord:
        file = self.folder.record_file
        if is_begun(file):
            return StudyRecord.open(file, write=True, lock=self.lock)
        return StudyRecord.create(file, config.name, settings=redacted(config.to_dict()), lock=self.lock)

    def _train(
        self,
        config: StudyConfig,
        record: StudyRecord,
        space: SearchSpace,
        fits: FitCheck,
        settings: TrialSettings,
        machine: Machine,
        device: DeviceInfo,
        server: ForkServer,
    ) -> Ended:
        """Search, then confirm."""
        listener, deadline, lender = self.listener, self.deadline, server.lender
        learn = partial(learn_context, device, warn=listener.warning)
        ended = Ended.DONE
        if self.searches:
            ended = search(
                record, space, fits, learn, config, settings, machine, self.tracker, listener, deadline, lender
            )
        if ended is Ended.INTERRUPTED:
            return ended
        confirmed = confirm_front(config, record, fits, settings, machine, listener, deadline=deadline, lender=lender)
        return ended if confirmed is Ended.DONE else confirmed

    def _close(self, record: StudyRecord, ended: Ended) -> StudyResult:
        self.listener.phase("report", str(self.folder.report))
        result, paths = summarise(self.folder, record, save_selection=True, interrupted=ended is Ended.INTERRUPTED)
        for member in result.front:  # once more: the scores of the test part came after the trial
            self.tracker.trial_finished(member)
        selection = None if result.selection is None else result.selection.to_dict()
        self.tracker.front(paths.all(), front_table(result.points), selection, titles=paths.titles())
        self.tracker.finished("complete" if ended is Ended.DONE else "interrupted")
        return result


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
