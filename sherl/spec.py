"""Settings that every part of sherl shares: what a task is and how a model is trained."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from sherl.errors import SpecError

Precision = Literal["fp32", "bf16"]

_TUPLES = ("image_size", "image_mean", "image_std")


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """What is to be learnt.

    kind: the name of a registered task (``classification``, ``regression``, ``text-to-text``,
    ``language-modelling``; see :mod:`sherl.tasks`).
    class_names: the label strings in the order of their indices; empty where there are none.
    metric: the metric that the task is judged by; higher is better for every metric of this library.
    pair: whether an example is a pair of texts.
    target_mean, target_std: of the training part's targets, in the data's own units (regression); the head learns
    (target - mean) / std, so that a rating in [-4, 4] and a price in the millions train alike.
    target_length: tokens that are written at most for an answer, the end token included (text-to-text).
    label_tokens: of text-to-text with ``class_names``, the token ids of each of these, the end token included.
    template: how a text (and its pair) becomes the input; empty where it is the input as it is.
    image_size: height and width in pixels; empty where examples are texts. image_mean, image_std: by which channels in
    [0, 1] are normalised. image_resample: the filter that images are resized with, by Pillow's number (2 is bilinear).
    """

    kind: str
    metric: str
    class_names: tuple[str, ...] = ()
    pair: bool = False
    target_mean: float = 0.0
    target_std: float = 1.0
    target_length: int = 0
    label_tokens: tuple[tuple[int, ...], ...] = ()
    template: str = ""
    image_size: tuple[int, ...] = ()
    image_mean: tuple[float, ...] = ()
    image_std: tuple[float, ...] = ()
    image_resample: int = 2

    @property
    def num_outputs(self) -> int:
        """Width of the head: the number of classes, or 1 for regression."""
        return max(1, len(self.class_names))

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dictionary; :meth:`from_dict` reads it back."""
        lists = {"class_names": list(self.class_names), "label_tokens": [list(ids) for ids in self.label_tokens]}
        pictures = {key: list(getattr(self, key)) for key in _TUPLES}
        return {**asdict(self), **lists, **pictures}

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> TaskSpec:
        """The task that :meth:`to_dict` wrote."""
        tokens = tuple(tuple(ids) for ids in plain.get("label_tokens", ()))
        tuples = {key: tuple(plain.get(key, ())) for key in ("class_names", *_TUPLES)}
        return cls(**{**plain, **tuples, "label_tokens": tokens})


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How a model is trained: AdamW with linear warm-up and linear decay.

    batch_size: rows in one optimizer step; accumulation: into how many micro-batches a step is cut (it changes
    memory, not results). eval_batch_size: rows that evaluation goes through at once; None takes those of a micro-batch.
    warmup_steps: absolute number of steps; None takes ``warmup_fraction`` of all steps.
    seed: of weights that are drawn, of dropout and of the order of batches.
    """

    learning_rate: float
    batch_size: int = 32
    epochs: int = 4
    weight_decay: float = 0.01
    warmup_fraction: float = 0.1
    warmup_steps: int | None = None
    max_grad_norm: float | None = 1.0
    precision: Precision = "fp32"
    accumulation: int = 1
    eval_batch_size: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        problems = []
        if not self.learning_rate > 0:
            problems.append(f"learning_rate must be above 0, {self.learning_rate!r} was given")
        for key in ("batch_size", "epochs", "accumulation", "eval_batch_size"):
            value = getattr(self, key)
            if key == "eval_batch_size" and value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                problems.append(f"{key} must be a whole number of at least 1, {value!r} was given")
        if not 0 <= self.warmup_fraction <= 1:
            problems.append(f"warmup_fraction must lie in [0, 1], {self.warmup_fraction!r} was given")
        if self.warmup_steps is not None and self.warmup_steps < 0:
            problems.append(f"warmup_steps must be at least 0, {self.warmup_steps!r} was given")
        if self.weight_decay < 0:
            problems.append(f"weight_decay must be at least 0, {self.weight_decay!r} was given")
        if self.max_grad_norm is not None and not self.max_grad_norm > 0:
            problems.append(f"max_grad_norm must be above 0 or absent, {self.max_grad_norm!r} was given")
        if self.precision not in ("fp32", "bf16"):
            problems.append(f"precision must be fp32 or bf16, {self.precision!r} was given")
        if problems:
            raise SpecError("Training settings: " + "; ".join(problems) + ".")

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dictionary; :meth:`from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> TrainingConfig:
        """The settings that :meth:`to_dict` wrote.

        Raises:
            SpecError: a key is unknown, learning_rate is missing, or a value is out of range.
        """
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(plain) - known)
        if unknown:
            raise SpecError(f"Unknown training settings {unknown}; known are {sorted(known)}.")
        if "learning_rate" not in plain:
            raise SpecError("Training settings need a learning_rate.")
        return cls(**plain)
