"""What a person has told torch's CUDA allocator by its environment variable, and what of it predictions know.

As torch 2.11 to 2.13 read it (``c10/core/AllocatorConfig.cpp``, ``c10/cuda/CUDAAllocatorConfig.h``): ``PYTORCH_CUDA_ALLOC_CONF``
where it is set, even to nothing, else ``PYTORCH_HIP_ALLOC_CONF``, else ``PYTORCH_ALLOC_CONF``; ``key:value`` with commas between, spaces of
no meaning, the last of a key counts.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version

from autotune.errors import ConfigError
from autotune.memory.allocator_rules import LARGE_BUFFER, MIB, MIN_LARGE_ALLOC, ROUNDED_INTERVALS, AllocatorRules

#: The first of them that is set is read.
VARIABLES = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF", "PYTORCH_ALLOC_CONF")

_SEGMENT = "large_segment_size_mb"
_COLLECTION = "garbage_collection_threshold"
_DIVISIONS = "roundup_power2_divisions"
_SIZES = ("max_split_size_mb", "max_non_split_rounding_mb", _SEGMENT)
_FLAGS = (
    "expandable_segments",
    "release_lock_on_cudamalloc",
    "release_lock_on_hipmalloc",
    "pinned_use_cuda_host_register",
    "pinned_use_hip_host_register",
    "pinned_use_background_threads",
    "graph_capture_record_stream_reuse",
    "pinned_free_catch_all",
    "throw_on_cudamalloc_oom",
)
_PINNED = ("pinned_reserve_segment_size_mb", "pinned_max_round_threshold_mb", "pinned_max_cached_size_mb")
_OTHERS = ("pinned_num_register_threads", "per_process_memory_fraction", "backend")
_SINCE = {  # the versions of torch that know these; the others are known from 2.11 on
    "pinned_free_catch_all": (2, 12),
    "throw_on_cudamalloc_oom": (2, 12),
    "pinned_max_round_threshold_mb": (2, 13),
    "pinned_max_cached_size_mb": (2, 13),
}
_KEYS = (*_SIZES, *_FLAGS, *_PINNED, *_OTHERS, _COLLECTION, _DIVISIONS)
_OLDEST_FIRST = (2, 12)
_SPACE = r"[ \t\n\v\f\r]"  # as C has it
_MOST_MEGABYTES = (2**64 - 1) // MIB
_NO_LIMIT = 2**63  # bytes: more than anything has
_WORDS = {
    "expandable_segments": "expandable segments",
    "large_segment_bytes": "large_segment_size_mb",
    "max_split_bytes": "max_split_size_mb",
    "max_unsplit_rounding_bytes": "max_non_split_rounding_mb",
    "divisions": "roundup_power2_divisions",
}


@dataclass(frozen=True, kw_only=True)
class AllocatorSettings:
    """rules: what predictions follow. unmodelled: settings, as given, that change what the allocator reserves in a way that no
    prediction knows. variable: where it was read; "" where none is set."""

    rules: AllocatorRules = field(default_factory=AllocatorRules)
    unmodelled: tuple[str, ...] = ()
    variable: str = ""

    @classmethod
    def of(cls, environment: Mapping[str, str] = os.environ, *, torch: str = "") -> AllocatorSettings:
        """The settings of an environment. torch: the version that reads them; "" is the one that is installed.

        Raises:
            ConfigError: torch would refuse them, when CUDA starts.
        """
        variable = next((name for name in VARIABLES if name in environment), "")
        given = _read(environment[variable] if variable else "", variable, torch or version("torch"))
        if given.values.get("backend") == "cudaMallocAsync":  # which knows nothing of the others
            return cls(unmodelled=("backend:cudaMallocAsync",), variable=variable)
        return cls(
            rules=given.rules,
            unmodelled=tuple(f"{key}:{value}" for key, value in given.values.items() if key == _COLLECTION),
            variable=variable,
        )

    @property
    def page_bytes(self) -> int:
        """By less than this, what is reserved may exceed the allocator's limit; 0 where segments do not grow: torch compares a
        request with the limit, and then maps whole pages."""
        return self.rules.large_segment_bytes if self.rules.expandable_segments else 0

    @property
    def found(self) -> str:
        """What predictions know of, in words; "" where that is the default."""
        default = AllocatorRules()
        told = [words for name, words in _WORDS.items() if getattr(self.rules, name) != getattr(default, name)]
        return f"{', '.join(told)}, by {self.variable}" if told else ""

    @property
    def warning(self) -> str:
        """What no prediction knows of, in words with what to do; "" where there is nothing."""
        if not self.unmodelled:
            return ""
        return (
            f"{self.variable} sets {', '.join(self.unmodelled)}, which predictions do not model: a trial may reserve more or less "
            f"than is said. Its cap holds all the same. Without {'it' if len(self.unmodelled) == 1 else 'them'} predictions are "
            "as exact as they can be"
        )


@dataclass(frozen=True, kw_only=True)
class _Given:
    """values: by key, the last of each; sizes as whole megabytes. divisions, oldest_first: of the rules."""

    values: Mapping[str, str]
    divisions: tuple[int, ...]
    oldest_first: bool

    @property
    def rules(self) -> AllocatorRules:
        default = AllocatorRules()
        segment = int(self.values.get(_SEGMENT, LARGE_BUFFER // MIB))
        rounding = self.values.get("max_non_split_rounding_mb")
        split = int(self.values.get("max_split_size_mb", _NO_LIMIT)) * MIB
        return AllocatorRules(
            expandable_segments=self.values.get("expandable_segments") == "True",
            large_segment_bytes=segment * MIB,
            max_split_bytes=split if split < _NO_LIMIT else default.max_split_bytes,
            max_unsplit_rounding_bytes=None if rounding is None else int(rounding) * MIB,
            divisions=self.divisions if max(self.divisions) > 1 else default.divisions,
            oldest_first=self.oldest_first,
        )


def _read(text: str, variable: str, torch: str) -> _Given:
    """As torch's parser: one sign of any kind stands between a key and its value, and behind a value."""
    tokens = re.findall(r"[,:\[\]]|[^,:\[\]]+", re.sub(_SPACE, "", text))
    release = tuple(int(number) for number in torch.split(".")[:2])
    known = [key for key in _KEYS if release >= _SINCE.get(key, release)]
    pairs: list[tuple[str, list[str]]] = []
    place, problem = 0, ""
    while place < len(tokens):
        key, end = tokens[place], place + 2
        if key not in known:
            problem = f"there is no setting {key!r}; there are {', '.join(known)}"
            break  # what stands before it may be why
        if tokens[end : end + 1] == ["["]:
            end = tokens.index("]", end) if "]" in tokens[end:] else len(tokens)
        if end >= len(tokens):
            problem = f"{key} has no value; a setting is {key}:VALUE"
            break
        pairs.append((key, tokens[place + 2 : end + 1]))
        place = end + 2
    # the others must suit large segments, wherever those are named
    segments = [_whole(value[0]) for key, value in pairs if key == _SEGMENT]
    least = LARGE_BUFFER // MIB if not segments else segments[-1] or 0
    values: dict[str, str] = {}
    divisions: tuple[int, ...] = (0,) * ROUNDED_INTERVALS
    for key, parts in pairs:
        value = "".join(parts)
        wanted = _wanted(key, value, least)
        found = _divided(divisions, parts) if key == _DIVISIONS else divisions
        if key == "backend" and values.get(key, value) != value:
            wanted = "one backend"
        if wanted or found is None:
            wanted = wanted or "a power of 2, or a list like [256:1,512:2,>:4] of such"
            raise _refused(text, variable, f"{key} is {value!r}; allowed is {wanted}")
        divisions = found
        values[key] = str(min(_whole(value) or 0, _MOST_MEGABYTES)) if key in _SIZES else value
    if problem:
        raise _refused(text, variable, problem)
    return _Given(values=values, divisions=divisions, oldest_first=release == _OLDEST_FIRST)


