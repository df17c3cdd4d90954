"""Picking one point of the front by a rule that a person states. Reads validation figures only, never the test part's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from autotune.errors import SelectionError
from autotune.report.explanation import alternative_words, explain, nothing_meets
from autotune.report.front import Point, pareto_front
from autotune.report.ranking import ranked, standing
from autotune.report.rule import Preference, Rule
from autotune.units import count_words

STEP_BYTES = 10**9
"""How much more or less device memory an alternative is told for."""


@dataclass(frozen=True, kw_only=True)
class Alternative:
    """What the same rule would choose under another cap of device memory.

    memory_cap: bytes; 0 or less leaves nothing. point: None where no member qualifies. words: a sentence.
    """

    memory_cap: int
    point: Point | None
    words: str

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dictionary; of the point its number alone."""
        number = None if self.point is None else self.point.number
        return {"memory_cap": self.memory_cap, "number": number, "words": self.words}


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The chosen point, why it was chosen, and what would have been chosen without it.

    more, less: with 1 GB more and less of device memory; None where the chosen point's device peak is not known.
    """

    point: Point
    explanation: str
    runner_up: Point | None
    more: Alternative | None = None
    less: Alternative | None = None

    @property
    def text(self) -> str:
        """All of it for people: the explanation, then a line for more and one for less memory."""
        return "\n".join([self.explanation, *(one.words for one in (self.more, self.less) if one is not None)])

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dictionary."""
        return {
            "point": self.point.to_dict(),
            "explanation": self.explanation,
            "runner_up": self.runner_up.to_dict() if self.runner_up else None,
            "one_gb_more": self.more.to_dict() if self.more else None,
            "one_gb_less": self.less.to_dict() if self.less else None,
        }


def select(
    points: Iterable[Point],
    *,
    memory_cap: int | None = None,
    inference_memory_cap: int | None = None,
    min_metric: float | None = None,
    max_latency: float | None = None,
    prefer: Preference = "metric",
) -> Selection:
    """The best member of the front that meets the conditions (see :class:`Rule`), in the order of
    :mod:`autotune.report.ranking`.

    Raises:
        SelectionError: nothing completed, or no member of the front meets the conditions; the message says what was
            asked and which member comes nearest. Also where a condition asks for figures that were measured for no member.
        ConfigError: a condition makes no sense.
    """
    rule = Rule(
        memory_cap=memory_cap,
        inference_memory_cap=inference_memory_cap,
        min_metric=min_metric,
        max_latency=max_latency,
        prefer=prefer,
    )
    everything = list(points)
    front = pareto_front(everything)
    if not front:
        raise SelectionError(
            f"There is nothing to select: of {count_words(len(everything), 'finished trial')} none completed with a finite "
            "metric. See `autotune report` for how each ended, or run more trials with `autotune resume`."
        )
    if rule.needs_inference and all(point.inference is None for point in front):
        raise SelectionError(
            f"Latency and memory while answering were measured for none of the {count_words(len(front), 'member')} of the "
            "front. `autotune confirm` measures them; then select again, or leave --max-latency, --inference-memory-cap "
            "and --prefer latency out."
        )
    fitting = [point for point in front if rule.meets(point)]
    if not fitting:
        raise SelectionError(nothing_meets(front, rule))
    stand = standing(fitting)
    order = ranked(stand, prefer)
    chosen, runner_up = order[0], (order[1] if len(order) > 1 else None)
    base = chosen.device if memory_cap is None else memory_cap
    return Selection(
        point=chosen,
        explanation=explain(chosen, runner_up, stand, front, rule),
        runner_up=runner_up,
        more=None if base is None else _alternative(front, rule, chosen, base, STEP_BYTES),
        less=None if base is None else _alternative(front, rule, chosen, base, -STEP_BYTES),
    )


def _alternative(front: Sequence[Point], rule: Rule, chosen: Point, base: int, step: int) -> Alternative:
    cap = base + step
    found: Point | None = None
    if cap > 0:
        other = replace(rule, memory_cap=cap)
        fitting = [point for point in front if other.meets(point)]
        found = ranked(standing(fitting), rule.prefer)[0] if fitting else None
    return Alternative(memory_cap=cap, point=found, words=alternative_words(found, chosen, base, step))
