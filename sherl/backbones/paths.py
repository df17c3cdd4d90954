"""Paths inside a model that name several modules at once."""

from __future__ import annotations

from torch import nn

EVERY = "*"
LAST = "-1"
EITHER = "|"


def matching(module: nn.Module, pattern: str) -> list[str]:
    """The paths that a pattern names, in the model's order.

    In a pattern ``*`` stands for every child of a module, ``-1`` for its last one, ``a|b`` for a child of either name. A
    path without these names itself, whether a module is there or not; of a pattern what is not there is left out.
    """
    parts = pattern.split(".")
    if not any(part in (EVERY, LAST) or EITHER in part for part in parts):
        return [pattern]
    found: list[tuple[str, nn.Module]] = [("", module)]
    for part in parts:
        found = [
            (f"{path}.{name}".lstrip("."), child) for path, parent in found for name, child in _children(parent, part)
        ]
    return [path for path, _ in found]


def _children(parent: nn.Module, part: str) -> list[tuple[str, nn.Module]]:
    children = list(parent.named_children())
    if part == EVERY:
        return children
    if part == LAST:
        return children[-1:]
    names = part.split(EITHER)
    return [(name, child) for name, child in children if name in names]
