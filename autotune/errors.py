"""Every error that autotune raises on purpose.

    AutotuneError
    ├── UnitError          a size or a duration that cannot be read
    ├── ConfigError        a setting, a search space or a file of settings
    ├── StudyError         a study folder: missing, not a study, of other settings, in use
    ├── NothingFitsError   no configuration of the space fits the memory cap
    ├── StoreError         the store of shared features cannot be written
    │   └── StoreFull      it has no room: the disk, a quota, a limit of file sizes
    ├── InterruptedStudyError   Ctrl-C outside a training; what was kept is said
    ├── SelectionError     no point of the front meets the conditions
    └── DeviceError        a device or its meter does not do what is needed
        └── NoAnswerError  its driver does not answer: no fault of whoever asked

A message says what is wrong, what was given, what is allowed and what to do next. A trial that ends badly is
no error: it is an :class:`autotune.outcome.Outcome`.
"""

from __future__ import annotations


class AutotuneError(Exception):
    """Base of all errors that autotune raises on purpose."""


class UnitError(AutotuneError, ValueError):
    """A size or a duration that cannot be read."""


class ConfigError(AutotuneError, ValueError):
    """One or more problems in settings; ``problems`` holds each on its own, the message holds all."""

    def __init__(self, problems: str | list[str], *, where: str | None = None) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        self.where = where
        if where is None and len(self.problems) == 1:
            message = self.problems[0]
        else:
            count = len(self.problems)
            head = f"{where or 'settings'}: {count} problem{'s' if count != 1 else ''}"
            message = "\n".join([head, *(f"  - {problem}" for problem in self.problems)])
        super().__init__(message)


class StudyError(AutotuneError):
    """A study folder that is missing, is not a study, belongs to other settings or is in use."""


class NothingFitsError(AutotuneError):
    """No configuration of the space fits the memory cap."""


class StoreError(AutotuneError):
    """The store of shared features cannot be written; whoever meets this can go on without it."""


class StoreFull(StoreError):
    """There is no room for features; ``needed`` and ``free`` are bytes."""

    def __init__(self, message: str, *, needed: int, free: int) -> None:
        self.needed = needed
        self.free = free
        super().__init__(message)


class InterruptedStudyError(AutotuneError):
    """A person interrupted a study at a time when no training could end in order; the message says what is kept."""


class SelectionError(AutotuneError):
    """No point of the front meets the conditions of a selection."""


class DeviceError(AutotuneError):
    """A device or its meter does not do what is needed."""


class NoAnswerError(DeviceError):
    """A device's driver does not start or does not answer; what asked is not at fault and may be tried again."""
