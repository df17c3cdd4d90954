"""What fits the cap: predictions for configurations, refusals with their reason, and a summary for people."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from autotune.outcome import Candidate, MemoryFigures, Refusal
from autotune.space import SearchSpace, shape_key
from autotune.units import format_bytes, format_duration


class Predicts(Protocol):
    """What gives the memory of a configuration before it starts."""

    def predict(self, candidate: Candidate) -> MemoryFigures:
        """Predicted figures; ``device`` is what a cap compares."""
        ...


@dataclass(frozen=True, kw_only=True)
class PlanSummary:
    """What the predictions say of a space before the search: how many shapes it has, were predicted, do not fit."""

    shapes: int
    predicted: int
    refused: int
    least: int | None
    most: int | None
    cap: int
    seconds: float

    @property
    def sentence(self) -> str:
        """The summary in words."""
        if self.least is None or self.most is None:
            return f"{self.shapes} configurations that differ in memory, each is predicted when it is drawn"
        reach = f"device {format_bytes(self.least)} to {format_bytes(self.most)}"
        later = "" if self.predicted == self.shapes else " (the others are predicted when they are drawn)"
        return (
            f"{self.predicted} of {self.shapes} configurations that differ in memory predicted in "
            f"{format_duration(self.seconds)}{later}: {reach}; {self.refused} do not fit {format_bytes(self.cap)}"
        )


class FitCheck:
    """Whether a configuration fits the cap by its prediction; keeps every prediction by shape.

    Called with a candidate it gives None where it fits, else the refusal; ``on_refusal`` hears of each refused shape once.
    """

    def __init__(
        self, predictor: Predicts, cap: int, on_refusal: Callable[[Candidate, Refusal], None] | None = None
    ) -> None:
        self._predictor = predictor
        self.cap = cap
        self._on_refusal = on_refusal
        self._figures: dict[str, MemoryFigures] = {}
        self._refused: dict[str, tuple[Candidate, Refusal]] = {}

    def figures(self, candidate: Candidate) -> MemoryFigures:
        """The predicted figures of a candidate."""
        key = shape_key(candidate)
        if key not in self._figures:
            self._figures[key] = self._predictor.predict(candidate)
        return self._figures[key]

    def __call__(self, candidate: Candidate) -> Refusal | None:
        figures = self.figures(candidate)
        if figures.device <= self.cap:
            return None
        key = shape_key(candidate)
        if key not in self._refused:
            refusal = Refusal(reason=self._reason(figures), predicted=figures)
            self._refused[key] = (candidate, refusal)
            if self._on_refusal is not None:
                self._on_refusal(candidate, refusal)
        return self._refused[key][1]

    def _reason(self, figures: MemoryFigures) -> str:
        return (
            f"its predicted peak of {format_bytes(figures.device)} is over the cap of {format_bytes(self.cap)} "
            f"(tensors {format_bytes(figures.allocated)})"
        )

    def survey(self, space: SearchSpace, *, seconds: float, seed: int) -> PlanSummary:
        """Predicts as much of the space as the time allows, in an order of chance so that every part of it is seen."""
        begin = time.monotonic()
        shapes = list(space.shapes())
        random.Random(seed).shuffle(shapes)
        seen: list[MemoryFigures] = []
        refused = 0
        for candidate in shapes:
            refused += self(candidate) is not None
            seen.append(self.figures(candidate))
            if time.monotonic() - begin > seconds:
                break
        devices = [figures.device for figures in seen]
        return PlanSummary(
            shapes=len(shapes),
            predicted=len(seen),
            refused=refused,
            least=min(devices, default=None),
            most=max(devices, default=None),
            cap=self.cap,
            seconds=time.monotonic() - begin,
        )
