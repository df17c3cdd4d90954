"""What fits the cap: predictions for configurations, refusals with their reason, and a summary for people."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import Protocol

from autotune.outcome import Candidate, MemoryFigures, Refusal
from autotune.search import RefusedCandidate
from autotune.space import SearchSpace, shape_key
from autotune.units import format_bytes, format_duration
from sherl.errors import SherlError


class Predicts(Protocol):
    """What gives the memory of a configuration before it starts."""

    def predict(self, candidate: Candidate) -> MemoryFigures:
        """Predicted figures; ``device`` is what a cap compares."""
        ...

    def learn_breach(self, candidate: Candidate, held_bytes: int, *, refused_by_cap: bool = True) -> None:
        """A trial ended for want of memory; the next prediction of its shape is more than it held."""
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

    Called with a candidate it gives None where it fits, else the refusal. What the backbone cannot carry (prompts on a
    family that has no place for them, say) is refused too.
    """

    def __init__(self, predictor: Predicts, cap: int) -> None:
        self._predictor = predictor
        self.cap = cap
        self._figures: dict[str, MemoryFigures] = {}
        self._refused: dict[str, RefusedCandidate] = {}

    @property
    def refused(self) -> list[RefusedCandidate]:
        """Every shape that was refused so far."""
        return list(self._refused.values())

    def figures(self, candidate: Candidate) -> MemoryFigures:
        """The predicted figures of a candidate."""
        key = shape_key(candidate)
        if key not in self._figures:
            self._figures[key] = self._predictor.predict(candidate)
        return self._figures[key]

    def learn_breach(self, candidate: Candidate, held_bytes: int, *, refused_by_cap: bool) -> None:
        """A trial of this candidate ended for want of memory (see the predictor's); predictions are made anew after it."""
        self._predictor.learn_breach(candidate, held_bytes, refused_by_cap=refused_by_cap)
        self._figures.clear()

    def __call__(self, candidate: Candidate) -> Refusal | None:
        key = shape_key(candidate)
        if key in self._refused:
            return Refusal(reason=self._refused[key].reason, predicted=self._refused[key].predicted)
        try:
            figures = self.figures(candidate)
        except SherlError as error:
            return self._refuse(candidate, Refusal(reason=str(error)))
        if figures.device <= self.cap:
            return None
        return self._refuse(candidate, Refusal(reason=self._reason(figures), predicted=figures))

    def _refuse(self, candidate: Candidate, refusal: Refusal) -> Refusal:
        self._refused[shape_key(candidate)] = RefusedCandidate(candidate, refusal.reason, refusal.predicted)
        return refusal

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
        devices: list[int] = []
        refused = predicted = 0
        for candidate in shapes:
            refusal = self(candidate)
            refused += refusal is not None
            predicted += 1
            figures = refusal.predicted if refusal is not None else self.figures(candidate)
            if figures is not None:
                devices.append(figures.device)
            if time.monotonic() - begin > seconds:
                break
        return PlanSummary(
            shapes=len(shapes),
            predicted=predicted,
            refused=refused,
            least=min(devices, default=None),
            most=max(devices, default=None),
            cap=self.cap,
            seconds=time.monotonic() - begin,
        )
