"""Where values come from: a sampler, chance, or an enumeration; a search space asks and does not know which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

Scalar = str | int | float | bool


class Suggest(Protocol):
    """Gives one value for a named parameter. The rules for a name are the same in every call."""

    def categorical(self, name: str, choices: Sequence[Scalar]) -> Scalar:
        """One of the choices."""
        ...

    def integer(self, name: str, low: int, high: int, *, log: bool = False, step: int = 1) -> int:
        """A whole number in [low, high], low plus a multiple of step."""
        ...

    def real(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """A number in [low, high]."""
        ...
