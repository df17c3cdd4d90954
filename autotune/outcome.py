"""What became of a trial: a status, a reason, figures. Plain data that travels between processes as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any


class Status(StrEnum):
    """How a trial ended. ``REFUSED`` is never a trial's: such a configuration was not started."""

    COMPLETE = "complete"
    STOPPED = "stopped"  # stopped early by the scheduler
    OVER_CAP = "over_cap"  # ended by the guard, or the rehearsal showed it
    OUT_OF_MEMORY = "out_of_memory"
    DIVERGED = "diverged"  # a loss or a metric that is not finite
    INTERRUPTED = "interrupted"  # the driver, the node or the time budget ended it; it is drawn again
    FAILED = "failed"
    REFUSED = "refused"  # predicted to exceed the cap, not started

    @property
    def has_metric(self) -> bool:
        """Whether a trial of this status has a metric that may stand on the front."""
        return self is Status.COMPLETE


@dataclass(frozen=True, kw_only=True)
class MemoryFigures:
    """The three figures of memory, in bytes; they are never mixed up.

    allocated: peak of live tensor bytes. reserved: what the caching allocator holds of the device (None where there
    is no caching allocator). device: what the process holds of the device in all; every memory cap compares this.
    meter: which source of truth ``device`` came from, e.g. ``process private bytes``, ``nvml``, ``prediction``.
    """

    allocated: int
    device: int
    meter: str
    reserved: int | None = None


@dataclass(frozen=True, kw_only=True)
class EpochReport:
    """What a trial says after an epoch. ``epoch`` counts from 1; ``metrics`` are of the validation part."""

    epoch: int
    train_loss: float
    metrics: dict[str, float]
    seconds: float  # since the trial's training began


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one trial ended.

    metric: the study's metric on the validation part, at the best epoch, whose weights were kept.
    metrics: all validation metrics at that epoch. peak: measured; predicted: what was predicted before the start.
    seconds: wall time of the whole trial; step_seconds: median time of one optimizer step.
    checkpoint: folder of the kept weights. details: anything else worth keeping, JSON only.
    memory_over_time: what the process held of the device (bytes), at seconds since its start; the highest reading of each
    stretch of time, thinned to a few hundred pairs.
    """

    status: Status
    reason: str = ""
    metric: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    best_epoch: int | None = None
    epochs: tuple[EpochReport, ...] = ()
    peak: MemoryFigures | None = None
    predicted: MemoryFigures | None = None
    seconds: float = 0.0
    step_seconds: float | None = None
    trainable_parameters: int | None = None
    checkpoint: str | None = None
    memory_over_time: tuple[tuple[float, int], ...] = ()
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def unread(self) -> str | None:
        """Why it computed hidden states itself that it was to read from a store; None where it did as it was to."""
        told = self.details.get("features") or {}
        return str(told.get("why") or "no reason was told") if told.get("read") is False else None

    def excused(self) -> Outcome:
        """As interrupted, so that it is started again, where it took too much memory because it could not read; else as it is."""
        if self.unread is None or self.status not in (Status.OVER_CAP, Status.OUT_OF_MEMORY):
            return self
        reason = f"Its prediction reckons with hidden states that it could not read, and without them: {self.reason}"
        return replace(self, status=Status.INTERRUPTED, reason=reason)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dictionary; :meth:`from_dict` reads it back to an equal outcome."""
        plain = asdict(self)
        plain["status"] = self.status.value
        plain["epochs"] = [asdict(report) for report in self.epochs]
        return plain

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Outcome:
        """The outcome that :meth:`to_dict` wrote.

        Raises:
            TypeError: a key is unknown or one is missing.
            ValueError: the status is unknown.
        """
        values = dict(plain)
        values["status"] = Status(values["status"])
        values["epochs"] = tuple(EpochReport(**report) for report in values.get("epochs", ()))
        values["memory_over_time"] = tuple((float(at), int(held)) for at, held in values.get("memory_over_time", ()))
        for key in ("peak", "predicted"):
            if values.get(key) is not None:
                values[key] = MemoryFigures(**values[key])
        return cls(**values)


