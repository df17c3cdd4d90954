"""A trial's model as a folder that another machine can load."""

from __future__ import annotations

from autotune.deploy.card import example_input
from autotune.deploy.export import ExportedModel, export, require_target
from autotune.deploy.registry import Registered, register, require_names

__all__ = ["ExportedModel", "Registered", "example_input", "export", "register", "require_names", "require_target"]
