"""What a late route is, and how its settings are read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from torch import nn

from sherl.backbones import Backbone
from sherl.errors import SpecError
from sherl.methods.settings import read_named
from sherl.registry import Registry


@dataclass
class LatePart:
    """A late route that has been put on blocks.

    parameters: what it trains, by names that are stable across runs. module: the added modules that do not lie inside
    the backbone's own tree (None where there are none); whoever holds it switches it between train and eval.
    layers: the blocks (0-based, over all stacks) that it acts in, where its parameters' names do not say so.
    taken_off_by: called in turn by :meth:`remove`, which leaves the backbone as it was, values included.
    """

    parameters: dict[str, nn.Parameter] = field(default_factory=dict)
    module: nn.Module | None = None
    layers: tuple[int, ...] = ()
    taken_off_by: list[Callable[[], object]] = field(default_factory=list)

    def remove(self) -> None:
        """Take it off the backbone. A second call does nothing."""
        while self.taken_off_by:
            self.taken_off_by.pop()()


@dataclass(frozen=True, kw_only=True)
class LateRoute(ABC):
    """Settings of a late route; a subclass is registered in :data:`LATE_ROUTES` under its ``name``."""

    name: ClassVar[str]

    def problems(self) -> list[str]:
        """What is wrong with the settings, each with the value given and what is allowed."""
        return []

    def __post_init__(self) -> None:
        if found := self.problems():
            raise SpecError(f"Late route {self.name}: " + "; ".join(found) + ".")

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dictionary; :func:`late_route_from` reads it back."""
        return {"name": self.name, **asdict(self)}

    @abstractmethod
    def put_on(self, backbone: Backbone, layers: Sequence[int]) -> LatePart:
        """Put it on these blocks (0-based) of a frozen backbone; initial values come from torch's global generator.

        Raises:
            UnsupportedBackboneError: the family cannot carry it.
            SpecError: the settings do not suit the backbone's sizes.
        """


LATE_ROUTES: Registry[type[LateRoute]] = Registry("late route")


def late_route_from(value: object) -> LateRoute:
    """A late route from its name, from a dictionary ``{"name": ..., **settings}``, or from itself.

    Raises:
        SpecError: no such route, or unknown or bad settings; the message has all problems, with the nearest names.
    """
    return read_named(value, LateRoute, LATE_ROUTES)  # type: ignore[type-abstract]
