"""The forms a value of a search space can have: fixed, one of several, a range, or one of several variants."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from autotune.space.suggest import Scalar, Suggest
from sherl.registry import nearest

MOST_VALUES = 1000  # an integer range is gone through value by value when a plan is made


@dataclass(frozen=True)
class Fixed:
    """One value; nothing is asked."""

    value: Scalar | None

    def draw(self, name: str, suggest: Suggest) -> Any:  # noqa: ARG002 - the forms are drawn alike
        return self.value

    def values(self) -> tuple[Any, ...]:
        return (self.value,)


@dataclass(frozen=True)
class Choice:
    """One of several values without order."""

    choices: tuple[Scalar, ...]

    def draw(self, name: str, suggest: Suggest) -> Any:
        return suggest.categorical(name, self.choices)

    def values(self) -> tuple[Any, ...]:
        return self.choices


@dataclass(frozen=True)
class IntRange:
    """A whole number from low to high."""

    low: int
    high: int
    step: int = 1
    log: bool = False

    def draw(self, name: str, suggest: Suggest) -> Any:
        return suggest.integer(name, self.low, self.high, log=self.log, step=self.step)

    def values(self) -> tuple[Any, ...]:
        return tuple(range(self.low, self.high + 1, self.step))


@dataclass(frozen=True)
class RealRange:
    """A number from low to high; it never decides how much memory is used."""

    low: float
    high: float
    log: bool = False

    def draw(self, name: str, suggest: Suggest) -> Any:
        return suggest.real(name, self.low, self.high, log=self.log)

    def values(self) -> tuple[Any, ...]:
        """The two ends: what lies between is allowed where both are."""
        return (self.low, self.high)


@dataclass(frozen=True)
class Variants:
    """One of several named parts, each with fields of its own; their names are prefixed with the variant's."""

    options: Mapping[str, Mapping[str, Fixed | Choice | IntRange | RealRange]]

    def draw(self, name: str, suggest: Suggest) -> Any:
        names = tuple(self.options)
        chosen = str(suggest.categorical(name, names)) if len(names) > 1 else names[0]
        fields = {key: field.draw(f"{name}.{chosen}.{key}", suggest) for key, field in self.options[chosen].items()}
        return {"name": chosen, **fields}

    def values(self) -> tuple[Any, ...]:
        return tuple({"name": name} for name in self.options)


Simple = Fixed | Choice | IntRange | RealRange
Parameter = Simple | Variants
Report = Callable[[tuple[str, ...], str], None]
"""Takes a problem: a key path relative to the value that is read, and what is wrong."""

_FORMS = ("choice", "int", "float")


def read_parameter(value: Any, report: Report) -> Parameter | None:
    """The parameter that a value of the YAML file means; None where a problem was reported."""
    if isinstance(value, Mapping):
        if "name" in value:
            return _read_variants(
                [{str(value["name"]): {key: item for key, item in value.items() if key != "name"}}], (), report
            )
        if len(value) == 1 and next(iter(value)) in _FORMS:
            form, inner = next(iter(value.items()))
            if form == "choice":
                return _read_choice(inner, report)
            return _read_range(form, inner, report)
        unknown = [key for key in value if key not in _FORMS] or list(value)
        near = nearest(str(unknown[0]), _FORMS) if unknown else ""
        report(
            (),
            f"{dict(value)!r} was given; allowed are one value, {{choice: [...]}}, {{int: {{low, high, step, log}}}} or {{float: {{low, high, log}}}}.{near}",
        )
        return None
    if isinstance(value, list):
        report((), f"a list was given; write {{choice: {value!r}}} for one of these values")
        return None
    if not _finite(value):
        report((), f"{value!r} was given; allowed are finite numbers")
        return None
    return Fixed(value)


def _read_choice(items: Any, report: Report) -> Parameter | None:
    if not isinstance(items, list) or not items:
        report(("choice",), f"{items!r} was given; allowed is a list of at least one value")
        return None
    if any(isinstance(item, Mapping) for item in items):
        return _read_variants(items, ("choice",), report)
    sound = True
    for position, item in enumerate(items):
        place = ("choice", f"[{position}]")
        if isinstance(item, list) or item is None or not _finite(item):
            report(place, f"{item!r} was given; allowed are texts, finite numbers, true and false")
            sound = False
        elif any(type(item) is type(other) and item == other for other in items[:position]):
            report(place, f"{item!r} was given before; each value is given once")
            sound = False
    if not sound:
        return None
    return Choice(tuple(items)) if len(items) > 1 else Fixed(items[0])