@dataclass(frozen=True, kw_only=True)
class InferenceFigures:
    """What answering with the kept weights takes, measured in a process of its own under the study's cap.

    peak: while one batch of ``batch_rows`` rows and single rows are answered, the rows with the most tokens.
    latency_seconds: median wall time of the answer to one row alone, from its prepared tensors to the answer's tensors.
    rows_per_second: of batches of ``batch_rows``. threads: of the CPU. device: its name, without which no latency means
    anything.
    """

    peak: MemoryFigures
    latency_seconds: float
    rows_per_second: float
    batch_rows: int
    threads: int
    device: str

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> InferenceFigures:
        """The figures that :func:`dataclasses.asdict` gave.

        Raises:
            TypeError: a key is unknown or one is missing.
        """
        return cls(**{**plain, "peak": MemoryFigures(**plain["peak"])})


@dataclass(frozen=True, kw_only=True)
class Confirmation:
    """One more training of a member of the front, the same but for its seed, and how it ended."""

    seed: int
    outcome: Outcome


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One configuration that may be tried.

    method: ``{"name": "sherl", "reduction_factor": 8, ...}``, what :func:`sherl.methods.method_from_dict` reads.
    training: the keys of :class:`sherl.spec.TrainingConfig` that the space varies or fixes (learning_rate, batch_size, …).
    params: the flat parameters as the search space names them, what the study's record holds.
    plan: the memory plan that it runs with (:mod:`autotune.memory.plans`); empty where it runs as it was asked for.
        Two candidates that differ in their plans alone are the same configuration.
    """

    method: dict[str, Any]
    training: dict[str, Any]
    params: dict[str, Any]
    plan: dict[str, Any] = field(default_factory=dict)

    @property
    def realised(self) -> Candidate:
        """What is trained: method and training settings with the plan in them."""
        method = {**self.method, **{key: value for key, value in self.plan.items() if key in self.method}}
        rest = {key: value for key, value in self.plan.items() if key not in self.method}
        return replace(self, method=method, training={**self.training, **rest}, plan={})

    @property
    def label(self) -> str:
        """A short name for tables and plots, e.g. ``sherl r=8 multi@-2 lora(8)``."""
        method = self.method
        words = [str(method["name"])]
        if "reduction_factor" in method:
            words.append(f"r={method['reduction_factor']}")
        if method.get("regulate") is False:
            words.append("shallow")
        elif "insertion" in method:
            words.append(f"{method['insertion']}@{method.get('start_layer', -1)}")
        if method.get("aggregation", "mtsa") != "mtsa":
            words.append(str(method["aggregation"]))
        if method.get("kept_layers") is not None and method["kept_layers"] != "all":
            kept = method["kept_layers"]
            words.append(kept if isinstance(kept, str) else f"layers={','.join(map(str, kept))}")
        if method.get("output") == "added":
            words.append("added")
        late = method.get("late_route")
        if isinstance(late, dict) and late.get("name", "none") != "none":
            size = next((value for key, value in late.items() if key != "name"), None)
            words.append(f"{late['name']}({size})" if size is not None else str(late["name"]))
        if "rank" in method:
            words.append(f"rank={method['rank']}")
        if method.get("activation_checkpointing"):
            words.append("ckpt")
        words.append(f"b{self.training['batch_size']}" if "batch_size" in self.training else "")
        if self.plan.get("activation_checkpointing"):
            words.append("+ckpt")
        if "accumulation" in self.plan:
            words.append(f"+accumulation({self.plan['accumulation']})")
        if "eval_batch_size" in self.plan:
            words.append(f"+eval_batch_size({self.plan['eval_batch_size']})")
        return " ".join(word for word in words if word)


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why a configuration is not started: a sentence for people, and what was predicted for it, where something was."""

    reason: str
    predicted: MemoryFigures | None = None


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """One row of the study's record, as search writes it and tracking, report and deploy read it.

    number: the trial's number in the record. outcome is None while the trial runs.
    test_metrics: scored once, at the end, for members of the front; never read by a choice.
    confirmations: trainings on other seeds, in the order of their seeds; empty: it is unconfirmed.
    inference: what answering takes; measured for members of the front alone.
    """

    number: int
    candidate: Candidate
    seed: int
    outcome: Outcome | None = None
    test_metrics: dict[str, float] | None = None
    confirmations: tuple[Confirmation, ...] = ()
    inference: InferenceFigures | None = None
