"""What may be tried: search spaces in YAML, read, checked and drawn from."""

from __future__ import annotations

from autotune.space.search_space import SearchSpace, shape_key
from autotune.space.suggest import Suggest

__all__ = ["SearchSpace", "Suggest", "shape_key"]
