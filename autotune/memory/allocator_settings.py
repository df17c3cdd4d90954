"""What a person has told torch's CUDA allocator by its environment variable, and what of it predictions know.

As torch 2.11 to 2.13 read it (``c10/core/AllocatorConfig.cpp``, ``c10/cuda/CUDAAllocatorConfig.h``): ``PYTORCH_CUDA_ALLOC_CONF``
where it is set, even to nothing, else ``PYTORCH_HIP_ALLOC_CONF``, else ``PYTORCH_ALLOC_CONF``; ``key:value`` with commas between, spaces of
no meaning, the last of a key counts.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from autotune.errors import ConfigError
from autotune.memory.caching_allocator import LARGE_BUFFER, MIB, MIN_LARGE_ALLOC

#: The first of them that is set is read.
VARIABLES = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF", "PYTORCH_ALLOC_CONF")

_SIZES = ("max_split_size_mb", "max_non_split_rounding_mb", "large_segment_size_mb")
_FLAGS = (
    "expandable_segments",
    "release_lock_on_cudamalloc",
    "pinned_use_cuda_host_register",
    "pinned_use_background_threads",
    "graph_capture_record_stream_reuse",
    "pinned_free_catch_all",
    "throw_on_cudamalloc_oom",
)
_OTHERS = (  # of pinned host memory, or what a trial sets itself
    "pinned_num_register_threads",
    "pinned_reserve_segment_size_mb",
    "pinned_max_round_threshold_mb",
    "pinned_max_cached_size_mb",
    "per_process_memory_fraction",
)
_KEYS = (*_SIZES, *_FLAGS, *_OTHERS, "garbage_collection_threshold", "roundup_power2_divisions", "backend")


@dataclass(frozen=True, kw_only=True)
class AllocatorSettings:
    """expandable_segments: whether segments grow in pages. unmodelled: settings, as given, that change what the allocator reserves in
    a way that no prediction knows. large_segment_bytes: of segments for requests below 10 MiB, and of pages. variable: where it
    was read; "" where none is set."""

    expandable_segments: bool = False
    unmodelled: tuple[str, ...] = ()
    large_segment_bytes: int = LARGE_BUFFER
    variable: str = ""

    @classmethod
    def of(cls, environment: Mapping[str, str] = os.environ) -> AllocatorSettings:
        """The settings of an environment.

        Raises:
            ConfigError: torch would refuse them, when CUDA starts.
        """
        variable = next((name for name in VARIABLES if name in environment), "")
        given = _read(environment[variable], variable) if variable else {}
        segment = int(given.get("large_segment_size_mb", LARGE_BUFFER // MIB)) * MIB
        if given.get("backend") == "cudaMallocAsync":  # which knows nothing of the others
            return cls(unmodelled=("backend:cudaMallocAsync",), variable=variable)
        return cls(
            expandable_segments=given.get("expandable_segments") == "True",
            unmodelled=tuple(f"{key}:{value}" for key, value in given.items() if _changes(key, value)),
            large_segment_bytes=segment,
            variable=variable,
        )

    @property
    def page_bytes(self) -> int:
        """By less than this, what is reserved may exceed the allocator's limit; 0 where segments do not grow: torch compares a
        request with the limit, and then maps whole pages."""
        return self.large_segment_bytes if self.expandable_segments else 0

    @property
    def found(self) -> str:
        """What predictions know of, in words; "" where that is the default."""
        return f"expandable segments, by {self.variable}" if self.expandable_segments else ""

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


def _read(text: str, variable: str) -> dict[str, str]:
    """Values by key; those of sizes are whole megabytes."""
    tokens = re.findall(r"[,:\[\]]|[^,:\[\]]+", re.sub(r"\s", "", text))
    given: dict[str, str] = {}
    place = 0
    while place < len(tokens):
        key = tokens[place]
        if key not in _KEYS:
            raise _refused(text, variable, f"there is no setting {key!r}; there are {', '.join(_KEYS)}")
        end = place + 2
        if tokens[end : end + 1] == ["["]:
            while end < len(tokens) and tokens[end] != "]":
                end += 1
        if tokens[place + 1 : place + 2] != [":"] or end >= len(tokens) or tokens[end] in ",:":
            raise _refused(text, variable, f"{key} has no value; a setting is {key}:VALUE")
        value = "".join(tokens[place + 2 : end + 1])
        least = int(given.get("large_segment_size_mb", LARGE_BUFFER // MIB))
        wanted = _wanted(key, value, least)
        if wanted:
            raise _refused(text, variable, f"{key} is {value!r}; allowed is {wanted}")
        given[key] = str(_whole(value)) if key in _SIZES else value
        if end + 1 < len(tokens) and tokens[end + 1] != ",":
            raise _refused(
                text, variable, f"{tokens[end + 1]!r} follows {key}:{value}; settings have a comma between them"
            )
        place = end + 2
    return given


def _wanted(key: str, value: str, least: int) -> str:
    """What would be allowed instead; "" for a value that torch takes. least: megabytes of a large segment."""
    if key in _FLAGS:
        return "" if value in ("True", "False") else "True or False"
    if key == "backend":
        return "" if value in ("native", "cudaMallocAsync") else "native or cudaMallocAsync"
    if key == "roundup_power2_divisions":
        return "" if _divisions(value) is not None else "a power of 2, or a list like [256:1,512:2,>:4] of such"
    if key == "garbage_collection_threshold":
        number = re.match(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", value, re.IGNORECASE)
        return "" if number and 0 < float(number[0]) < 1 else "a number between 0 and 1, both excluded"
    if key in _SIZES:
        least = MIN_LARGE_ALLOC // MIB + 1 if key == "large_segment_size_mb" else least
        number_of = _whole(value)
        return "" if number_of is not None and number_of >= least else f"a whole number of megabytes, at least {least}"
    return ""


def _whole(value: str) -> int | None:
    """The number that a value begins with, as ``std::stoull`` has it: what follows is passed over, a negative one wraps around."""
    number = re.match(r"[+-]?\d+", value)
    return None if number is None else int(number[0]) % 2**64


def _divisions(value: str) -> list[int] | None:
    """The divisions that are named; None for what torch refuses."""
    if not value.startswith("["):
        plain = _whole(value)
        return [plain] if plain and plain.bit_count() == 1 else None
    found = []
    for part in filter(None, value[1:-1].split(",")):
        bound, _, divisions = part.partition(":")
        size, number = _whole(bound), _whole(divisions)
        if number is None or number.bit_count() > 1 or (bound != ">" and (not size or size.bit_count() > 1)):
            return None
        found.append(number)
    return found


def _changes(key: str, value: str) -> bool:
    """Whether a setting changes what is reserved, and predictions do not know how."""
    if key == "max_split_size_mb":
        return int(value) * MIB < 2**63  # more is no limit
    if key == "large_segment_size_mb":
        return int(value) * MIB != LARGE_BUFFER
    if key == "roundup_power2_divisions":
        return any(number > 1 for number in _divisions(value) or ())
    return key == "garbage_collection_threshold"


def _refused(text: str, variable: str, what: str) -> ConfigError:
    return ConfigError(f"{variable} is {text!r}, which torch refuses: {what}. Mend it, or unset {variable}.")
