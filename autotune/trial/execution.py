"""A whole trial in this process: load, build, rehearse, train, keep the best weights, say what became of it."""

from __future__ import annotations

import random
import statistics
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from autotune.memory.limit import is_out_of_memory
from autotune.memory.predict import heap_plan_of
from autotune.outcome import EpochReport, MemoryFigures, Outcome, Status
from autotune.trial.answering import latency_of, rows_per_second_of, unlabelled
from autotune.trial.confines import Confines, OverCap, confines_for
from autotune.trial.data import TrialData
from autotune.trial.request import Epoch, Message, Rehearsed, Steps, TrialRequest, Unread
from autotune.trial.verdict import ANOTHER_TENANT
from autotune.units import format_bytes
from sherl.checkpoint import load_checkpoint, save_checkpoint
from sherl.evaluation import Batch, eval_step, evaluate
from sherl.methods import method_from_dict
from sherl.model import TaskModel, build_model
from sherl.precision import weights_dtype
from sherl.spec import TrainingConfig
from sherl.training import Diverged, FitProgress, evaluation_rows, fit, kept_epochs, rehearse

Send = Callable[[Message], None]
TRACEBACK_CHARACTERS = 4000
STEPS_EVERY = 5.0
"""Seconds between messages of how far an epoch is."""


def execute(request: TrialRequest, send: Send) -> Outcome:
    """Runs a trial here and returns what became of it; ``send`` gets the rehearsal, how far it is, and each epoch.

    A bad end is an outcome too: over the cap, out of memory, diverged, failed (any other error, with its traceback in
    ``details``). This process is confined for good: its threads, heap and memory limit are the request's from here on.
    """
    trial = _Trial(request, send)
    try:
        match request.kind:
            case "score":
                return trial.score()
            case "measure":
                return trial.measure()
            case _:
                return trial.train()
    except OverCap as error:
        return trial.ended(Status.OVER_CAP, str(error))
    except Diverged as error:
        return trial.ended(Status.DIVERGED, f"Trial {request.number}: {error}")
    except Exception as error:  # noqa: BLE001 - a trial's boundary: whatever went wrong in it is its outcome
        if is_out_of_memory(error):
            return trial.out_of_memory(error)
        return trial.failed(error)


