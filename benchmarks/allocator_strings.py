"""Random settings of torch's allocator: what its own parser takes, refuses and makes of them, and what this project's does."""

from __future__ import annotations

import random

from allocator_build import RealAllocator

from autotune.errors import ConfigError
from autotune.memory.allocator_rules import ROUNDED_INTERVALS
from autotune.memory.allocator_settings import VARIABLES, AllocatorSettings

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
_SIZES = ("max_split_size_mb", "max_non_split_rounding_mb", "large_segment_size_mb")
_PINNED = (
    "pinned_num_register_threads",
    "pinned_reserve_segment_size_mb",
    "pinned_max_round_threshold_mb",
    "pinned_max_cached_size_mb",
)
_NUMBERS = (
    *[
        "0",
        "1",
        "2",
        "3",
        "8",
        "11",
        "20",
        "21",
        "64",
        "128",
        "129",
        "200",
        "-1",
        "-64",
        "64.5",
        "64x",
        "x",
        "1e3",
        "0x40",
        "+32",
        "9999999999999999999",
    ],
    str(2**64),
    "",
)
_SHARES = (*["0", "1", "0.5", ".5", "0.999", "1.0", "-0.5", "5e-1", "0.5x", "x", "1e-400", "nan", "inf"], "")
_DIVISIONS = (*["0", "1", "2", "3", "4", "64", "-1", "4.5", "8x", "x"], "")
_BOUNDS = (
    *[">", ">", "1", "2", "16", "256", "1024", "65536", "1048576", "3", "0", "x", "-1", "256.5", ">>", "64x"],
    "",
)


def draw(draws: random.Random) -> str:
    """One to four settings; most of them as they should be, some with a character too few or too many."""
    text = ",".join(_setting(draws) for _ in range(draws.choice((1, 1, 2, 2, 3, 4))))
    if draws.random() < 0.25:
        place = draws.randrange(len(text) + 1)
        text = (
            text[:place]
            + draws.choice(("", ",", ":", "[", "]", " ", "\t", ";", "1"))
            + text[place + draws.randint(0, 1) :]
        )
    return text


def differences(allocator: RealAllocator, text: str) -> str:
    """In what the two differ on this text; "" where they agree."""
    real = allocator.settings(text)
    try:
        read = AllocatorSettings.of({VARIABLES[0]: text}, torch=allocator.version)
    except ConfigError as error:
        return "" if real is None else f"taken by torch, refused here: {error}"
    if real is None:
        return "refused by torch, taken here"
    if real["backend"] != "native":
        return "" if read.unmodelled == ("backend:cudaMallocAsync",) else "backend"
    rules = read.rules
    unlimited = int(real["max_split"]) >= 2**63
    divisions = tuple(int(one) for one in real["divisions"].split())
    found = {
        "expandable_segments": bool(int(real["expandable_segments"])) == rules.expandable_segments,
        "large_segment": int(real["large_segment"]) == rules.large_segment_bytes,
        "max_split": rules.max_split_bytes is None if unlimited else int(real["max_split"]) == rules.max_split_bytes,
        "max_non_split_rounding": int(real["max_non_split_rounding"])
        == (rules.max_unsplit_rounding_bytes or rules.large_segment_bytes),
        "divisions": _effect(divisions) == _effect(rules.divisions or (0,) * ROUNDED_INTERVALS),
        "garbage_collection": (float(real["garbage_collection"]) > 0) == bool(read.unmodelled),
    }
    return ", ".join(name for name, same in found.items() if not same)


def _effect(divisions: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(max(1, one) for one in divisions)


def _setting(draws: random.Random) -> str:
    kind = draws.random()
    if kind < 0.3:
        return f"{draws.choice(_FLAGS)}:{draws.choice(('True', 'True', 'False', 'False', 'true', '1', ''))}"
    if kind < 0.6:
        return f"{draws.choice(_SIZES)}:{draws.choice(_NUMBERS)}"
    if kind < 0.65:
        return f"{draws.choice(_PINNED)}:{draws.choice(_NUMBERS)}"
    if kind < 0.75:
        return f"garbage_collection_threshold:{draws.choice(_SHARES)}"
    if kind < 0.8:
        return f"backend:{draws.choice(('native', 'native', 'cudaMallocAsync', 'async', ''))}"
    if kind < 0.82:
        return f"per_process_memory_fraction:{draws.choice(_SHARES)}"
    if kind < 0.83:
        return draws.choice(("nonsense:1", "", "max_split_size", "Expandable_segments:True"))
    if kind < 0.88:
        return f"roundup_power2_divisions:{draws.choice(_DIVISIONS)}"
    parts = [
        f"{draws.choice(_BOUNDS)}:{draws.choice(_DIVISIONS[:6] * 3 + _DIVISIONS)}" for _ in range(draws.randint(0, 4))
    ]
    return f"roundup_power2_divisions:[{','.join(parts)}]"
