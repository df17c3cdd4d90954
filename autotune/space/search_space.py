"""A search space: which configurations may be tried, and how one is drawn."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from autotune.errors import ConfigError
from autotune.outcome import Candidate
from autotune.space.files import find, names
from autotune.space.parameters import (
    Choice,
    Fixed,
    IntRange,
    Parameter,
    RealRange,
    Simple,
    Variants,
    simple_fields,
)
from autotune.space.reading import MethodCheck, MethodSpace, SpaceReader, check_with_sherl, decides_memory
from autotune.space.suggest import Scalar, Suggest
from autotune.space.walk import Chance, Recorded, every
from autotune.space.yaml_file import Document
from sherl.errors import SherlError
from sherl.registry import nearest
from sherl.spec import TrainingConfig

MOST_SHAPES = 20_000
_SHAPE_OF_TRAINING = ("batch_size", "precision", "accumulation", "eval_batch_size")


def shape_key(candidate: Candidate) -> str:
    """Canonical JSON of what decides how much memory a configuration needs; equal keys need equal memory.

    That is the method without its real numbers and without ``alpha`` (they scale values, not tensors), the batch size,
    the precision, the accumulation and the rows of an evaluation batch.
    """
    shape = {"method": _without_reals(candidate.method)}
    shape |= {key: candidate.training[key] for key in _SHAPE_OF_TRAINING if key in candidate.training}
    return json.dumps(shape, sort_keys=True)


def _without_reals(part: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _without_reals(value) if isinstance(value, Mapping) else value
        for key, value in part.items()
        if decides_memory(key) and not isinstance(value, float)
    }


def _shape_params(candidate: Candidate) -> dict[str, Any]:
    return {
        name: value for name, value in candidate.params.items() if decides_memory(name) and not isinstance(value, float)
    }


class SearchSpace:
    """The configurations that one YAML file allows for one backbone. Made by :meth:`load`; never changes.

    Attributes: ``name``, ``description``, ``file``; ``methods``: the names in the file's order, the most promising
    first; ``notes``: what was left out for this backbone and why, to be said aloud.

    Parameters have flat names that are prefixed by what they belong to, so that each name always has the same values:
    ``method``, ``batch_size``, ``sherl.learning_rate``, ``sherl.late_route``, ``sherl.late_route.lora.rank``.
    """

    def __init__(
        self,
        *,
        name: str,
        description: str = "",
        file: Path | None = None,
        training: Mapping[str, Simple],
        methods: Mapping[str, MethodSpace],
        depth: int,
        check: MethodCheck,
        notes: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.description = description
        self.file = file
        self.methods = tuple(methods)
        self.notes = tuple(notes)
        self._training = training
        self._methods = methods
        self._depth = depth
        self._check = check
        self._whole: dict[str, dict[str, Any]] = {}

    @classmethod
    def load(
        cls,
        name_or_path: str | Path,
        *,
        methods: Sequence[str] | None = None,
        depth: int,
        width: int,
        precision: str | None = None,
        check: MethodCheck = check_with_sherl,
        called: str | None = None,
    ) -> Self:
        """The search space of a file, for a backbone of this depth (blocks) and width.

        Args:
            name_or_path: a name in ``search_spaces/`` or the path of a YAML file.
            methods: the ones to keep; None keeps all.
            precision: taken in place of whatever the file says.
            check: reads one method; a test may put its own here.
            called: what messages name instead of the file, such as what a copy was taken from.

        Raises:
            ConfigError: the file is missing or has problems; all are named, with key and line.
        """
        file = find(name_or_path)
        document = Document(file)
        reader = SpaceReader(document, check, depth=depth, width=width)
        training, spaces = reader.read(lambda name: methods is None or name in methods)
        unknown = (
            [name for name in methods or () if name not in document.values.get("methods", {})]
            if not document.problems
            else []
        )
        for name in unknown:
            known = tuple(spaces)
            document.problems.append(
                f"method {name!r} was asked for and is not in this space.{nearest(name, known)} It has: {', '.join(known)}{_elsewhere(name)}"
            )
        if document.problems:
            raise ConfigError(document.problems, where=called or str(file))
        if precision is not None:
            training = {**training, "precision": Fixed(precision)}
            spaces = {
                name: MethodSpace(
                    space.fields, {key: value for key, value in space.training.items() if key != "precision"}
                )
                for name, space in spaces.items()
            }
        space = cls(
            name=str(document.values.get("name", file.stem)),
            description=str(document.values.get("description", "")).strip(),
            file=file,
            training=training,
            methods={name: space for name, space in spaces.items() if methods is None or name in methods},
            depth=depth,
            check=check,
            notes=reader.notes,
        )
        space._look_through()
        return space

    @cached_property
    def _named(self) -> dict[str, Parameter]:
        found: dict[str, Parameter] = {"method": Choice(self.methods), **self._training}
        for method, space in self._methods.items():
            found |= {f"{method}.{key}": field for key, field in (*space.fields.items(), *space.training.items())}
        return found

    @cached_property
    def signature(self) -> dict[str, str]:
        """What the space allows, by flat name, as text: equal for spaces that allow the same."""
        words: dict[str, str] = {}
        for name, parameter in self._named.items():
            if isinstance(parameter, Variants):
                words[name] = repr(tuple(parameter.options))
            words |= {".".join((name, *path)): repr(field) for path, field in simple_fields(parameter)}
        return words

    @cached_property
    def parameters(self) -> dict[str, Choice | IntRange | RealRange]:
        """Every parameter that is ever drawn, by its flat name; a name's values are the same in every draw."""
        flat: dict[str, Choice | IntRange | RealRange] = {}
        for name, parameter in self._named.items():
            if isinstance(parameter, Variants) and len(parameter.options) > 1:
                flat[name] = Choice(tuple(parameter.options))
            for path, field in simple_fields(parameter):
                if not isinstance(field, Fixed):
                    flat[".".join((name, *path))] = field
        return flat

    def _look_through(self) -> None:
        """Makes every shape once: values that are right alone may be wrong together."""
        where = str(self.file or self.name)
        count = sum(self._combinations(name) for name in self.methods)
        if count > MOST_SHAPES:
            counts = {
                name: len(parameter.values())
                for name, parameter in self.parameters.items()
                if decides_memory(name) and not isinstance(parameter, RealRange)
            }
            most = ", ".join(
                f"{name} ({counts[name]})" for name in sorted(counts, key=counts.__getitem__, reverse=True)[:3]
            )
            raise ConfigError(
                f"Up to {count} configurations that differ in memory; allowed are {MOST_SHAPES}, since a plan goes "
                f"through all of them. Give the parameters with the most values fewer, by a step or by choices: {most}.",
                where=where,
            )
        try:
            len(self._shapes)
        except SherlError as error:
            raise ConfigError(
                f"Values that are allowed alone are not allowed together: {error}", where=where
            ) from error

    def _combinations(self, method: str) -> int:
        """An upper bound of the number of shapes of a method, without making them."""
        space = self._methods[method]
        shared = {key: field for key, field in self._training.items() if key not in space.training}
        return math.prod(
            _how_many(key, parameter)
            for key, parameter in (*space.fields.items(), *space.training.items(), *shared.items())
        )

    def draw(self, suggest: Suggest) -> Candidate:
        """One configuration, its values taken from ``suggest``."""
        asked = _Asked(suggest)
        method = str(asked.categorical("method", self.methods))
        space = self._methods[method]
        fields = {key: field.draw(f"{method}.{key}", asked) for key, field in space.fields.items()}
        own = {key: field.draw(f"{method}.{key}", asked) for key, field in space.training.items()}
        shared = {key: field.draw(key, asked) for key, field in self._training.items() if key not in own}
        training = TrainingConfig.from_dict({**shared, **own}).to_dict()
        del training["seed"]  # a trial's own
        return Candidate(method=self._canonical({"name": method, **fields}), training=training, params=asked.params)

    def _canonical(self, plain: dict[str, Any]) -> dict[str, Any]:
        """The method with all its fields, and one form for what is the same thing."""
        key = json.dumps(plain, sort_keys=True)
        if key not in self._whole:
            whole = self._check(plain)
            start = whole.get("start_layer")
            if whole.get("insertion") == "multi" and start in (-1, self._depth - 1):
                whole = {**whole, "insertion": "single"}  # one late layer: both insertions are one fusion before it
            if whole.get("regulate") is False:  # no late block: nothing starts, nothing is checkpointed
                whole = {**whole, "insertion": "single", "start_layer": -1, "activation_checkpointing": False}
            self._whole[key] = json.loads(json.dumps(whole))
        return json.loads(json.dumps(self._whole[key]))  # type: ignore[no-any-return]  # a copy of a dictionary

    def random(self, rng: random.Random, like: Candidate | None = None) -> Candidate:
        """One configuration at random; with ``like`` one of its shape, only what costs no memory is drawn."""
        return self.draw(Chance(rng, _shape_params(like) if like is not None else {}))

    def from_params(self, params: Mapping[str, Any]) -> Candidate:
        """The configuration that gave these parameters.

        Raises:
            ConfigError: one is missing, is not allowed, or is none of this space.
        """
        candidate = self.draw(Recorded(params))
        if extra := sorted(set(params) - set(candidate.params)):
            raise ConfigError(
                f"Parameters that this search space does not have for {candidate.label}: {', '.join(extra)}."
            )
        return candidate

    def shapes(self) -> Iterator[Candidate]:
        """Every configuration that differs in memory, once, in the order of ``methods``; real ranges stand at their lower end."""
        return iter(self._shapes)

    @cached_property
    def _shapes(self) -> tuple[Candidate, ...]:
        first: dict[str, Candidate] = {}
        for candidate in every(self.draw, is_free=decides_memory):
            first.setdefault(shape_key(candidate), candidate)
        return tuple(first.values())

    def of_shape(self, shape: Candidate) -> Iterator[Candidate]:
        """The configurations of one shape, over all that costs no memory; real ranges stand at their lower end."""
        yield from every(self.draw, is_free=lambda _: True, fixed=_shape_params(shape))

    @property
    def size(self) -> int:
        """How many configurations differ in memory."""
        return len(self._shapes)


