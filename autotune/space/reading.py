"""From a YAML document to the parameters of each method; every problem of the file is found in one go."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from autotune.space.fitting import Fitted, fit_to_backbone
from autotune.space.parameters import (
    Parameter,
    Simple,
    Variants,
    read_parameter,
)
from autotune.space.yaml_file import Document, KeyPath
from sherl.errors import SherlError
from sherl.registry import nearest
from sherl.spec import TrainingConfig

MethodCheck = Callable[[dict[str, Any]], dict[str, Any]]
"""Takes a method as a dictionary and gives it back whole, or raises a SherlError that says what is wrong with it."""

_TOP = ("name", "description", "training", "methods")
TRAINING_KEYS = tuple(entry.name for entry in fields(TrainingConfig) if entry.name != "seed")
_TYPES = {entry.name: str(entry.type) for entry in fields(TrainingConfig)}


@dataclass(frozen=True)
class MethodSpace:
    """The parameters of one method: its own fields, and training settings that it has for itself."""

    fields: Mapping[str, Parameter] = field(default_factory=dict)
    training: Mapping[str, Simple] = field(default_factory=dict)


def check_with_sherl(plain: dict[str, Any]) -> dict[str, Any]:
    """The method whole, as :func:`sherl.methods.method_from_dict` reads it (imported here: it brings torch)."""
    from sherl.methods import method_from_dict

    return method_from_dict(plain).to_dict()


class SpaceReader:
    """Reads one document; its problems are added to the document's."""

    def __init__(self, document: Document, check: MethodCheck, *, depth: int, width: int) -> None:
        self.document = document
        self.check = check
        self.depth = depth
        self.width = width
        self.notes: list[str] = []

    def read(self, wanted: Callable[[str], bool]) -> tuple[dict[str, Simple], dict[str, MethodSpace]]:
        """The shared training settings and the methods, in the file's order; only ``wanted`` ones are fitted to the backbone."""
        top = self.document.values
        for key in top:
            if key not in _TOP:
                self.document.problem((key,), f"unknown key.{nearest(key, _TOP)} Known are: {', '.join(_TOP)}")
        for key in ("name", "description"):
            if not isinstance(top.get(key, ""), str):
                self.document.problem((key,), f"{top[key]!r} was given; allowed is a text")
        training = self._training(self._mapping(top.get("training"), ("training",)), ("training",))
        methods = {}
        bodies = self._mapping(top.get("methods"), ("methods",))
        if not bodies and isinstance(top.get("methods", {}), Mapping | None):
            self.document.problem(
                ("methods",), "no method is given; at least one is needed, for example `sherl:` with a learning_rate"
            )
        for name, body in bodies.items():
            path = ("methods", name)
            if message := self._complaint({"name": name}):
                self.document.problem(path, message)
                continue
            methods[name] = self._method(name, self._mapping(body, path), path, fit=wanted(name))
            if (
                "learning_rate" not in methods[name].training
                and "learning_rate" not in training
                and not self._given(path, "learning_rate")
            ):
                self.document.problem(
                    path,
                    "no learning_rate; give one here or under training, for example {float: {low: 1e-4, high: 1e-2, log: true}}",
                )
        return training, methods

    def _given(self, path: KeyPath, key: str) -> bool:
        """Whether a key stands in the file, be it wrong: then its own problem was reported."""
        return (*path, key) in self.document.lines or ("training", key) in self.document.lines

    def _mapping(self, value: Any, path: KeyPath) -> Mapping[str, Any]:
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            self.document.problem(path, f"{value!r} was given; allowed is a mapping of names to values")
            return {}
        return value

    def _training(self, body: Mapping[str, Any], path: KeyPath) -> dict[str, Simple]:
        settings = {}
        for key, value in body.items():
            if key not in TRAINING_KEYS:
                hint = (
                    "; the seed is given on the command line (--seed)"
                    if key == "seed"
                    else f".{nearest(key, TRAINING_KEYS)} Known are: {', '.join(TRAINING_KEYS)}"
                )
                self.document.problem((*path, key), f"unknown training setting{hint}")
                continue
            parameter = self._parameter(value, (*path, key))
            if isinstance(parameter, Variants):
                self.document.problem((*path, key), "a training setting has no parts; allowed are values and ranges")
            elif parameter is not None:
                for given in parameter.values():
                    if message := _training_complaint(key, given):
                        self.document.problem((*path, key), message)
                settings[key] = parameter
        return settings

    def _method(self, name: str, body: Mapping[str, Any], path: KeyPath, *, fit: bool) -> MethodSpace:
        training = self._training({key: value for key, value in body.items() if key in TRAINING_KEYS}, path)
        known: dict[str, Parameter] = {}
        for key, value in body.items():
            place = (*path, key)
            parameter = self._parameter(value, place) if key not in TRAINING_KEYS else None
            if isinstance(parameter, Variants):
                known[key] = self._variants(name, key, parameter, place, fit=fit)
            elif parameter is not None:
                known[key] = parameter
                if self._sound(parameter, place, {"name": name}, (key,)) and fit:
                    fitted = fit_to_backbone(key, parameter, depth=self.depth, width=self.width)
                    self._say(place, fitted)
                    if fitted.parameter is None:
                        given = ", ".join(map(str, fitted.too_far))
                        self.document.problem(place, f"{given} was given; allowed: {fitted.allowed}")
                    known[key] = fitted.parameter or parameter
        return MethodSpace(known, training)

    def _variants(self, method: str, key: str, parameter: Variants, path: KeyPath, *, fit: bool) -> Variants:
        """The variants with fields that fit; one that has a field with no value left is left out whole."""
        options: dict[str, dict[str, Simple]] = {}
        for variant, body in parameter.options.items():
            if message := self._complaint({"name": method, key: {"name": variant}}):
                self.document.problem(path, f"{variant!r} was given; {message}")
                continue
            options[variant] = {}
            for inner, simple in body.items():
                place = (*path, variant, inner)
                if not self._sound(simple, place, {"name": method, key: {"name": variant}}, (key, inner)) or not fit:
                    continue
                fitted = fit_to_backbone(inner, simple, depth=self.depth, width=self.width)
                self._say(place, fitted)
                if fitted.parameter is None:
                    del options[variant]
                    self.notes.append(f"{self.document.at(path)}: left out {variant}, of which no {inner} is left.")
                    break
                options[variant][inner] = fitted.parameter
        if not options and not self.document.problems:
            self.document.problem(path, "none of these fits the backbone (" + " ".join(self.notes) + ")")
        return replace(parameter, options=options or parameter.options)

    def _sound(self, parameter: Simple, path: KeyPath, method: dict[str, Any], keys: tuple[str, ...]) -> bool:
        """Whether sherl takes every value of a field, put alone into a method at ``keys``; what it says is a problem."""
        said: set[str] = set()
        for given in parameter.values():
            inner = {**method[keys[0]], keys[-1]: given} if len(keys) > 1 else given
            message = self._complaint({**method, keys[0]: inner})
            if message and message not in said:
                said.add(message)
                self.document.problem(path, f"{given!r} was given; {message}")
        return not said

    def _say(self, path: KeyPath, fitted: Fitted) -> None:
        where = self.document.at(path)
        if fitted.parameter is not None and fitted.too_far:
            self.notes.append(f"{where}: left out {', '.join(map(str, fitted.too_far))}; allowed: {fitted.allowed}.")
        if fitted.twice:
            self.notes.append(
                f"{where}: left out {', '.join(map(str, fitted.twice))}, the same layer as another value."
            )

    def _parameter(self, value: Any, path: KeyPath) -> Parameter | None:
        if value is None and path[-1] == "late_route":
            value = "none"  # an empty value says what the word says
        return read_parameter(value, lambda below, text: self.document.problem((*path, *below), text))

    def _complaint(self, plain: dict[str, Any]) -> str:
        """What is wrong with a method in sherl's words, nothing where it is right."""
        try:
            self.check(plain)
        except SherlError as error:
            return str(error)
        except TypeError as error:  # a text where a number is compared
            return f"it is of the wrong type ({error})"
        return ""


def _training_complaint(key: str, value: Any) -> str:
    kind = _TYPES[key]
    if value is None:
        return (
            ""
            if "None" in kind
            else f"nothing was given; allowed is {'a number' if 'float' in kind else 'a whole number'}"
        )
    if "float" in kind and (isinstance(value, bool) or not isinstance(value, int | float)):
        return f"{value!r} was given; allowed is a number"
    if "int" in kind and (isinstance(value, bool) or not isinstance(value, int)):
        return f"{value!r} was given; allowed is a whole number"
    try:
        TrainingConfig(**{"learning_rate": 1e-3, key: value})
    except SherlError as error:
        return str(error).removeprefix("Training settings: ")
    return ""


def decides_memory(name: str) -> bool:
    """Whether a parameter, by its flat name, changes how much memory a configuration needs."""
    return name.rpartition(".")[2] not in {
        "learning_rate",
        "epochs",
        "weight_decay",
        "warmup_fraction",
        "warmup_steps",
        "max_grad_norm",
        "alpha",
    }
