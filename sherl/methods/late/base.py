"""What a late route is, and how its settings are read."""

from __future__ import annotations

import difflib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar

from torch import nn

from sherl.backbones import Backbone
from sherl.errors import SpecError
from sherl.registry import Registry


@dataclass
class LatePart:
    """A late route that has been put on blocks.

    parameters: what it trains, by names that are stable across runs. module: the added modules that do not lie inside
    the backbone's own tree (None where there are none); whoever holds it switches it between train and eval.
    taken_off_by: called in turn by :meth:`remove`, which leaves the backbone as it was, values included.
    """

    parameters: dict[str, nn.Parameter] = field(default_factory=dict)
    module: nn.Module | None = None
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
    if isinstance(value, LateRoute):
        return value
    if isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, Mapping):
        raise SpecError(
            f"A late route is given by its name or as a dictionary with one, {value!r} was given. "
            f"Known are: {', '.join(LATE_ROUTES)}."
        )
    settings = dict(value)
    name = settings.pop("name", None)
    if not isinstance(name, str) or name not in LATE_ROUTES:
        given = "it has no name" if name is None else f"unknown name {name!r}"
        hint = "" if name is None else _nearest(name, LATE_ROUTES.names())
        raise SpecError(f"Late route: {given}.{hint} Known are: {', '.join(LATE_ROUTES)}.")
    route = LATE_ROUTES.get(name)
    known = tuple(each.name for each in fields(route))
    problems = [
        f"unknown setting {key!r} ({_nearest(key, known).strip() or 'known are: ' + (', '.join(known) or 'none')})"
        for key in settings
        if key not in known
    ]
    try:
        built = route(**{key: setting for key, setting in settings.items() if key in known})
    except SpecError as error:
        if not problems:
            raise
        raise SpecError(f"{str(error).rstrip('.')}; {'; '.join(problems)}.") from None
    if problems:
        raise SpecError(f"Late route {name}: " + "; ".join(problems) + ".")
    return built


def whole_number(key: str, value: object) -> list[str]:
    """The problem of a setting that must be a whole number of at least 1, if it has one."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return []
    return [f"{key} must be a whole number of at least 1, {value!r} was given"]


def positive_number(key: str, value: object) -> list[str]:
    """The problem of a setting that must be a finite number above 0, if it has one."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf:
        return []
    return [f"{key} must be a number above 0, {value!r} was given"]


def _nearest(name: object, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(str(name), known, n=1)
    return f" Did you mean {near[0]!r}?" if near else ""