def _elsewhere(method: str) -> str:
    """The packaged spaces that hold a method, as advice; "" where none does."""
    having = [name for name in names() if method in (Document(find(name)).values.get("methods") or {})]
    options = " or ".join(f"--space {name}" for name in having)
    return f". {method!r} is had with {options}" if having else ""


def _how_many(key: str, parameter: Parameter) -> int:
    if isinstance(parameter, Variants):
        return sum(math.prod(_how_many(*field) for field in fields.items()) for fields in parameter.options.values())
    return 1 if isinstance(parameter, RealRange) or not decides_memory(key) else len(parameter.values())


class _Asked:
    """Remembers what was asked and given: the parameters of the draw."""

    def __init__(self, suggest: Suggest) -> None:
        self.suggest = suggest
        self.params: dict[str, Any] = {}

    def categorical(self, name: str, choices: Sequence[Scalar]) -> Scalar:
        self.params[name] = self.suggest.categorical(name, choices)
        return self.params[name]  # type: ignore[no-any-return]  # just put there

    def integer(self, name: str, low: int, high: int, *, log: bool = False, step: int = 1) -> int:
        self.params[name] = self.suggest.integer(name, low, high, log=log, step=step)
        return int(self.params[name])

    def real(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        self.params[name] = self.suggest.real(name, low, high, log=log)
        return float(self.params[name])
