"""Training: one step, one run, and a rehearsal that shows what a run will need.

:func:`train_step` is the only place where a model learns: trials run it and the memory predictor traces it.

Precision. ``fp32`` is float32 throughout. ``bf16`` means that the pretrained weights are loaded in bfloat16
(:func:`sherl.precision.weights_dtype`) and their activations are bfloat16 too; added modules and the head hold float32
weights and compute in the dtype of what they are given. There is no autocast. Losses and metrics are always float32.
A bfloat16 number keeps 8 bits: a weight of 1.0 does not see an update of 0.001. So the optimizer holds a float32 copy
of every trainable bfloat16 weight, gathers its gradients in float32, updates the copy and rounds it into the weight
(:class:`sherl.optimizer.AdamW`). That holds for each method alike; in full fine-tuning a weight costs 2 + 4 + 8 bytes
and its gradient 4, hardly more than in float32, and activations half.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from sherl.errors import DataError, SherlError, SpecError
from sherl.evaluation import Batch, EvaluationPart, eval_step, evaluate, to_device
from sherl.model import TaskModel
from sherl.optimizer import AdamW, make_optimizer
from sherl.precision import precision_of, weights_dtype
from sherl.shapes import Float
from sherl.snapshot import Snapshot
from sherl.spec import TrainingConfig
from sherl.training_state import TrainingState, read_epochs

# A GPU is asked for its losses this seldom (in steps): each question waits for all work that is under way.
_LOSS_CHECK_STEPS = 32


class Diverged(SherlError):
    """A loss or a metric that is not finite; ``epoch`` counts from 1, ``step`` from 1 over the whole run."""

    def __init__(self, what: str, value: float, *, epoch: int, step: int) -> None:
        self.epoch, self.step = epoch, step
        super().__init__(
            f"Training diverged: the {what} is {value} in epoch {epoch}, at step {step}. "
            "A lower learning rate, a longer warm-up or a smaller max_grad_norm may help."
        )


@dataclass(frozen=True, kw_only=True)
class FitProgress:
    """What is known after an epoch.

    epoch: counts from 1. train_loss: mean over the epoch's rows. metrics: of the validation part. seconds: since the
    run began, validation included. step_seconds: median time of one optimizer step of this epoch.
    """

    epoch: int
    train_loss: float
    metrics: dict[str, float]
    seconds: float
    step_seconds: float


class TrainingPart(Protocol):
    """What is learnt from: a part of a data set, e.g. :class:`sherl.data.EncodedPart`."""

    def __len__(self) -> int: ...

    def num_batches(self, batch_size: int) -> int: ...

    def batches(self, batch_size: int, *, seed: int | None, epoch: int = 0) -> Iterator[Batch]: ...


def compute_gradients(model: TaskModel, batch: Batch, optimizer: AdamW, accumulation: int) -> Float[Tensor, ""]:
    """Gradients of a batch's mean loss, formed micro-batch by micro-batch; returns that loss (no graph).

    The batch is cut into ``accumulation`` micro-batches (one per row if it has fewer rows). Each counts by its number
    of rows (of text-to-text: of target tokens), so the gradients are those of the whole batch, up to rounding and to
    what dropout draws.
    """
    rows, whole = len(batch["labels"]), model.loss_weight(batch["labels"])
    pieces = {name: tensor.tensor_split(min(accumulation, rows)) for name, tensor in batch.items()}
    total = torch.zeros((), device=batch["labels"].device)
    for index in range(min(accumulation, rows)):
        micro = {name: piece[index] for name, piece in pieces.items()}
        loss = model.loss(model(micro), micro["labels"]) * (model.loss_weight(micro["labels"]) / whole)
        loss.backward()  # type: ignore[no-untyped-call]  # torch has no types for it
        total += loss.detach()
        optimizer.gather_gradients()
    return total


def train_step(
    model: TaskModel, batch: Batch, optimizer: AdamW, scheduler: LambdaLR, training: TrainingConfig
) -> Float[Tensor, ""]:
    """One optimizer step on one batch; returns the batch's mean loss. Afterwards no gradient is left."""
    if not model.training:
        model.train()
    loss = compute_gradients(model, to_device(batch, model), optimizer, training.accumulation)
    if training.max_grad_norm is not None:
        optimizer.clip_gradients(training.max_grad_norm)
    optimizer.apply_update()
    scheduler.step()
    optimizer.zero_grad(set_to_none=True)
    return loss


