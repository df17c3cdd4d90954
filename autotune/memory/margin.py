"""How far above its tensor bytes a process may stand: a stated rule at first, then what past trials teach.

On a CPU, ``device = baseline after imports + peak tensor bytes + margin``. The margin holds what no tensor shows: holes of
the C heap (by far the most; :mod:`autotune.memory.heap`), buffers of oneDNN and MKL, the data set, Python. The baseline
must hold every import that a trial makes, also those of its last epoch.

The rule is max(64 MB, 4 % of the tensor bytes) under the tight heap and max(256 MB, 100 %) under the fast one.
Measured (``benchmarks/trial_memory.py``: MiniLM, nine configurations, 116 to 606 MB of tensors): 4 to 10 MB tight, 45 to
270 MB fast; with batches of 2.6 GB of tensors 14 MB tight.

On a GPU ``device = predicted reserved bytes + context + margin``; the margin holds what the replay of the trace does not show:
kernels' own buffers, fragmentation by batches of changing lengths, a context larger than the one reckoned with. The rule is
max(64 MB, 5 % of the reserved bytes). No GPU has confirmed that share yet.

Each finished trial adds a pair (:mod:`autotune.memory.pairs`), which teaches trials of its architecture, torch version, kind of
device, driver and threads. Its score is the excess it had over the margin that the rule gives. With fewer than
20 pairs of a kind the rule stands, raised to the highest score seen; from then on it is scaled by the scores' 95 % quantile (as
conformal prediction takes it: of n scores the ceil(0.95 (n + 1))-th), so that 95 % of trials stay within it.
A trial that ended for want of memory adds a pair as well where what it held was over its margin: a lower bound.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

MarginKind = Literal["fast", "tight", "cuda"]

# kind: least bytes, share of the base: the tensor bytes, on a GPU the reserved bytes
RULES: dict[MarginKind, tuple[int, float]] = {
    "fast": (256_000_000, 1.0),
    "tight": (64_000_000, 0.04),
    "cuda": (64_000_000, 0.05),
}
COVERAGE = 0.95
ENOUGH_PAIRS = 20
LEAST_FACTOR = 0.5  # a margin is never scaled below half of the rule's: 20 like trials say little of an unlike one


def rule_bytes(kind: MarginKind, base: int) -> int:
    """The margin that the stated rule gives, in bytes. base: tensor bytes, on a GPU reserved bytes."""
    least, share = RULES[kind]
    return max(least, math.ceil(share * base))


def score(kind: MarginKind, base: int, excess: int) -> float:
    """How much of the rule's margin a trial used: 1.0 is all of it."""
    return excess / rule_bytes(kind, base)


def margin_bytes(kind: MarginKind, base: int, scores: Sequence[float] = ()) -> int:
    """The margin for a trial on this base, given the scores of past trials of its kind, in bytes."""
    return math.ceil(rule_bytes(kind, base) * _factor(scores))


def _factor(scores: Sequence[float]) -> float:
    if len(scores) < ENOUGH_PAIRS:
        return max([1.0, *scores])
    rank = min(len(scores), math.ceil(COVERAGE * (len(scores) + 1)))
    return max(LEAST_FACTOR, sorted(scores)[rank - 1])
