"""MTSA, the fusion of frozen early features: SHERL, sections 3.1 and 3.2."""

from __future__ import annotations

from sherl.fusion import layer_attention, linear_attention, pooling  # noqa: F401 - importing registers them
from sherl.fusion.aggregation import Aggregation
from sherl.fusion.config import FusionConfig, FusionShape
from sherl.fusion.expansion import Expansion
from sherl.fusion.fusion import Fusion
from sherl.fusion.gate import Gate
from sherl.fusion.projection import Projection
from sherl.fusion.registries import AGGREGATIONS, EXPANSIONS, GATES, PROJECTIONS

__all__ = [
    "AGGREGATIONS",
    "EXPANSIONS",
    "GATES",
    "PROJECTIONS",
    "Aggregation",
    "Expansion",
    "Fusion",
    "FusionConfig",
    "FusionShape",
    "Gate",
    "Projection",
]