def micro_batch_rows(training: TrainingConfig) -> int:
    """Rows of the largest micro-batch."""
    return math.ceil(training.batch_size / training.accumulation)


def evaluation_rows(training: TrainingConfig) -> int:
    """Rows of the batches that validation goes through during a run."""
    return training.eval_batch_size or micro_batch_rows(training)


def kept_epochs(state_file: str | Path) -> list[FitProgress]:
    """What a state file that :func:`fit` keeps says of the epochs before; none without a file.

    Raises:
        CheckpointError: the file is damaged.
    """
    return [FitProgress(**plain) for plain in read_epochs(Path(state_file))]


def fit(
    model: TaskModel,
    train: TrainingPart,
    valid: EvaluationPart,
    training: TrainingConfig,
    *,
    state_file: str | Path | None = None,
    on_steps: Callable[[int, int, int], None] | None = None,
) -> Iterator[FitProgress]:
    """Train a model in place; yields once after each epoch, with the metrics of the validation part.

    The model may be saved between epochs. Everything that is drawn is drawn from ``training.seed``, whatever the
    caller draws from the global generators meanwhile, and these are the caller's again at each yield and at the end.
    On a CPU two runs with the same number of threads agree bit for bit.

    state_file: kept behind each epoch, once the caller has taken what was yielded and asks for more. Where it is there
    already, the run goes on behind its last epoch, with the same weights in the end as if it had never been cut; only
    the epochs that are left are yielded (:func:`kept_epochs` has the others).

    on_steps: told of the epoch (from 1), of its steps that are done and of its steps in all, whenever losses are looked at:
    behind each step on a CPU, behind every 32nd and an epoch's last on a GPU. It must draw no random numbers.

    Raises:
        CheckpointError: the state file is damaged, or of a run with other settings.
        Diverged: a loss or a metric is not finite.
        DataError: one of the parts has no rows.
        SpecError: the backbone was loaded in another precision, or nothing in the model is trainable.
    """
    _check_precision(model, training)
    for name, part in (("training", train), ("validation", valid)):
        if len(part) == 0:
            raise DataError(f"The {name} part has no rows: give a data source with at least one row in it.")
    steps = train.num_batches(training.batch_size)
    optimizer, scheduler = make_optimizer(model, training, total_steps=steps * training.epochs)
    optimizer.zero_grad(set_to_none=True)
    device = next(model.parameters()).device
    state, done = None, 0
    if state_file is not None:
        run = {"method": model.tuned.config.to_dict(), "training": training.to_dict(), "steps": steps}
        state = TrainingState(Path(state_file), model, optimizer, scheduler, {**run, "rows": len(train)})
        done = state.restore()
    began = time.perf_counter() - (state.epochs[-1]["seconds"] if state is not None and done else 0.0)
    for epoch in range(done + 1, training.epochs + 1):
        losses = _LossWatch(device, epoch=epoch, steps=steps, on_steps=on_steps)
        with _seeded(training.seed, epoch, device):
            model.train()
            for batch in train.batches(training.batch_size, seed=training.seed, epoch=epoch - 1):
                loss = train_step(model, batch, optimizer, scheduler, training)
                losses.add(loss, rows=len(batch["labels"]))
            losses.check()
            metrics = evaluate(model, valid, evaluation_rows(training))
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise Diverged(f"validation {name}", value, epoch=epoch, step=epoch * steps)
        seconds = time.perf_counter() - began
        progress = FitProgress(
            epoch=epoch, train_loss=losses.mean, metrics=metrics, seconds=seconds, step_seconds=losses.step_seconds
        )
        yield progress
        if state is not None:
            state.keep(asdict(progress))


