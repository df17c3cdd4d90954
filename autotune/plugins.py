"""Modules of a person's own that register methods, families, tasks, …: imported before anything asks for them."""

from __future__ import annotations

import importlib
from collections.abc import Iterable

from autotune.errors import ConfigError


def load_plugins(names: Iterable[str]) -> None:
    """Import each, once.

    Raises:
        ConfigError: one has no name, cannot be found, or raises something itself.
    """
    for name in names:
        if not name.strip():
            raise ConfigError(
                "--plugin was given an empty name: give a module's, as in --plugin my_methods, or leave it out."
            )
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"--plugin {name!r} cannot be imported: {error}. Give the name of a module that Python finds here "
                "(one in this folder is found with PYTHONPATH=. in front of the command)."
            ) from error
        except Exception as error:  # whatever a person's own module raises
            raise ConfigError(
                f"--plugin {name!r} was found, but its own code raised {type(error).__name__}: {error}. Mend it, or leave it out."
            ) from error
