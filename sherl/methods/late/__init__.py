"""Late routes: how the late, otherwise frozen blocks are adapted beside the fusion (SHERL, section 4.3 and fig. 5)."""

from __future__ import annotations

from sherl.methods.late.adapter import AdapterRoute
from sherl.methods.late.base import LATE_ROUTES, LatePart, LateRoute, late_route_from
from sherl.methods.late.bitfit import BitFitRoute
from sherl.methods.late.full import FullRoute
from sherl.methods.late.lora import LoraRoute
from sherl.methods.late.none import NoRoute
from sherl.methods.late.prompt import PromptRoute

__all__ = [
    "LATE_ROUTES",
    "AdapterRoute",
    "BitFitRoute",
    "FullRoute",
    "LatePart",
    "LateRoute",
    "LoraRoute",
    "NoRoute",
    "PromptRoute",
    "late_route_from",
]