class _Trial:
    """One trial, and what is known of it so far."""

    def __init__(self, request: TrialRequest, send: Send) -> None:
        self._request = request
        self._send = send
        self._began = time.perf_counter()
        self._confines: Confines | None = None
        self._doing = "loading the model"
        self._epochs: list[EpochReport] = []
        self._step_seconds: list[float] = []
        self._best: EpochReport | None = None
        self._told_steps = 0.0
        self._metric_name = request.metric
        self._details: dict[str, Any] = {
            "threads": request.threads,
            "heap_plan": heap_plan_of(request.predicted),
        }
        self._parameters: int | None = None

    def train(self) -> Outcome:
        """Trains, keeps the weights of the best epoch (the first of equals) and returns a complete outcome.

        Raises:
            OverCap, Diverged, and what loading, building and training raise.
        """
        request = self._request
        training = TrainingConfig.from_dict(request.training)
        _seed(training.seed)
        self._confines = confines_for(request)
        data = self._open()
        task = data.prepared.task
        self._metric_name = request.metric or task.metric
        task = replace(task, metric=self._metric_name)
        backbone = data.load(request.backbone_source, weights_dtype(training.precision))
        backbone.model.to(self._confines.device)
        model = build_model(backbone, method_from_dict(request.method), task, seed=training.seed)
        self._parameters = sum(parameter.numel() for parameter in model.trainable_parameters())
        self._confines.settle(model)
        self._details["load_seconds"] = time.perf_counter() - self._began
        self._rehearse(model, data, training)
        self._doing = "training"
        state = request.state_file
        for progress in [] if state is None else kept_epochs(state):
            self._note(progress)
        parts = data.part("train"), data.part("valid")
        self._told_steps = time.monotonic()
        for progress in fit(model, *parts, training, state_file=state, on_steps=self._steps):
            self._take(progress, model, data.prepared.max_length)
        return self._outcome(Status.COMPLETE, "")

    def score(self) -> Outcome:
        """Evaluates a checkpoint once on the part that the request names.

        Raises:
            What loading and evaluating raise.
        """
        request = self._request
        training, model, data = self._trained()
        assert self._confines is not None
        self._doing = f"scoring the {request.part} part"
        rows = evaluation_rows(training)  # as in training, so what fitted fits
        part = data.part(request.part)
        largest = part.largest_batch(rows)
        with self._confines.measured(model, largest):  # following every operation is slow, so only the peak's batch
            eval_step(model, largest)
        self._confines.check()
        metrics = evaluate(model, part, rows)
        self._metric_name = request.metric or data.prepared.task.metric
        return replace(
            self._outcome(Status.COMPLETE, ""), metric=metrics[self._metric_name], metrics=metrics, checkpoint=None
        )

    def measure(self) -> Outcome:
        """Answers rows of the part that the request names with a checkpoint, ``settings["batch_rows"]`` at a time and one
        alone; ``details["answering"]`` of the outcome has the times.

        Raises:
            What loading and evaluating raise.
        """
        request = self._request
        _, model, data = self._trained()
        assert self._confines is not None
        part = data.part(request.part)
        rows = min(int(request.settings["batch_rows"]), len(part))
        largest = unlabelled(part.largest_batch(rows))
        self._doing = f"answering a batch ({_shape(largest)})"
        with self._confines.measured(model, largest):
            eval_step(model, largest, whole_length=True)  # whatever these weights write, others may write more
        self._confines.check()
        self._details["answering"] = {
            "latency_seconds": latency_of(model, part.largest_batch(1)),
            "rows_per_second": rows_per_second_of(model, part, rows),
            "batch_rows": rows,
            "threads": request.threads,
        }
        return self._outcome(Status.COMPLETE, "")

    def _trained(self) -> tuple[TrainingConfig, TaskModel, TrialData]:
        """The request's checkpoint on the device, confined."""
        request = self._request
        if request.checkpoint is None:
            raise ValueError(f"A trial of kind {request.kind!r} needs a checkpoint.")
        self._confines = confines_for(request)
        training, data = TrainingConfig.from_dict(request.training), self._open()
        backbone = data.load(request.backbone_source, weights_dtype(training.precision))
        model = load_checkpoint(request.checkpoint, backbone=backbone)
        model.to(self._confines.device)
        self._confines.settle(model)
        return training, model, data

    def _open(self) -> TrialData:
        assert self._confines is not None
        data = TrialData(self._request, self._confines.device)
        if data.told:
            self._details["features"] = data.told
            if not data.told["read"]:  # told at once: a trial that is ended over the cap tells nothing any more
                self._send(Unread(data.told["why"]))
        return data

    def ended(self, status: Status, reason: str) -> Outcome:
        """A bad end."""
        return self._outcome(status, reason)

    def out_of_memory(self, error: BaseException) -> Outcome:
        """An allocation failed: over the cap where the cap refused it, else the machine has no memory left."""
        request, confines = self._request, self._confines
        self._details["error"] = _first_line(error)
        over = confines is not None and confines.refused_by_cap()
        needs = ", ".join(f"{name} {format_bytes(count)}" for name, count in self._parts().items() if count)
        held = f"it held {needs}" if needs else "nothing is known of what it held"
        if over:
            return self._outcome(
                Status.OVER_CAP,
                f"Trial {request.number} does not fit: while {self._doing} it asked for more than the cap of "
                f"{format_bytes(request.memory_cap)} allows; at its peak {held}. "
                "A smaller batch size, accumulation or activation checkpointing needs less.",
            )
        others = confines.others() if confines is not None else ""
        if others:
            self._details[ANOTHER_TENANT] = True
            return self._outcome(
                Status.OUT_OF_MEMORY,
                f"Trial {request.number} ran out of memory while {self._doing}, under its cap of "
                f"{format_bytes(request.memory_cap)}: {others}; at its peak {held}. It is their doing and no breach of the "
                "trial's own cap; it may be tried again.",
            )
        return self._outcome(
            Status.OUT_OF_MEMORY,
            f"Trial {request.number} ran out of memory while {self._doing}, under its cap of "
            f"{format_bytes(request.memory_cap)}: the device has less free than that; at its peak {held}. "
            "Fewer trials at a time, or a lower --memory-cap, make it fit.",
        )

    def failed(self, error: BaseException) -> Outcome:
        """Any other error."""
        text = "".join(traceback.format_exception(error))
        self._details["error_type"] = type(error).__name__
        self._details["traceback"] = text[-TRACEBACK_CHARACTERS:]
        return self._outcome(
            Status.FAILED,
            f"Trial {self._request.number} failed while {self._doing}: {type(error).__name__}: {_first_line(error)}",
        )

    def _rehearse(self, model: TaskModel, data: TrialData, training: TrainingConfig) -> None:
        """Shows in seconds whether the trial fits; the model and all random states are left as they were."""
        assert self._confines is not None
        began = time.perf_counter()
        train_batch = data.part("train").largest_batch(training.batch_size)
        eval_batch = data.largest_evaluation(evaluation_rows(training))
        self._doing = f"rehearsing its largest batch ({_shape(train_batch)})"
        with self._confines.measured(model, train_batch, eval_batch):
            rehearse(model, data.as_trained(train_batch), eval_batch, training)
        self._confines.check()
        self._details["rehearsal_seconds"] = time.perf_counter() - began
        self._send(Rehearsed(self._confines.peak()))

    def _steps(self, epoch: int, done: int, total: int) -> None:
        """So many steps of an epoch are done: told now and then."""
        now = time.monotonic()
        if now - self._told_steps >= STEPS_EVERY:
            self._told_steps = now
            self._send(Steps(epoch, done, total))

    def _take(self, progress: FitProgress, model: TaskModel, max_length: int | None) -> None:
        """An epoch is over: keeps the weights where they are the best so far, then reports."""
        report = self._note(progress)
        if report is self._best:
            save_checkpoint(
                model,
                self._request.checkpoint_dir,
                max_length=max_length,
                extra={"trial": self._request.number, "epoch": report.epoch, "metrics": report.metrics},
            )
        self._send(Epoch(report))

    def _note(self, progress: FitProgress) -> EpochReport:
        """Takes an epoch's figures in; the best of all (the first of equals) is then ``_best``."""
        assert self._metric_name is not None
        report = EpochReport(
            epoch=progress.epoch,
            train_loss=progress.train_loss,
            metrics=progress.metrics,
            seconds=progress.seconds,
        )
        self._epochs.append(report)
        self._step_seconds.append(progress.step_seconds)
        if self._best is None or report.metrics[self._metric_name] > self._best.metrics[self._metric_name]:
            self._best = report
        return report

    def _outcome(self, status: Status, reason: str) -> Outcome:
        best = self._best
        parts = self._parts()
        return Outcome(
            status=status,
            reason=reason,
            metric=best.metrics[self._metric_name or ""] if best is not None else None,
            metrics=best.metrics if best is not None else {},
            best_epoch=best.epoch if best is not None else None,
            epochs=tuple(self._epochs),
            peak=self._peak(),
            predicted=self._request.predicted,
            seconds=time.perf_counter() - self._began,
            step_seconds=statistics.median(self._step_seconds) if self._step_seconds else None,
            trainable_parameters=self._parameters,
            checkpoint=str(self._request.checkpoint_dir) if status is Status.COMPLETE and best is not None else None,
            details={**self._details, **({"peak_parts": parts} if parts else {})},
        )

    def _peak(self) -> MemoryFigures | None:
        return self._confines.peak() if self._confines is not None else None

    def _parts(self) -> dict[str, int]:
        return self._confines.parts if self._confines is not None else {}


def _seed(seed: int) -> None:
    """Every generator that a library may draw from."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def _shape(batch: Batch) -> str:
    if "input_ids" in batch:
        rows, tokens = batch["input_ids"].shape
        return f"{rows} x {tokens} tokens"
    if "pixel_values" in batch:
        rows, _, height, width = batch["pixel_values"].shape
        return f"{rows} images of {height} x {width} pixels"
    name, tensor = next((name, tensor) for name, tensor in batch.items() if name != "labels")
    return f"{' x '.join(map(str, tensor.shape))}, {name}"


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:500] if lines else "no message"
