"""Which GPUs ``CUDA_VISIBLE_DEVICES`` shows, read as CUDA reads it.

Its rules, as torch follows them too (``torch.cuda._parse_visible_devices``): the list is of indices or, where it begins with
``GPU-`` or ``MIG-``, of UUIDs of that kind, which may be cut short. It is read up to its first invalid entry. An index is the number
that an entry begins with. A GPU that is named twice hides all.
"""

from __future__ import annotations

import re
from collections.abc import Callable

_NUMBER = re.compile(r"[+-]?[0-9]+")


def visible_names(listed: str, count: int, uuid_of: Callable[[str], str | None]) -> list[int | str]:
    """NVML's names (index or whole UUID) of the GPUs that the list shows, in its order.

    count: how many GPUs there are. uuid_of: the whole UUID that a UUID or its beginning stands for; None where it stands for none
    or for several.
    """
    prefix = next((kind for kind in ("GPU-", "MIG-") if listed.strip().startswith(kind)), None)
    found: list[int | str] = []
    for entry in listed.split(","):
        name = _index(entry, count) if prefix is None else _uuid(entry.strip(), prefix, uuid_of)
        if name is None:
            break
        if name in found:
            return []
        found.append(name)
    return found


def _index(entry: str, count: int) -> int | None:
    number = _NUMBER.match(entry.strip())
    index = -1 if number is None else int(number.group())
    return index if 0 <= index < count else None


def _uuid(entry: str, prefix: str, uuid_of: Callable[[str], str | None]) -> str | None:
    return uuid_of(entry) if entry.startswith(prefix) else None
