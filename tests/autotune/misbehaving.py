"""Methods that fit by their prediction and then misbehave; registered by ``--plugin tests.autotune.misbehaving``."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from sherl.backbones import Backbone
from sherl.methods import METHODS, MethodConfig
from sherl.methods.tuned import Tuned

HOARD: list[Any] = []


@dataclass(frozen=True, kw_only=True)
class Misbehaving(MethodConfig):
    """A linear probe whose forward pass does something else too, but only in a real trial, never in a trace."""

    name: ClassVar[str] = "misbehaving"

    def first_late_layer(self, backbone: Backbone) -> int:
        return backbone.depth

    def put_on(self, tuned: Tuned) -> None:
        tuned.register_forward_hook(lambda module, given, hidden: self.after(hidden))

    def after(self, hidden: Tensor) -> Tensor:
        return hidden if isinstance(hidden, FakeTensor) else self.misbehave(hidden)

    def misbehave(self, hidden: Tensor) -> Tensor:
        raise RuntimeError("this method fails on purpose")


@METHODS.register("failing")
@dataclass(frozen=True, kw_only=True)
class Failing(Misbehaving):
    name: ClassVar[str] = "failing"


@METHODS.register("greedy")
@dataclass(frozen=True, kw_only=True)
class Greedy(Misbehaving):
    """Takes memory that no tensor shows, 300 MB a step."""

    name: ClassVar[str] = "greedy"

    def misbehave(self, hidden: Tensor) -> Tensor:
        HOARD.append(np.ones(300_000_000, dtype=np.uint8))
        return hidden


@METHODS.register("diverging")
@dataclass(frozen=True, kw_only=True)
class Diverging(Misbehaving):
    name: ClassVar[str] = "diverging"

    def misbehave(self, hidden: Tensor) -> Tensor:
        return hidden * float("nan")


@METHODS.register("vanishing")
@dataclass(frozen=True, kw_only=True)
class Vanishing(Misbehaving):
    """Its process is gone without a word, as after a crash in native code."""

    name: ClassVar[str] = "vanishing"

    def misbehave(self, hidden: Tensor) -> Tensor:
        os._exit(17)
