"""Importing the modules that register a study's own methods, families, tasks, ..."""

from __future__ import annotations

import importlib
from collections.abc import Iterable

from autotune.errors import ConfigError


def import_plugins(plugins: Iterable[str]) -> None:
    """Import modules by their names; one that is imported already costs nothing.

    Raises:
        ConfigError: one of them cannot be imported.
    """
    for name in plugins:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ConfigError(
                f"--plugin {name!r} cannot be imported: {error}. Give the name of a module that Python finds here "
                "(one in this folder is found with PYTHONPATH=. in front of the command)."
            ) from error
