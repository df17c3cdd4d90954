"""What to try next, what was tried: the one door for Optuna."""

from __future__ import annotations

from autotune.search.early_stopping import EarlyStopping
from autotune.search.proposer import Proposed, Proposer
from autotune.search.reading import is_begun
from autotune.search.record import StudyRecord
from autotune.search.rows import RefusedCandidate
from autotune.search.samplers import SAMPLERS

__all__ = ["SAMPLERS", "EarlyStopping", "Proposed", "Proposer", "RefusedCandidate", "StudyRecord", "is_begun"]
