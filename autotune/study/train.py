"""``autotune train``: one configuration, for longer and on all rows, under the same cap as a study's trials."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from autotune.deploy import export, require_target
from autotune.errors import AutotuneError, NothingFitsError, StudyError
from autotune.memory.device import DeviceInfo, available_device
from autotune.outcome import Candidate, EpochReport, Outcome, Status, TrialRecord
from autotune.runner.interrupts import interrupts
from autotune.runner.shares import usable_cores
from autotune.search.lock import StudyLock
from autotune.study.allowance import allowance_for
from autotune.study.exporting import predict_command, settings_of
from autotune.study.fit_check import FitCheck
from autotune.study.folder import StudyFolder
from autotune.study.listener import Listener
from autotune.study.prediction import predictor_for
from autotune.study.preparing import backbone_without_weights, describe_data, prepared_data, rows_of
from autotune.study.scoring import run_alone
from autotune.study.train_folder import (
    LOCK,
    as_begun,
    clear,
    has_begun,
    keep_beginning,
    require_own,
    work_folder,
)
from autotune.study.train_result import TrainResult
from autotune.study.train_settings import TrainSettings
from autotune.trial.ancestry import Ancestor
from autotune.trial.fork_server import PRELOAD, ForkServer
from autotune.trial.measuring import meter_for
from autotune.trial.process import TrialProcess
from autotune.trial.request import Epoch, Finished, Rehearsed, Steps, TrialRequest
from autotune.units import format_bytes, format_duration
from sherl.data import PreparedData
from sherl.tasks import task_for

_POLL_SECONDS = 0.25


@dataclass
class _Remembered:
    """Where a single run keeps what a study keeps in its record."""

    attributes: dict[str, Any] = field(default_factory=dict)

    def set_attribute(self, key: str, value: Any) -> None:
        """For the length of this process."""
        self.attributes[key] = value


def train_configuration(
    settings: TrainSettings, out: Path, listener: Listener, *, restart: bool = False, overwrite: bool = False
) -> TrainResult:
    """Trains one configuration in a process under guard and writes the best epoch as an export.

    What was begun lies in ``<out>.training`` until then. The same call goes on from its last whole epoch, with the memory
    plan that it was begun with, to the weights that an unbroken run would have ended with.

    Args:
        restart: throw away what was begun. overwrite: replace an earlier export in ``out``.

    Raises:
        StudyError: ``out`` or ``<out>.training`` holds something else, another driver trains into it, or what was begun there
            is another run.
        NothingFitsError: no memory plan fits the cap, or the run went over it all the same.
        ConfigError, DataError, SpecError: settings or data have problems.
        AutotuneError: the training failed; the message says how.
    """
    out = out.expanduser().absolute()
    work = StudyFolder(work_folder(out))
    require_target(out, overwrite=overwrite)
    require_own(work.path)
    begun = work.path.exists()
    if out.exists() and any(out.iterdir()) and not begun and not overwrite:
        raise StudyError(
            f"{out} holds an earlier export: give another --out, or --overwrite to train anew and replace it."
        )
    try:
        with StudyLock(work.path / LOCK):
            if restart:
                clear(work.path)
            settings = as_begun(settings, work.path)
            result = _Training(settings, out, work, listener).run()
    except BaseException:
        if not begun and not has_begun(work.path):  # it ended before anything was worth keeping
            shutil.rmtree(work.path, ignore_errors=True)
        raise
    if not result.interrupted:
        shutil.rmtree(work.path)
    return result


class _Training:
    """One run from its settings to its export."""

    def __init__(self, settings: TrainSettings, out: Path, work: StudyFolder, listener: Listener) -> None:
        self._settings, self._out, self._work, self._listener = settings, out, work, listener
        self._resumes = has_begun(work.path)
        self._config = settings.config
        self._threads = settings.config.threads or usable_cores()

    def run(self) -> TrainResult:
        """Prepare, plan, train, test, export."""
        config, listener = self._config, self._listener
        listener.phase("prepare", f"{config.model}, {self._settings.candidate.label}")
        backbone_config, backbone = backbone_without_weights(config)
        with ForkServer(
            preload=(*PRELOAD, *config.plugins), backbone=config.model, driver=Ancestor.of()
        ) as server:  # it imports while the data is prepared
            data = prepared_data(self._work, config, backbone.max_tokens, listener.progress)
            describe_data(data, listener)
            candidate, fits, device = self._fitting(backbone_config, data, server)
            request = self._request(candidate, fits, data, device)
            outcome = self._train(request, server, data.task.metric)
            record = TrialRecord(
                number=self._settings.number, candidate=candidate, seed=self._settings.seed, outcome=outcome
            )
            result = TrainResult(
                directory=self._out,
                record=record,
                metric_name=data.task.metric,
                rows=rows_of(data),
                plan=candidate.plan,
            )
            if outcome.status is Status.INTERRUPTED:
                return replace(result, interrupted=True)
            self._require_complete(outcome, request)
            record = replace(record, test_metrics=self._test(request, server))
        return self._export(replace(result, record=record), data)

    def _fitting(
        self, backbone_config: Any, data: PreparedData, server: ForkServer
    ) -> tuple[Candidate, FitCheck, DeviceInfo]:
        """The configuration with the fastest memory plan that fits the cap; of a run that goes on with the plan that it has.

        Raises:
            NothingFitsError: it does not fit.
        """
        device = available_device()
        allowance = allowance_for(self._config, device)
        for note in allowance.notes:
            self._listener.warning(note)
        self._config = config = self._config.with_changes(memory_cap=allowance.cap)
        predictor = predictor_for(
            config, self._work, backbone_config, data, device, _Remembered(), threads=self._threads, server=server
        )
        fits = FitCheck(predictor, config.memory_cap, writes_text=task_for(data.task).writes_text)
        candidate = self._settings.candidate
        if self._resumes:
            needed = fits.figures(candidate).device
            if needed > config.memory_cap:
                raise NothingFitsError(
                    f"{candidate.label} was begun with a memory plan that is predicted to take {format_bytes(needed)}, over the "
                    f"cap of {format_bytes(config.memory_cap)}: give at least that as --memory-cap, or --restart with this one."
                )
        else:
            refusal = fits(candidate)
            if refusal is not None:
                raise NothingFitsError(
                    f"{candidate.label} cannot be trained: {refusal.reason}. A higher --memory-cap, or a smaller batch_size in "
                    "the configuration, may let it fit."
                )
            candidate = fits.planned(candidate)
        plan = ", ".join(f"{key} {value}" for key, value in candidate.plan.items()) or "as it was asked for"
        self._listener.phase(
            "plan",
            f"predicted device {format_bytes(fits.figures(candidate).device)} of {format_bytes(config.memory_cap)} on "
            f"{device.name}; memory plan: {plan}",
        )
        keep_beginning(self._work.path, self._settings, candidate.plan, self._threads)
        return candidate, fits, device

    def _request(self, candidate: Candidate, fits: FitCheck, data: PreparedData, device: DeviceInfo) -> TrialRequest:
        trained = candidate.realised
        return TrialRequest(
            number=self._settings.number,
            backbone_source=self._config.model,
            prepared_dir=str(self._work.prepared),
            output_dir=str(self._work.path / "trial"),
            memory_cap=self._config.memory_cap,
            method=trained.method,
            training={**trained.training, "seed": self._settings.seed},
            metric=data.task.metric,
            predicted=fits.figures(candidate),
            device=device.kind,
            threads=self._threads,
            driver=Ancestor.of(),
            resumable=True,
        )

    def _train(self, request: TrialRequest, server: ForkServer, metric: str) -> Outcome:
        """To the end, or until a signal asks for it; a second signal ends everything at once."""
        from sherl.training import kept_epochs

        epochs = int(request.training.get("epochs", 4))
        assert request.state_file is not None
        done = len(kept_epochs(request.state_file))
        going_on = f"going on behind epoch {done} of {epochs}" if done else f"{epochs} epochs"
        self._listener.phase("train", f"{going_on}, {self._threads} threads")
        began = time.monotonic()
        with interrupts() as noted:
            process = TrialProcess(request, server, meter_for(request))
            while True:
                event = process.poll(_POLL_SECONDS)
                if noted.asked and not isinstance(event, Finished):
                    self._listener.note("ending the training; what was learnt up to the last whole epoch is kept")
                    return process.stop("It was interrupted.", Status.INTERRUPTED)
                if isinstance(event, Rehearsed):
                    self._listener.note(f"rehearsed: its largest batch takes {format_bytes(event.figures.device)}")
                elif isinstance(event, Steps):
                    self._listener.progress(f"steps of epoch {event.epoch}", event.done, event.total)
                elif isinstance(event, Epoch):
                    self._tell(event.report, metric, epochs, (time.monotonic() - began) / (event.report.epoch - done))
                elif isinstance(event, Finished):
                    return event.outcome

    def _tell(self, report: EpochReport, metric: str, epochs: int, seconds_each: float) -> None:
        left = epochs - report.epoch
        rest = f"; about {format_duration(left * seconds_each)} left" if left else ""
        self._listener.phase(
            "train",
            f"epoch {report.epoch}/{epochs}: loss {report.train_loss:.4f}, {metric} {report.metrics[metric]:.4f}{rest}",
        )

    def _require_complete(self, outcome: Outcome, request: TrialRequest) -> None:
        if outcome.status is Status.COMPLETE:
            return
        kept = "" if outcome.status is Status.DIVERGED else " The same command goes on behind its last whole epoch."
        text = f"The training ended as {outcome.status}: {outcome.reason}{kept} All it wrote: {request.log_file}."
        if outcome.status in (Status.OVER_CAP, Status.OUT_OF_MEMORY):
            raise NothingFitsError(text)
        raise AutotuneError(text)

    def _test(self, request: TrialRequest, server: ForkServer) -> dict[str, float] | None:
        """The best epoch's scores on the test part, once."""
        self._listener.phase("test", "scoring the best epoch once on the test part")
        asked = replace(
            request,
            kind="score",
            resumable=False,
            checkpoint=str(request.checkpoint_dir),
            output_dir=str(self._work.path / "test"),
        )
        outcome = run_alone(asked, server)
        if outcome.status is Status.COMPLETE:
            return outcome.metrics
        self._listener.warning(f"it could not be scored on the test part: {outcome.reason}")
        return None

    def _export(self, result: TrainResult, data: PreparedData) -> TrainResult:
        record, outcome = result.record, result.record.outcome
        assert outcome is not None
        story = (
            f"It is {self._settings.came_from}, trained for {len(outcome.epochs)} epochs on {result.rows['train']} rows; epoch "
            f"{outcome.best_epoch} was the best on validation."
        )
        written = export(
            record,
            study_settings={**settings_of(self._config, data.task.metric), "name": self._out.name},
            checkpoint_dir=self._work.path / "trial" / "checkpoint",
            target=self._out,
            info={"data": data.summary, "selection": story},
            overwrite=True,  # looked at before the training began
        )
        tests = "".join(
            f", test {name} {value:.4f}"
            for name, value in (record.test_metrics or {}).items()
            if name == result.metric_name
        )
        told = (
            f"{story}\nvalidation {result.metric_name} {outcome.metric:.4f}{tests}. It is in {written.directory}: "
            f"{', '.join(written.files)}, {format_bytes(written.size_bytes)}.\nTry it: {predict_command(written.directory, data.task)}"
        )
        return replace(result, explanation=told)
