"""One run of ``real_methods.py``: a method on a pretrained model with real data, scored, timed and its memory measured."""

from __future__ import annotations

import math
import time
from functools import lru_cache
from itertools import chain, count, islice
from pathlib import Path
from typing import Any

from conditions import conditions
from pretrained import pretrained
from real_data import DATA, RealData
from real_settings import SEEDS, Case

from autotune.memory.rehearsal import measure_rehearsal
from sherl.backbones import load_backbone
from sherl.evaluation import evaluate
from sherl.methods import method_from_dict
from sherl.model import TaskModel, build_model
from sherl.optimizer import make_optimizer
from sherl.spec import TrainingConfig
from sherl.training import Diverged, fit, train_step

ENDS = 10
"""Losses of so many steps are averaged at the beginning and at the end of fifty."""


class OutOfTime(Exception):
    """The call's minutes are over in the middle of a run; nothing of it counts."""


@lru_cache(maxsize=1)
def material(model: str, data: str) -> tuple[Path, RealData]:
    """A model's folder and its data; those of one backbone are held at a time."""
    folder = pretrained(model)
    if "efficientnet" in model or "resnet" in model:
        import own_architectures  # noqa: F401 - importing registers its classes and rows
    return folder, DATA[data](folder)


@lru_cache(maxsize=1)
def conditions_now() -> dict[str, Any]:
    return conditions()


def run_case(case: Case, *, deadline: float) -> dict[str, Any]:
    """Train from the pretrained weights and score; ``deadline`` is a time of :func:`time.monotonic`.

    ``tensors``: peak of live tensor bytes of a training and an evaluation step on the largest batch. ``seconds``: of the
    training with its validations, by the clock; ``processor_seconds``: the same of all threads; ``step_seconds``: the median step of the last epoch. ``valid``, ``test``: behind the last
    epoch; the test part is scored on the seeds that count alone.

    Raises:
        OutOfTime: the deadline passed between two epochs.
    """
    folder, data = material(case.backbone.model, case.backbone.data)
    model = build_model(
        load_backbone(str(folder)), method_from_dict(dict(case.method.method)), data.task, seed=case.seed
    )
    return train_and_score(case, model, data, tensors=peak_of(model, data, training_of(case)), deadline=deadline)


def train_and_score(case: Case, model: TaskModel, data: RealData, *, tensors: int, deadline: float) -> dict[str, Any]:
    """What :func:`run_case` tells, of a model that is ready to be trained on these parts.

    Raises:
        OutOfTime: the deadline passed between two epochs.
    """
    training = training_of(case)
    row: dict[str, Any] = {
        "status": "complete",
        "trainable": sum(parameter.numel() for parameter in model.trainable_parameters()),
        "tensors": tensors,
    }
    began = time.process_time()
    try:
        for progress in fit(model, data.train, data.valid, training):
            row["seconds"], row["step_seconds"] = round(progress.seconds, 2), round(progress.step_seconds, 4)
            row["processor_seconds"] = round(time.process_time() - began, 2)
            row["valid"], row["train_loss"] = progress.metrics[data.task.metric], progress.train_loss
            if progress.epoch < training.epochs and time.monotonic() > deadline:
                raise OutOfTime
    except Diverged as error:
        return {"status": "diverged", "reason": str(error), "conditions": conditions_now()}
    if case.seed in SEEDS:
        score = evaluate(model, data.test, training.batch_size)[data.task.metric]
        if not math.isfinite(score):
            return {"status": "diverged", "reason": f"the test score is {score}", "conditions": conditions_now()}
        row["test"] = score
    return {**row, "conditions": conditions_now()}


def run_steps(case: Case) -> dict[str, Any]:
    """``case.steps`` steps: mean loss of the first and of the last ten, peak of tensor bytes, seconds a step."""
    folder, data = material(case.backbone.model, case.backbone.data)
    training = training_of(case)
    model = build_model(
        load_backbone(str(folder)), method_from_dict(dict(case.method.method)), data.task, seed=case.seed
    )
    peak = peak_of(model, data, training)
    assert case.steps is not None
    optimizer, scheduler = make_optimizer(model, training, total_steps=case.steps)
    epochs = (data.train.batches(training.batch_size, seed=case.seed, epoch=epoch) for epoch in count())
    began = time.perf_counter()
    losses = [
        float(train_step(model, batch, optimizer, scheduler, training))
        for batch in islice(chain.from_iterable(epochs), case.steps)
    ]
    seconds = (time.perf_counter() - began) / case.steps
    if not all(map(math.isfinite, losses)):
        return {"status": "diverged", "reason": "a loss is not finite", "conditions": conditions_now()}
    first, last = sum(losses[:ENDS]) / ENDS, sum(losses[-ENDS:]) / ENDS
    return {
        "status": "complete",
        "trainable": sum(parameter.numel() for parameter in model.trainable_parameters()),
        "tensors": peak,
        "step_seconds": round(seconds, 4),
        "first_loss": first,
        "last_loss": last,
        "falls": last < first,
        "conditions": conditions_now(),
    }


def training_of(case: Case) -> TrainingConfig:
    """How a case is trained."""
    return TrainingConfig(
        learning_rate=case.learning_rate,
        batch_size=case.backbone.batch_size,
        epochs=case.backbone.epochs,
        seed=case.seed,
    )


def peak_of(model: TaskModel, data: RealData, training: TrainingConfig) -> int:
    """Peak of live tensor bytes of a training and an evaluation step on the largest batch."""
    batches = [part.largest_batch(training.batch_size) for part in (data.train, data.valid)]
    return measure_rehearsal(model, batches[0], batches[1], training).peak_bytes
