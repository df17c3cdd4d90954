"""What a trial is asked to do and what it reports: plain data that travels between processes and machines."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from autotune.outcome import EpochReport, MemoryFigures, Outcome
from autotune.trial.ancestry import Ancestor

#: Folder of the kept weights inside a trial's ``output_dir``.
CHECKPOINT_FOLDER = "checkpoint"
#: What a resumable training run goes on from.
STATE_FILE = "training.state"
#: Everything that a trial's process writes to its standard output and error.
LOG_FILE = "trial.log"


@dataclass(frozen=True, kw_only=True)
class TrialRequest:
    """One trial.

    number: the trial's number in the study's record.
    kind: ``train`` trains and keeps the best epoch's weights; ``score`` evaluates ``checkpoint`` once on ``part``;
        ``measure`` answers rows of ``part`` with it, for the memory and the time that this takes.
    backbone_source: what :func:`sherl.backbones.load_backbone` reads. prepared_dir: a folder that
        :meth:`sherl.data.PreparedData.open` reads. method, training: dictionaries of :mod:`sherl.methods` and
        :class:`sherl.spec.TrainingConfig`.
    memory_cap: bytes that the process may hold of the device, its imports included.
    metric: the metric that tells the best epoch; None takes the task's.
    predicted: figures from before the start; None when nothing is known, then the trial gets the whole budget. On a CPU
        it also says how the process keeps its heap (:func:`autotune.memory.predict.heap_plan_of`).
    threads: of the CPU; part of what makes a trial repeat bit for bit.
    output_dir: folder of this trial alone; created where it is missing.
    driver: the process that drives the study; a trial ends when it dies.
    features: what it reads of frozen computation from a store, as :class:`autotune.features.shared.SharedFeatures` writes
        it; None: it computes everything itself.
    resumable: whether a training run keeps a state behind each epoch, and goes on from it where it is there.
    settings: anything else that the target reads; JSON only.
    """

    number: int
    backbone_source: str
    prepared_dir: str
    output_dir: str
    memory_cap: int
    method: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    kind: Literal["train", "score", "measure"] = "train"
    checkpoint: str | None = None
    part: Literal["valid", "test"] = "test"
    metric: str | None = None
    predicted: MemoryFigures | None = None
    device: Literal["cpu", "cuda"] = "cpu"
    threads: int = 1
    driver: Ancestor | None = None
    features: dict[str, Any] | None = None
    resumable: bool = False
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def checkpoint_dir(self) -> Path:
        """Where a trial of kind ``train`` keeps its best weights."""
        return Path(self.output_dir) / CHECKPOINT_FOLDER

    @property
    def state_file(self) -> Path | None:
        """What a resumable training run goes on from."""
        return Path(self.output_dir) / STATE_FILE if self.resumable else None

    @property
    def log_file(self) -> Path:
        """Where the trial's process writes its standard output and error."""
        return Path(self.output_dir) / LOG_FILE

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dictionary; :meth:`from_dict` reads it back to an equal request."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> TrialRequest:
        """The request that :meth:`to_dict` wrote.

        Raises:
            TypeError: a key is unknown or one is missing.
        """
        values = dict(plain)
        if values.get("predicted") is not None:
            values["predicted"] = MemoryFigures(**values["predicted"])
        if values.get("driver") is not None:
            values["driver"] = Ancestor(**values["driver"])
        return cls(**values)


@dataclass(frozen=True)
class Rehearsed:
    """The rehearsal is over and fits: the peak of the two steps and the evaluation step that need the most."""

    figures: MemoryFigures


@dataclass(frozen=True)
class Unread:
    """The trial computes all of its hidden states itself, though it was to read some from a store; why, in words."""

    why: str


@dataclass(frozen=True)
class Steps:
    """So many steps of an epoch are done; told every few seconds. epoch: counts from 1. total: of the epoch."""

    epoch: int
    done: int
    total: int


@dataclass(frozen=True)
class Epoch:
    """An epoch is over."""

    report: EpochReport


@dataclass(frozen=True)
class Finished:
    """The trial is over, one way or another; the last message of every trial."""

    outcome: Outcome


Message = Unread | Rehearsed | Steps | Epoch | Finished


def message_to_json(message: Message) -> str:
    """One line of JSON; :func:`message_from_json` reads it back to an equal message.

    NaN and infinities are kept (as JavaScript writes them), since a diverged trial reports them.
    """
    if isinstance(message, Unread):
        return json.dumps({"unread": message.why})
    if isinstance(message, Rehearsed):
        return json.dumps({"rehearsed": asdict(message.figures)})
    if isinstance(message, Steps):
        return json.dumps({"steps": asdict(message)})
    if isinstance(message, Epoch):
        return json.dumps({"epoch": asdict(message.report)})
    return json.dumps({"finished": message.outcome.to_dict()})


def message_from_json(text: str) -> Message:
    """The message that :func:`message_to_json` wrote.

    Raises:
        ValueError: the text is no message.
    """
    plain = json.loads(text)
    match plain:
        case {"unread": why}:
            return Unread(why)
        case {"rehearsed": figures}:
            return Rehearsed(MemoryFigures(**figures))
        case {"steps": steps}:
            return Steps(**steps)
        case {"epoch": report}:
            return Epoch(EpochReport(**report))
        case {"finished": outcome}:
            return Finished(Outcome.from_dict(outcome))
    raise ValueError(f"Not a trial's message: {text[:200]!r}. Known are unread, rehearsed, steps, epoch and finished.")
