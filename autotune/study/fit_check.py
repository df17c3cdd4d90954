"""What fits the cap: predictions for configurations, refusals with their reason, and a summary for people."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

from autotune.memory.plans import plans_for
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

    def calibrate(self, predicted: MemoryFigures, measured: MemoryFigures) -> None:
        """A trial finished with these figures."""
        ...


@dataclass(frozen=True, kw_only=True)
class PlanSummary:
    """What the predictions say of a space before the search: how many shapes it has, were predicted, do not fit the cap, do not
    suit the model or the task."""

    shapes: int
    predicted: int
    refused: int
    unsuited: int
    least: int | None
    most: int | None
    cap: int
    seconds: float

    @property
    def sentence(self) -> str:
        """The summary in words."""
        unsuited = f", {self.unsuited} do not suit the model or the task" if self.unsuited else ""
        if self.least is None or self.most is None:
            if self.unsuited:
                return f"{self.predicted} of {self.shapes} configurations looked at{unsuited}"
            return f"{self.shapes} configurations that differ in memory, each is predicted when it is drawn"
        reach = f"device {format_bytes(self.least)} to {format_bytes(self.most)}"
        later = "" if self.predicted == self.shapes else " (the others are predicted when they are drawn)"
        return (
            f"{self.predicted} of {self.shapes} configurations that differ in memory predicted in "
            f"{format_duration(self.seconds)}{later}: {reach}; {self.refused} do not fit {format_bytes(self.cap)}{unsuited}"
        )


class FitCheck:
    """Whether a configuration fits the cap by its prediction, and with which memory plan; keeps predictions by shape.

    Called with a candidate it gives None where the configuration fits with one of its plans, else the refusal. What
    the backbone cannot carry (prompts on a family that has no place for them, say) is refused too. writes_text: whether
    the task does (:func:`autotune.memory.plans.plans_for`).
    """

    def __init__(self, predictor: Predicts, cap: int, *, writes_text: bool = False) -> None:
        self._predictor = predictor
        self.cap = cap
        self._writes_text = writes_text
        self._figures: dict[str, MemoryFigures] = {}
        self._plans: dict[str, dict[str, Any]] = {}
        self._refused: dict[str, RefusedCandidate] = {}

    @property
    def refused(self) -> list[RefusedCandidate]:
        """Every shape that was refused so far."""
        return list(self._refused.values())

    def figures(self, candidate: Candidate) -> MemoryFigures:
        """The predicted figures of a candidate with the plan that it carries."""
        realised = candidate.realised
        key = shape_key(realised)
        if key not in self._figures:
            self._figures[key] = self._predictor.predict(realised)
        return self._figures[key]

    def planned(self, candidate: Candidate) -> Candidate:
        """The candidate with the fastest memory plan that fits; as it is where none does."""
        if self(candidate) is not None:
            return candidate
        return replace(candidate, plan=self._plans[shape_key(candidate)])

    def cheaper(self, candidate: Candidate) -> Candidate | None:
        """The candidate with the next memory plan after its own that takes fewer tensor bytes and fits; None without one."""
        plans = list(plans_for(candidate, writes_text=self._writes_text))
        now = self.figures(candidate).allocated
        place = next((index for index, other in enumerate(plans) if other.plan == candidate.plan), len(plans))
        later = (other for other in plans[place + 1 :] if self.figures(other).allocated < now)
        return next((other for other in later if self._fits(other)), None)

    def learn_breach(self, candidate: Candidate, held_bytes: int, *, refused_by_cap: bool) -> None:
        """A trial of this candidate ended for want of memory (see the predictor's); predictions are made anew after it."""
        self._predictor.learn_breach(candidate.realised, held_bytes, refused_by_cap=refused_by_cap)
        self.forget()

    def calibrate(self, predicted: MemoryFigures, measured: MemoryFigures) -> None:
        """A trial finished: margins learn (see the predictor's), and predictions are made anew after it."""
        self._predictor.calibrate(predicted, measured)
        self.forget()

    def forget(self) -> None:
        """Predictions are made anew, as what they reckon with has changed.

        What was refused stays so: the record says it, and a margin that narrows later must not contradict it."""
        self._figures.clear()
        self._plans.clear()

    def __call__(self, candidate: Candidate) -> Refusal | None:
        key = shape_key(candidate)
        if key in self._plans:
            return None
        if key in self._refused:
            return Refusal(reason=self._refused[key].reason, predicted=self._refused[key].predicted)
        try:
            figures, plan = self._fastest(candidate)
        except SherlError as error:
            return self._refuse(candidate, Refusal(reason=str(error)))
        if plan is not None:
            self._plans[key] = plan.plan
            return None
        return self._refuse(candidate, Refusal(reason=self._reason(figures), predicted=figures))

    def _fastest(self, candidate: Candidate) -> tuple[MemoryFigures, Candidate | None]:
        """The fastest plan that fits and its figures; without one the figures of the plan that takes least."""
        plans = list(plans_for(candidate, writes_text=self._writes_text))
        if self._fits(plans[0]):
            return self.figures(plans[0]), plans[0]
        if not self._fits(plans[-1]):  # asked second: where this does not fit, the others need no trace
            return self.figures(plans[-1]), None
        found = next(plan for plan in plans[1:] if self._fits(plan))
        return self.figures(found), found

    def _fits(self, candidate: Candidate) -> bool:
        return self.figures(candidate).device <= self.cap

    def _refuse(self, candidate: Candidate, refusal: Refusal) -> Refusal:
        self._refused[shape_key(candidate)] = RefusedCandidate(candidate, refusal.reason, refusal.predicted)
        return refusal

    def _reason(self, figures: MemoryFigures) -> str:
        return (
            f"its predicted peak of {format_bytes(figures.device)} is over the cap of {format_bytes(self.cap)} also with "
            f"the memory plan that takes least (tensors {format_bytes(figures.allocated)})"
        )

    def survey(
        self,
        space: SearchSpace,
        *,
        seconds: float,
        seed: int,
        progress: Callable[[str, int, int], None] = lambda *_: None,
    ) -> PlanSummary:
        """Predicts as much of the space as the time allows, in an order of chance so that every part of it is seen. progress:
        hears of what, how many of how many are done."""
        begin = time.monotonic()
        shapes = list(space.shapes())
        random.Random(seed).shuffle(shapes)
        devices: list[int] = []
        refused = unsuited = predicted = 0
        for candidate in shapes:
            refusal = self(candidate)
            refused += refusal is not None and refusal.predicted is not None
            unsuited += refusal is not None and refusal.predicted is None
            predicted += 1
            progress("configurations predicted", predicted, len(shapes))
            figures = refusal.predicted if refusal is not None else self.figures(self.planned(candidate))
            if figures is not None:
                devices.append(figures.device)
            if time.monotonic() - begin > seconds:
                break
        return PlanSummary(
            shapes=len(shapes),
            predicted=predicted,
            refused=refused,
            unsuited=unsuited,
            least=min(devices, default=None),
            most=max(devices, default=None),
            cap=self.cap,
            seconds=time.monotonic() - begin,
        )
