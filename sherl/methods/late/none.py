"""No late route: the late blocks stay frozen, only their input is fused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from sherl.backbones import Backbone
from sherl.methods.late.base import LATE_ROUTES, LatePart, LateRoute


@LATE_ROUTES.register("none")
@dataclass(frozen=True, kw_only=True)
class NoRoute(LateRoute):
    """The late blocks are not adapted."""

    name: ClassVar[str] = "none"

    def put_on(self, backbone: Backbone, layers: Sequence[int]) -> LatePart:  # noqa: ARG002 - a route's signature
        return LatePart()
