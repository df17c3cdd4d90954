"""Which blocks of a stack a method reads: by list or by rule."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TypeAlias

from sherl.errors import SpecError
from sherl.registry import nearest

KeptLayers: TypeAlias = tuple[int, ...] | str | None
"""Different block numbers (0-based, of each stack); or a rule; None for all.

- ``all``;
- ``every:K``: the last block, the K-th before it, and so on (``every:2`` of 12: 1, 3, 5, 7, 9, 11);
- ``last:K``: the last K blocks;
- ``drop:I,J,...``: all but these.
"""

_RULES = ("all", "every", "last", "drop")
_ALLOWED = (
    "allowed are different whole numbers of at least 0, 'all', 'every:K', 'last:K' (K at least 1) and 'drop:I,J,...'"
)


def as_setting(value: object) -> object:
    """A list, as JSON and YAML have it, as a tuple; anything else as it is."""
    return tuple(value) if isinstance(value, list) else value


def kept_layers_problem(value: object) -> list[str]:
    """The problem of the setting, if it has one."""
    if value is None:
        return []
    if isinstance(value, str):
        return _rule_problem(value)
    if isinstance(value, tuple) and _different_numbers(value):
        return []
    return [
        f"kept_layers must be different whole numbers of at least 0, or a rule, or absent for all; {value!r} was given; "
        + _ALLOWED
    ]


def _rule_problem(rule: str) -> list[str]:
    name, _, rest = rule.partition(":")
    good = {
        "all": rule == "all",
        "every": re.fullmatch("[1-9][0-9]*", rest) is not None,
        "last": re.fullmatch("[1-9][0-9]*", rest) is not None,
        "drop": re.fullmatch("[0-9]+(,[0-9]+)*", rest) is not None,
    }
    if good.get(name):
        return []
    return [f"kept_layers has no rule {rule!r}.{nearest(name, _RULES) if name not in _RULES else ''} {_ALLOWED}"]


def _different_numbers(values: Iterable[object]) -> bool:
    whole = [n for n in values if isinstance(n, int) and not isinstance(n, bool) and n >= 0]
    return len(whole) == len(list(values)) == len(set(whole))


def kept_of(kept: KeptLayers, depth: int, *, method: str, deepest: int | None = None) -> tuple[int, ...]:
    """The kept blocks of a stack of ``depth`` blocks, sorted.

    deepest: depth of the backbone's deepest stack (default: this one); a block that no stack has is refused.

    Raises:
        SpecError: a block is none of the backbone's.
    """
    deepest = depth if deepest is None else deepest
    if kept is None or kept == "all":
        return tuple(range(depth))
    if isinstance(kept, tuple):
        named, chosen = set(kept), set(kept)
    else:
        name, _, rest = kept.partition(":")
        named = {int(part) for part in rest.split(",")} if name == "drop" else {int(rest) - 1}
        chosen = {
            "every": set(range(depth - 1, -1, -int(rest))) if name == "every" else set(),
            "last": set(range(max(0, depth - int(rest)), depth)) if name == "last" else set(),
            "drop": set(range(depth)) - named,
        }[name]
    if max(named, default=0) >= deepest:
        raise SpecError(
            f"Method {method}: kept_layers {list(kept) if isinstance(kept, tuple) else kept!r} has a block that the backbone "
            f"does not have, or asks for more than there are: allowed are 0 to {deepest - 1}, and rules over at most "
            f"{deepest} blocks."
        )
    return tuple(sorted(layer for layer in chosen if layer < depth))
