"""SHERL and its rivals on pretrained transformers: fusion of frozen early layers, regulated by late ones.

``sherl.load(directory)`` reads a fine-tuned model for prediction on raw text. Importing this package loads nothing
heavy: torch and transformers come with the first use of ``load`` or of a submodule.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sherl.version import __version__

if TYPE_CHECKING:
    from sherl.predictor import Predictor, load

__all__ = ["Predictor", "__version__", "load"]


def __getattr__(name: str) -> Any:
    if name in ("Predictor", "load"):
        return getattr(importlib.import_module("sherl.predictor"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), "Predictor", "load"])
