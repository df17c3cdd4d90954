"""What a label column holds: classes or numbers, and how its cells are read as either.

The rule of ``task="auto"``, on the training part's labels:

1. a metric that was given decides, since each scores either classes or values;
2. true and false, and columns with text in them, are classes (where at least nine in ten cells are numbers that would
   be values by the lines below, the others are reported as faults);
3. numbers of which any has a fraction are values, unless there are only two different ones;
4. whole numbers are classes if there are at most 20 different ones, or at most 200 and each stands in at least 5 rows on
   average; else they are values.

Class names are strings: 1 and 1.0 are "1", true is "true", text keeps its letters without outer blanks. They are
ordered by value if all are numbers, in the source's own order if it has one (class labels of the hub), else
alphabetically. With two classes the second is the positive one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

import numpy as np

from sherl.metrics import Targets

FEW_WHOLE_NUMBERS = 20
MANY_WHOLE_NUMBERS = 200
ROWS_OF_A_CLASS = 5

_WHOLE = re.compile(r"[+-]?(0|[1-9]\d*)(\.0+)?")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def is_missing(cell: Any) -> bool:
    """Whether a cell holds nothing: None, blanks, or a NaN that stands for an absent value."""
    return (
        cell is None or (isinstance(cell, str) and not cell.strip()) or (isinstance(cell, float) and math.isnan(cell))
    )


def as_number(cell: Any) -> float | None:
    """The finite number in a cell that float32 can hold, or None."""
    if isinstance(cell, bool | np.bool_):
        return None
    if isinstance(cell, str):
        if not _NUMBER.fullmatch(cell.strip()):
            return None
        cell = cell.strip()
    elif not isinstance(cell, int | float | Decimal | np.integer | np.floating):
        return None
    try:
        number = float(cell)
    except OverflowError:
        return None
    return number if math.isfinite(number) and abs(number) <= float(np.finfo(np.float32).max) else None


def decide_targets(cells: Sequence[Any]) -> Targets:
    """Whether labels (none missing) are classes or values, by lines 2 to 4 of the rule above."""
    numbers = [number for number in map(as_number, cells) if number is not None]
    if not numbers or len(numbers) < 0.9 * len(cells):
        return "classes"
    different = set(numbers)
    if any(not number.is_integer() for number in different):
        return "values" if len(different) > 2 else "classes"
    few = len(different) <= FEW_WHOLE_NUMBERS
    crowded = len(different) <= MANY_WHOLE_NUMBERS and len(numbers) >= ROWS_OF_A_CLASS * len(different)
    return "classes" if few or crowded else "values"


def looks_like_row_numbers(numbers: Sequence[float]) -> bool:
    """Whether whole numbers count the rows: all different, without a gap."""
    different = set(numbers)
    whole = all(number.is_integer() for number in different)
    return (
        len(numbers) > 2
        and len(different) == len(numbers)
        and whole
        and max(different) - min(different) == len(numbers) - 1
    )


class ClassReader:
    """Reads cells as class names, in one way for all parts: ``ClassReader(all cells)`` settles how numbers are written."""

    def __init__(self, cells: Iterable[Any]) -> None:
        written = {str(cell).strip() for cell in cells if isinstance(cell, str | int | float) and not is_missing(cell)}
        self._whole = all(_WHOLE.fullmatch(text) or text.lower() in ("true", "false") for text in written)
        self._truth = {text.lower() for text in written} <= {"true", "false"}

    def name(self, cell: Any) -> str | None:
        """The class name in a cell that is not missing; None where it is no text, number or truth value."""
        if isinstance(cell, bool | np.bool_):
            return "true" if cell else "false"
        if isinstance(cell, float | Decimal | np.floating):
            number = float(cell)
            return str(int(number)) if number.is_integer() else repr(number) if math.isfinite(number) else None
        if not isinstance(cell, str | int | np.integer):
            return None
        text = str(cell).strip()
        if self._truth:
            return text.lower()
        if self._whole and _WHOLE.fullmatch(text):
            return str(int(text.partition(".")[0]))
        return text


def ordered_classes(names: Iterable[str], order: Sequence[str] | None = None) -> tuple[str, ...]:
    """Different class names in the order of their indices."""
    different = set(names)
    if order is not None and different <= set(order):
        return tuple(name for name in order if name in different)
    if all(_NUMBER.fullmatch(name) for name in different):
        return tuple(sorted(different, key=lambda name: (float(name), name)))
    return tuple(sorted(different))
