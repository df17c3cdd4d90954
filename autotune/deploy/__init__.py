"""A trial's model as a folder that another machine can load."""

from __future__ import annotations

from autotune.deploy.card import example_input
from autotune.deploy.export import ExportedModel, export

__all__ = ["ExportedModel", "example_input", "export"]
