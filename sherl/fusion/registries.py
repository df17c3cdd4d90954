"""Where the four replaceable parts of a fusion are looked up.

A part registers its class under a name; it is built as ``part(shape, config)`` with a :class:`FusionShape` and a
:class:`FusionConfig` (:mod:`sherl.fusion.config`). Code outside the project adds a part by being imported.
"""

from __future__ import annotations

from typing import Any

from sherl.registry import Registry

# Classes of the abstract Projection, Aggregation, Expansion and Gate; Any because those import this module to register.
PROJECTIONS: Registry[Any] = Registry("projection")
AGGREGATIONS: Registry[Any] = Registry("aggregation")
EXPANSIONS: Registry[Any] = Registry("expansion")
GATES: Registry[Any] = Registry("gate")
