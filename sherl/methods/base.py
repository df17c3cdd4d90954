"""What a method is: a frozen config, and what it makes of a backbone.

A method is a subclass of :class:`MethodConfig` in a file of its own, registered under its name::

    @METHODS.register("my_method")
    @dataclass(frozen=True, kw_only=True)
    class MyMethod(MethodConfig):
        name: ClassVar[str] = "my_method"
        rank: int = 4

        def problems(self) -> list[str]: ...                # of the settings
        def first_late_layer(self, backbone) -> int: ...    # what lies before it is frozen
        def put_on(self, tuned) -> None: ...                # tuned.add(...), tuned.checkpoint_late_blocks()
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch

from sherl.backbones import Backbone
from sherl.errors import SpecError
from sherl.methods.settings import read_named
from sherl.methods.tuned import Tuned
from sherl.registry import Registry, nearest


@dataclass(frozen=True, kw_only=True)
class MethodConfig(ABC):
    """Settings of a method; validated when they are made.

    Raises:
        SpecError: a setting is out of range; the message has all problems.
    """

    name: ClassVar[str]
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Settings under one name: ``{"name": ..., "preset": <its name>}``, and :meth:`from_preset`."""

    @classmethod
    def from_preset(cls, preset: str, **settings: Any) -> Self:
        """The method with the settings of a preset; those given here go before them.

        Raises:
            SpecError: there is no such preset, or a setting is unknown or out of range.
        """
        built = method_from_dict({"name": cls.name, "preset": preset, **settings})
        assert isinstance(built, cls)
        return built

    def problems(self) -> list[str]:
        """What is wrong with the settings, each with the value given and what is allowed."""
        return []

    def __post_init__(self) -> None:
        if found := self.problems():
            raise SpecError(f"Method {self.name}: " + "; ".join(found) + ".")

    def first_late_layer(self, backbone: Backbone) -> int:
        """The first block (0-based) that needs gradients; the embeddings and blocks before it run under no_grad in
        evaluation mode. 0 means that the whole model takes part in training, ``backbone.depth`` that none of it does.

        Raises:
            SpecError: the settings do not suit the backbone.
        """
        del backbone
        return 0

    @abstractmethod
    def put_on(self, tuned: Tuned) -> None:
        """Add what trains to a frozen model; initial values come from torch's global generator, which is seeded.

        Raises:
            SpecError: the settings do not suit the backbone.
            UnsupportedBackboneError: the family cannot carry the method.
        """

    def apply(self, backbone: Backbone, *, seed: int = 0) -> Tuned:
        """The backbone with this method on it. Same seed, same initial weights; no global random state is changed.

        Raises:
            SpecError: a method is on the backbone already, or the settings do not suit it. It stays as it was.
            UnsupportedBackboneError: the family cannot carry the method. It stays as it was.
        """
        tuned = Tuned(backbone, self, first_late_layer=self.first_late_layer(backbone))
        finished = False
        try:
            with seeded(seed, backbone.device), backbone.device:
                self.put_on(tuned)
            tuned.train(False)
            finished = True
        finally:
            if not finished:
                tuned.remove()
        return tuned

    def loadable(self) -> MethodConfig:
        """The method for a state that is about to be loaded into it: without initial values that data would decide."""
        return self

    @property
    def starts_from_weights(self) -> bool:
        """Whether initial values are made of pretrained weights of early blocks, so that these must be there."""
        return False

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dictionary; :func:`method_from_dict` reads it back."""
        plain: dict[str, Any] = {"name": self.name}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, tuple):
                value = list(value)
            plain[field.name] = value.to_dict() if hasattr(value, "to_dict") else value
        return plain


METHODS: Registry[type[MethodConfig]] = Registry("method")


def method_from_dict(plain: object) -> MethodConfig:
    """A method from its name or from ``{"name": ..., **settings}``; missing settings take their defaults, or those of a
    ``preset`` that is named among them.

    Raises:
        SpecError: no such method or preset, or unknown or bad settings; the message has all problems, with the nearest
            names.
    """
    return read_named(_expanded(plain), MethodConfig, METHODS)  # type: ignore[type-abstract]


def _expanded(plain: object) -> object:
    """With the settings of a preset in the preset's place; a method without presets knows no such setting."""
    if not isinstance(plain, Mapping) or "preset" not in plain:
        return plain
    name = plain.get("name")
    presets = METHODS.get(name).PRESETS if isinstance(name, str) and name in METHODS else {}
    if not presets:
        return plain
    settings = dict(plain)
    preset = settings.pop("preset")
    if not isinstance(preset, str) or preset not in presets:
        raise SpecError(
            f"Method {name}: unknown preset {preset!r}.{nearest(preset, presets)} Known are: {', '.join(presets)}."
        )
    return {**presets[preset], **settings}


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Draw from this seed, on the CPU and on ``device``; the global generators are put back afterwards."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        if devices:
            torch.cuda.default_generators[device.index or 0].manual_seed(seed)
        yield
