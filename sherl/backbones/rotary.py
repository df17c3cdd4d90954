"""Rotary positions whose angles are scaled for long texts: what of that depends on a batch, and what it bounds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_FACTORS = ("short_factor", "long_factor")


def settings_of(config: Any) -> Iterator[dict[str, Any]]:
    """The rotary settings of a configuration: one set, or one for each type of block."""
    rope = getattr(config, "rope_parameters", None) or {}
    parts = [part for part in rope.values() if isinstance(part, dict)]
    yield from parts or [rope]


def is_dynamic(config: Any) -> bool:
    """Whether angles are made anew for each longest row so far, from any length on."""
    return any(rope.get("rope_type") == "dynamic" for rope in settings_of(config))


def longest(config: Any) -> int | None:
    """How many positions angles stay the same for; None where nothing bounds them.

    LongRoPE has two sets of angles, and the longest row of a batch says which all rows get: one more token than the model was
    first pretrained on would change the hidden states of every token before it, and of all other rows.
    """
    bounds = []
    for rope in settings_of(config):
        if rope.get("rope_type") == "longrope":
            own = getattr(
                config, "original_max_position_embeddings", None
            )  # Phi-3 has it beside them, and it goes first
            bounds.append(own or rope.get("original_max_position_embeddings") or config.max_position_embeddings)
    return min(map(int, bounds), default=None)


def note_of(config: Any) -> str | None:
    """What a person is told where :func:`longest` bounds a model that its configuration calls longer; None elsewhere."""
    bound, named = longest(config), getattr(config, "max_position_embeddings", None)
    if bound is None or named == bound:
        return None
    return (
        f"It is taken up to {bound} tokens, those that are written among them, and not up to the {named} of its configuration: "
        "beyond, its rotary angles ('longrope') are others for all rows of a batch as soon as one of them is so long."
    )


def fit_factors(config: Any, head_width: int) -> None:
    """Give LongRoPE as many factors as heads of this width have angles, evenly spaced over those that there were.

    The angles of a narrower head span the same range, so each gets the factor of the one that is nearest to it from below.
    """
    for rope in settings_of(config):
        count = len(range(0, int(head_width * rope.get("partial_rotary_factor", 1.0)), 2))
        for key in _FACTORS:
            if isinstance(factors := rope.get(key), list):
                rope[key] = [factors[place * len(factors) // count] for place in range(count)]