def rehearse(
    model: TaskModel,
    train_batch: Batch,
    eval_batch: Batch,
    training: TrainingConfig,
    *,
    restore: Literal["snapshot", "none"] = "snapshot",
) -> None:
    """Do once what a run does over and over: two optimizer steps and one evaluation step.

    Two, because the first has no optimizer state yet. Give the batches of the most tokens: what fits here fits in the
    whole run, and what measures the memory sees the run's peak. Afterwards trainable weights, buffers, training flags
    and the random state are to the bit what they were, no gradient and no optimizer state is left; also when a step
    raises (out of memory, say).

    ``restore="snapshot"`` keeps the weights meanwhile in a temporary file, so that the copy is not counted in any
    figure of memory. ``"none"`` leaves the weights changed, for a caller who builds the model anew or runs on fake
    tensors; the rest is put back.
    """
    device = next(model.parameters()).device
    flags = [(module, module.training) for module in model.modules()]
    snapshot = None
    if restore == "snapshot":
        snapshot = Snapshot([*model.trainable_parameters(), *model.buffers()])
    try:
        with _seeded(training.seed, 0, device):
            _rehearse_steps(model, train_batch, eval_batch, training)
    finally:
        for parameter in model.trainable_parameters():
            parameter.grad = None
        if snapshot is not None:
            snapshot.put_back()
            snapshot.close()
        for module, flag in flags:
            module.training = flag


def _rehearse_steps(model: TaskModel, train_batch: Batch, eval_batch: Batch, training: TrainingConfig) -> None:
    optimizer, scheduler = make_optimizer(model, training, total_steps=2)
    model.train()
    for _ in range(2):
        train_step(model, train_batch, optimizer, scheduler, training)
    # the optimizer is still alive here, as it is when a run evaluates
    eval_step(model, eval_batch, whole_length=True)


def _check_precision(model: TaskModel, training: TrainingConfig) -> None:
    loaded = precision_of(model.tuned.backbone.model)
    if loaded != training.precision:
        raise SpecError(
            f"Training settings ask for precision {training.precision}, but the backbone was loaded in {loaded}: "
            f"load it with load_backbone(source, dtype={weights_dtype(training.precision)}), or set precision={loaded!r}."
        )


@contextmanager
def _seeded(seed: int, epoch: int, device: torch.device) -> Iterator[None]:
    """Global generators seeded for one epoch of one run; the caller's state is put back."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        # any injective mixture does; seeds of epochs of neighbouring runs must differ
        torch.manual_seed((seed * 100_003 + epoch) % 2**63)
        yield


class _LossWatch:
    """Mean loss and median time of an epoch's steps; raises :class:`Diverged` at a loss that is not finite."""

    def __init__(
        self, device: torch.device, *, epoch: int, steps: int, on_steps: Callable[[int, int, int], None] | None
    ) -> None:
        self._every = 1 if device.type == "cpu" else _LOSS_CHECK_STEPS
        self._epoch, self._steps, self._on_steps = epoch, steps, on_steps
        self._pending: list[Tensor] = []
        self._pending_rows: list[int] = []
        self._sum, self._rows, self._done = 0.0, 0, 0
        self._times: list[float] = []
        self._since = time.perf_counter()

    def add(self, loss: Tensor, *, rows: int) -> None:
        self._pending.append(loss)
        self._pending_rows.append(rows)
        if len(self._pending) >= self._every:
            self.check()

    def check(self) -> None:
        """Look at the losses of all steps so far; on a GPU this waits for them."""
        if not self._pending:
            return
        values = torch.stack(self._pending).tolist()
        now = time.perf_counter()
        self._times += [(now - self._since) / len(values)] * len(values)
        self._since = now
        for value, rows in zip(values, self._pending_rows, strict=True):
            self._done += 1
            if not math.isfinite(value):
                raise Diverged(
                    "training loss", value, epoch=self._epoch, step=(self._epoch - 1) * self._steps + self._done
                )
            self._sum += value * rows
            self._rows += rows
        self._pending.clear()
        self._pending_rows.clear()
        if self._on_steps is not None:
            self._on_steps(self._epoch, self._done, self._steps)

    @property
    def mean(self) -> float:
        return self._sum / self._rows

    @property
    def step_seconds(self) -> float:
        return statistics.median(self._times)
