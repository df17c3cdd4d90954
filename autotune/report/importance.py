"""How much each parameter tells of a figure: permutation importance of a forest of trees on trials it has not seen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

LEAST_TRIALS = 20
_FOLDS, _TREES, _SHUFFLES = 4, 48, 4


@dataclass(frozen=True)
class Importance:
    """``shares``: of each parameter that varied, its part of what is lost by shuffling them one at a time, and the standard deviation
    of that part over shuffles, most important first; the parts add up to 1. ``explained``: of unseen trials' variance with nothing shuffled; below 0 is worse
    than guessing their mean.
    """

    shares: dict[str, tuple[float, float]]
    explained: float


def importance_of(params: Sequence[Mapping[str, Any]], figures: Sequence[float]) -> Importance | None:
    """Fit forests of extremely randomised trees (Geurts, Ernst and Wehenkel 2006) on three of four parts of the trials
    and shuffle one parameter at a time in the fourth (Breiman 2001), each part once.

    params: of each trial; one that a trial lacks is a value of its own. figures: what is explained, finite.
    None with fewer than :data:`LEAST_TRIALS` trials, or where all figures are equal or nothing varied.
    """
    names = [name for name in _names(params) if len({repr(one.get(name, _MISSING)) for one in params}) > 1]
    target = np.asarray(figures, dtype=np.float64)
    if len(target) < LEAST_TRIALS or not names or np.ptp(target) <= 1e-9 * max(1e-12, float(np.abs(target).max())):
        return None
    from sklearn.ensemble import ExtraTreesRegressor

    columns = [_columns([one.get(name, _MISSING) for one in params]) for name in names]
    owner = np.repeat(np.arange(len(names)), [column.shape[1] for column in columns])
    table = np.concatenate(columns, axis=1)
    random = np.random.default_rng(0)
    fold = random.permutation(len(target)) % _FOLDS
    guesses = np.zeros_like(target)
    shuffled = np.zeros((len(names), _SHUFFLES, len(target)))
    for part in range(_FOLDS):
        unseen = fold == part
        forest = ExtraTreesRegressor(n_estimators=_TREES, random_state=part, min_samples_leaf=2)
        forest.fit(table[~unseen], target[~unseen])
        rows = table[unseen]
        guesses[unseen] = forest.predict(rows)
        variants = np.stack(
            [_shuffle(rows, owner == index, random) for index in range(len(names)) for _ in range(_SHUFFLES)]
        )
        answers = forest.predict(variants.reshape(-1, table.shape[1]))
        shuffled[:, :, unseen] = answers.reshape(len(names), _SHUFFLES, -1)
    variance = float(((target - target.mean()) ** 2).mean())
    missed = float(((target - guesses) ** 2).mean())
    lost = (((target - shuffled) ** 2).mean(axis=2) - missed) / variance
    total = float(np.maximum(lost.mean(axis=1), 0.0).sum())
    parts = lost / total if total > 0 else np.zeros_like(lost)
    order = sorted(range(len(names)), key=lambda index: -float(parts[index].mean()))
    shares = {names[index]: (max(0.0, float(parts[index].mean())), float(parts[index].std(ddof=1))) for index in order}
    return Importance(shares=shares, explained=1 - missed / variance)


_MISSING = object()


def _names(params: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for one in params for name in one))


def _columns(values: Sequence[Any]) -> Any:
    """A number by its rank, which is all that a tree sees of it, with whether it is there; or a column for each value."""
    there = [value for value in values if value is not _MISSING]
    if there and all(isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) for v in there):
        rank = {value: float(index) for index, value in enumerate(sorted(set(there)))}
        numbers = [len(rank) / 2 if value is _MISSING else rank[value] for value in values]
        lacks = [value is _MISSING for value in values]
        return np.column_stack([numbers, np.asarray(lacks, dtype=np.float64)])
    words = [repr(value) if value is not _MISSING else "" for value in values]
    kinds = sorted(set(words))
    return np.asarray([[word == kind for kind in kinds] for word in words], dtype=np.float64)


def _shuffle(rows: Any, owned: Any, random: np.random.Generator) -> Any:
    changed = rows.copy()
    changed[:, owned] = rows[random.permutation(len(rows))][:, owned]
    return changed
