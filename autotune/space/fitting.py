"""What of a parameter a backbone is deep and wide enough for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from autotune.space.parameters import Choice, Fixed, Simple


@dataclass(frozen=True)
class Fitted:
    """What is left of a parameter (None: nothing), what was left out, and what the backbone allows."""

    parameter: Simple | None
    too_far: tuple[Any, ...] = ()
    twice: tuple[Any, ...] = ()
    allowed: str = ""


def fit_to_backbone(key: str, parameter: Simple, *, depth: int, width: int) -> Fitted:
    """Keeps the start layers that a backbone of this depth has, and the reduction factors up to its width.

    Of two values that mean the same layer (-1 and 5 of six) the first is kept. Other keys are left as they are.
    """
    if key == "start_layer":
        allowed = (
            f"{1 - depth} to -1, or 1 to {depth - 1}, in a backbone of {depth} layers"
            if depth > 1
            else "none, since a backbone of 1 layer has no layer before a start layer"
        )
    elif key == "reduction_factor":
        allowed = f"1 to {width}, the width of the backbone"
    else:
        return Fitted(parameter)
    kept: dict[int, Any] = {}
    too_far, twice = [], []
    for value in parameter.values():
        place = value + depth if key == "start_layer" and value < 0 else value
        if not 1 <= place < (depth if key == "start_layer" else width + 1):
            too_far.append(value)
        elif place in kept:
            twice.append(value)
        else:
            kept[place] = value
    left: Simple | None = parameter
    if too_far or twice:
        values = tuple(kept.values())
        left = (Choice(values) if len(values) > 1 else Fixed(values[0])) if values else None
    return Fitted(left, tuple(too_far), tuple(twice), allowed)
