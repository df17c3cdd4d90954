"""Going through all that a draw could give: the draw is run again and again, each time with the next decisions."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from autotune.errors import ConfigError
from autotune.space.parameters import IntRange
from autotune.space.suggest import Scalar, Suggest

Drawn = TypeVar("Drawn")


def every(
    draw: Callable[[Suggest], Drawn], *, is_free: Callable[[str], bool], fixed: Mapping[str, Any] | None = None
) -> Iterator[Drawn]:
    """Every result of a draw over the values of the parameters that are free.

    ``fixed`` ones have the value given there; the others stay at their first value, real ranges at their lower end.
    """
    decisions: list[list[int]] = []  # [taken, how many there are], as far as the last draw went
    while True:
        walker = _Walker(decisions, is_free, fixed or {})
        yield draw(walker)
        del decisions[walker.depth :]
        while decisions and decisions[-1][0] + 1 == decisions[-1][1]:
            decisions.pop()
        if not decisions:
            return
        decisions[-1][0] += 1


class _Walker:
    def __init__(self, decisions: list[list[int]], is_free: Callable[[str], bool], fixed: Mapping[str, Any]) -> None:
        self.decisions = decisions
        self.fixed = fixed
        self.is_free = is_free
        self.depth = 0

    def _take(self, name: str, options: Sequence[Any]) -> Any:
        if name in self.fixed:
            return self.fixed[name]
        if not self.is_free(name) or len(options) == 1:
            return options[0]
        if self.depth == len(self.decisions):
            self.decisions.append([0, len(options)])
        taken = self.decisions[self.depth][0]
        self.depth += 1
        return options[taken]

    def categorical(self, name: str, choices: Sequence[Scalar]) -> Scalar:
        return self._take(name, choices)  # type: ignore[no-any-return]  # it is one of the choices

    def integer(self, name: str, low: int, high: int, *, log: bool = False, step: int = 1) -> int:
        return self._take(name, IntRange(low, high, step, log).values())  # type: ignore[no-any-return]  # one of them

    def real(self, name: str, low: float, high: float, *, log: bool = False) -> float:  # noqa: ARG002 - never gone through
        return low


class Chance:
    """Values at random, from a generator that the caller seeds; ``fixed`` ones are taken as they are."""

    def __init__(self, rng: random.Random, fixed: Mapping[str, Any] | None = None) -> None:
        self.rng = rng
        self.fixed = dict(fixed or {})

    def categorical(self, name: str, choices: Sequence[Scalar]) -> Scalar:
        return self.fixed[name] if name in self.fixed else self.rng.choice(choices)

    def integer(self, name: str, low: int, high: int, *, log: bool = False, step: int = 1) -> int:
        if name in self.fixed:
            return int(self.fixed[name])
        if log:
            return min(high, max(low, round(_log_uniform(self.rng, low, high))))
        return self.rng.randrange(low, high + 1, step)

    def real(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        if name in self.fixed:
            return float(self.fixed[name])
        value = _log_uniform(self.rng, low, high) if log else self.rng.uniform(low, high)
        return min(high, max(low, value))  # rounding may step over an end


def _log_uniform(rng: random.Random, low: float, high: float) -> float:
    return float(low * (high / low) ** rng.random())


class Recorded:
    """The values of a draw that was recorded; anything that the space does not allow is a problem."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        self.params = params

    def _value(self, name: str, allowed: str, fits: Callable[[Any], bool]) -> Any:
        if name not in self.params:
            raise ConfigError(
                f"The parameter {name} is missing in {dict(self.params)}: it was recorded from another search space."
            )
        value = self.params[name]
        if not fits(value):
            raise ConfigError(f"The parameter {name} is {value!r}, this search space allows {allowed}.")
        return value

    def categorical(self, name: str, choices: Sequence[Scalar]) -> Scalar:
        value = self._value(name, f"one of {list(choices)}", lambda given: given in choices)
        return choices[list(choices).index(value)]

    def integer(self, name: str, low: int, high: int, *, log: bool = False, step: int = 1) -> int:  # noqa: ARG002 - a value fits or not
        return int(self._value(name, f"{low} to {high} by {step}", lambda given: given in range(low, high + 1, step)))

    def real(self, name: str, low: float, high: float, *, log: bool = False) -> float:  # noqa: ARG002 - a value fits or not
        return float(
            self._value(name, f"{low} to {high}", lambda given: isinstance(given, int | float) and low <= given <= high)
        )