def _wanted(key: str, value: str, least: int) -> str:
    """What would be allowed instead; "" for a value that torch takes. least: megabytes of a large segment."""
    if key in _FLAGS:
        return "" if value in ("True", "False") else "True or False"
    if key == "backend":
        return "" if value in ("native", "cudaMallocAsync") else "native or cudaMallocAsync"
    number = _whole(value)
    if key == "pinned_num_register_threads":
        return "" if number and number <= 128 and number.bit_count() == 1 else "a power of 2, at most 128"
    if key in _PINNED:
        least = int(key == "pinned_reserve_segment_size_mb")
        return "" if number is not None and number >= least else f"a whole number of megabytes, at least {least}"
    if key in _SIZES:
        least = MIN_LARGE_ALLOC // MIB + 1 if key == _SEGMENT else least
        return "" if number is not None and number >= least else f"a whole number of megabytes, at least {least}"
    share = _share(value)
    if key == _COLLECTION:
        return "" if share is not None and 0 < share < 1 else "a number between 0 and 1, both excluded"
    if key == "per_process_memory_fraction":
        return "" if share is not None and 0 <= share <= 1 else "a number from 0 to 1"
    return ""


def _whole(value: str) -> int | None:
    """The number that a value begins with, as ``std::stoull`` has it: what follows is passed over, a negative one wraps around."""
    number = re.match(r"[+-]?\d+", value)
    if number is None or abs(int(number[0])) >= 2**64:
        return None
    return int(number[0]) % 2**64


def _share(value: str) -> float | None:
    """The number that a value begins with, as ``std::stod`` has it: what follows is passed over, one that is too small is none."""
    number = re.match(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", value, re.IGNORECASE)
    if number is None:
        return None
    share = float(number[0])
    vanished = share == 0 and re.search(r"[1-9]", re.split("e", number[0], flags=re.IGNORECASE)[0])
    return None if vanished else share


def _divided(before: tuple[int, ...], parts: list[str]) -> tuple[int, ...] | None:
    """The divisions of each interval; None for what torch refuses. before: those that stand where nothing is said."""
    if parts[0] != "[":
        plain = _whole(parts[0])
        return (plain,) * ROUNDED_INTERVALS if plain and plain.bit_count() == 1 else None
    found = list(before)
    inside = parts[1:-1]
    last, first = 0, True
    for place in range(0, len(inside), 4):  # interval, sign, divisions, sign
        bound = inside[place]
        number = _whole(inside[place + 2]) if place + 2 < len(inside) else None
        if number is None or number.bit_count() > 1:
            return None
        if bound == ">":
            found[last + 1 :] = [number] * (ROUNDED_INTERVALS - last - 1)
            continue
        size = _whole(bound)
        if not size or size.bit_count() > 1:
            return None
        last = min(size.bit_length() - 1, ROUNDED_INTERVALS - 1)
        begin = 0 if first else last
        found[begin : last + 1] = [number] * (last + 1 - begin)
        first = False
    return tuple(found)


def _refused(text: str, variable: str, what: str) -> ConfigError:
    return ConfigError(f"{variable} is {text!r}, which torch refuses: {what}. Mend it, or unset {variable}.")
