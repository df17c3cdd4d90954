"""Runs a study's trials through Ray Tune: places them, packs them where they fit, ends them; nothing is decided here.

What is tried and what becomes of it is a :class:`TrialSource`'s business. This package is the one door for Ray, which
is imported only when :func:`run_trials` is called.
"""

from __future__ import annotations

from autotune.runner.run import run_trials
from autotune.runner.shares import Machine
from autotune.runner.source import DONE, Ended, Listener, TrialSource

__all__ = ["DONE", "Ended", "Listener", "Machine", "TrialSource", "run_trials"]