def _read_variants(items: list[Any], inside: tuple[str, ...], report: Report) -> Variants | None:
    options: dict[str, dict[str, Simple]] = {}
    sound = True
    for position, item in enumerate(items):
        place = (*inside, f"[{position}]") if inside else ()
        if isinstance(item, str):
            item = {item: None}
        if not isinstance(item, Mapping) or len(item) != 1 or not isinstance(next(iter(item.values())), Mapping | None):
            report(place, f"{item!r} was given; allowed are a name, or one name with its fields: `- lora: {{rank: 8}}`")
            sound = False
            continue
        name, body = next(iter(item.items()))
        if name in options:
            report(place, f"{name!r} was given before; name it once and put its choices into its fields")
            sound = False
            continue
        options[name] = {}
        for key, value in (body or {}).items():
            inner = (*place, name, key) if inside else (key,)
            field = read_parameter(value, lambda path, text, inner=inner: report((*inner, *path), text))  # type: ignore[misc]  # mypy cannot type a lambda's default
            if isinstance(field, Variants):
                report(inner, "a part of a part cannot have parts of its own")
                field = None
            if field is None:
                sound = False
            else:
                options[name][key] = field
    return Variants(options) if sound else None


def _read_range(form: str, body: Any, report: Report) -> Parameter | None:
    keys = ("low", "high", "step", "log") if form == "int" else ("low", "high", "log")
    if not isinstance(body, Mapping):
        report((form,), f"{body!r} was given; allowed is {{low: …, high: …}} with {', '.join(keys[2:])} as options")
        return None
    before = _Counter(report)
    for key in body:
        if key not in keys:
            before((form, key), f"unknown key.{nearest(key, keys)} Known are: {', '.join(keys)}")
    number = "a whole number" if form == "int" else "a finite number"
    for key in ("low", "high", "step"):
        if key not in body:
            if key != "step":
                before((form,), f"{key} is missing")
        elif key in keys and not _is_number(body[key], whole=form == "int"):
            before((form, key), f"{body[key]!r} was given; allowed is {number}")
    log = body.get("log", False)
    if not isinstance(log, bool):
        before((form, "log"), f"{log!r} was given; allowed are true and false")
    if before.count:
        return None
    low, high, step = body["low"], body["high"], body.get("step", 1)
    if low > high:
        before((form,), f"low {low} is above high {high}")
    if log and low <= 0:
        before((form, "low"), f"{low} was given; a range on a log scale starts above 0")
    if step < 1:
        before((form, "step"), f"{step} was given; allowed is a whole number of at least 1")
    elif log and step != 1:
        before((form, "step"), f"{step} was given; a range on a log scale has no step")
    elif form == "int" and (high - low) // step >= MOST_VALUES:
        before((form,), f"{(high - low) // step + 1} values; allowed are {MOST_VALUES}: give a step, or choices")
    if before.count:
        return None
    if low == high:
        return Fixed(low)
    if form == "int":
        return IntRange(low, low + (high - low) // step * step, step, log)
    return RealRange(float(low), float(high), log)


class _Counter:
    def __init__(self, report: Report) -> None:
        self._report = report
        self.count = 0

    def __call__(self, path: tuple[str, ...], text: str) -> None:
        self.count += 1
        self._report(path, text)


def _finite(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


def _is_number(value: Any, *, whole: bool) -> bool:
    if isinstance(value, bool):
        return False
    return isinstance(value, int) if whole else isinstance(value, int | float) and _finite(value)


def simple_fields(parameter: Parameter) -> Iterator[tuple[tuple[str, ...], Simple]]:
    """The simple parameters inside, each with its path below this one; ``()`` for a simple one itself."""
    if isinstance(parameter, Variants):
        for name, fields in parameter.options.items():
            for key, field in fields.items():
                yield (name, key), field
    else:
        yield (), parameter
