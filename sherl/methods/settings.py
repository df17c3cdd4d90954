"""Reading settings that a name stands before, and what a single setting may be."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, TypeVar

from sherl.errors import SpecError
from sherl.registry import Registry, nearest

Kind = TypeVar("Kind")


def read_named(value: object, base: type[Kind], registry: Registry[type[Kind]]) -> Kind:
    """An entry of the registry from its name, from ``{"name": ..., **settings}``, or from itself.

    Missing settings take their defaults.

    Raises:
        SpecError: no such entry, or unknown, missing or bad settings; the message has all problems, with the nearest
            names.
    """
    if isinstance(value, base):
        return value
    if isinstance(value, str):
        value = {"name": value}
    title = registry.what.capitalize()
    if not isinstance(value, Mapping):
        raise SpecError(
            f"A {registry.what} is given by its name or as a dictionary with one, {value!r} was given. "
            f"Known are: {', '.join(registry)}."
        )
    settings = dict(value)
    name = settings.pop("name", None)
    if not isinstance(name, str) or name not in registry:
        given = "it has no name." if name is None else f"unknown name {name!r}.{nearest(name, registry)}"
        raise SpecError(f"{title}: {given} Known are: {', '.join(registry)}.")
    kind = registry.get(name)
    return _build(kind, settings, f"{title} {name}: ")


def _build(kind: type[Kind], settings: dict[str, Any], prefix: str) -> Kind:
    fields = dataclasses.fields(kind)  # type: ignore[arg-type]  # every entry is a dataclass
    known = [field.name for field in fields]
    problems = [
        f"unknown setting {key!r}.{nearest(key, known)} Known are: {', '.join(known) or 'none'}"
        for key in settings
        if key not in known
    ]
    missing = [
        field.name
        for field in fields
        if field.name not in settings
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    problems += [f"setting {key!r} is missing" for key in missing]
    built = None
    if not missing:
        try:
            built = kind(**{key: value for key, value in settings.items() if key in known})
        except SpecError as error:
            problems.insert(0, str(error).removeprefix(prefix).rstrip("."))
    if problems or built is None:
        raise SpecError(prefix + "; ".join(problems) + ".")
    return built


def flag(key: str, value: object) -> list[str]:
    """The problem of a setting that must be true or false, if it has one."""
    return [] if isinstance(value, bool) else [f"{key} must be true or false, {value!r} was given"]


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
