"""Every error that sherl raises on purpose.

SherlError
├── SpecError                 a setting of a method, a task or a training run
├── UnknownNameError          a name that no registry entry has
├── UnsupportedBackboneError  an architecture that no family covers, or a method that a family cannot carry
├── DataError                 a data source, its columns or its rows
└── CheckpointError           a checkpoint that cannot be read, or of another backbone
"""

from __future__ import annotations


class SherlError(Exception):
    """Base of all errors that sherl raises on purpose."""


class SpecError(SherlError, ValueError):
    """A setting of a method, a task or a training run is out of its range."""


class UnknownNameError(SherlError, KeyError):
    """A name that no registry entry has; the message gives the nearest and all known ones."""

    def __str__(self) -> str:  # KeyError would show the message's repr
        return str(self.args[0]) if self.args else ""


class UnsupportedBackboneError(SherlError, ValueError):
    """An architecture that no family covers, or a method that a family cannot carry."""


class DataError(SherlError, ValueError):
    """One or more problems of a data source; ``problems`` holds each on its own, the message holds all."""

    def __init__(self, problems: str | list[str], *, where: str | None = None) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        self.where = where
        if where is None and len(self.problems) == 1:
            message = self.problems[0]
        else:
            count = len(self.problems)
            head = f"{where or 'data'}: {count} problem{'s' if count != 1 else ''}"
            message = "\n".join([head, *(f"  - {problem}" for problem in self.problems)])
        super().__init__(message)


class CheckpointError(SherlError, ValueError):
    """A checkpoint that cannot be read, is of an unknown format, or belongs to another backbone."""
