"""The most rows of a batch that keep within a cap: guessed along lines, then held against true costs.

A true cost is dear to know, and grows about evenly. So a guess goes along a cheap cost that was drawn from a true one
nearby, and what it finds is asked in truth: it must fit, and the next larger count must not. Where the line was off, another
is drawn there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from autotune.memory.scaling import NotEvenError

MOST_ROWS = 2**16  # more is not looked for, unless it was asked for
_MOST_LINES = 4  # where so many have missed, the true cost alone is asked
_MOST_STRAIGHT = 12  # places that a straight line may be drawn through; beyond, the cost is not even

Cost = Callable[[int], int]


def largest_confirmed(cost: Cost, lines: Callable[[int], Cost], cap: int, *, start: int, most: int = MOST_ROWS) -> int:
    """The largest count (0 to ``most``) whose cost is within the cap. By ``cost`` itself it fits (where it is not 0), and the
    next larger count does not (where it is not ``most``). At least ``start`` where that fits. A cost that sinks in places may
    be within the cap at larger counts again; these are not looked for.

    cost: true, and dear; asked once for each count. lines: a cheap cost that is about as large near the count it is given.
    What it raises or its costs raise as NotEvenError is taken for: ask the true cost instead.
    """
    known: dict[int, int] = {}

    def true(count: int) -> int:
        if count not in known:
            known[count] = cost(count)
        return known[count]

    near = min(max(1, start), most)
    fitting, unfit = (near, most + 1) if true(near) <= cap else (0, near)
    for drawn in range(most):
        if unfit - fitting == 1:
            break
        guess = None
        if drawn < _MOST_LINES:
            try:
                guess = largest_within(lines(near), cap, start=near, most=unfit - 1, least=fitting)
            except NotEvenError:
                guess = None
        if guess is None:
            guess = largest_within(true, cap, start=near, most=unfit - 1, least=fitting)
        for count in (guess, guess + 1):  # either narrows the bounds
            if fitting < count < unfit:
                fitting, unfit = (count, unfit) if true(count) <= cap else (fitting, count)
        near = max(1, guess)
    return fitting


def largest_within(cost: Cost, cap: int, *, start: int, most: int = MOST_ROWS, least: int = 0) -> int:
    """The largest count (``least`` to ``most``) whose cost is within the cap, for a cost that grows about evenly with the count.

    The cost is asked at few places: where the straight line through the two nearest known ones meets the cap. The
    result fits and the next larger count does not; ``least`` and what is beyond ``most`` are not asked.
    """
    known: dict[int, int] = {}
    fitting, unfit = least, most + 1
    guess = start
    while unfit - fitting > 1:
        guess = min(max(guess, fitting + 1), unfit - 1)
        known[guess] = cost(guess)
        if known[guess] <= cap:
            fitting = guess
        else:
            unfit = guess
        guess = _next_guess(known, cap, fitting, unfit)
    return fitting


def _next_guess(known: Mapping[int, int], cap: int, fitting: int, unfit: int) -> int:
    """Where a straight line says; doubling or halving until two places are known, and halfway where the line leads nowhere."""
    if len(known) == 1:
        (count,) = known
        return 2 * count if known[count] <= cap else count // 2
    low, high = sorted(sorted(known, key=lambda count: abs(known[count] - cap))[:2])
    slope = (known[high] - known[low]) / (high - low)
    if slope <= 0 or len(known) > _MOST_STRAIGHT:
        return (fitting + unfit) // 2
    return int(low + (cap - known[low]) / slope)
