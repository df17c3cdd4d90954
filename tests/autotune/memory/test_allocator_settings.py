"""What the environment tells torch's CUDA allocator, read as torch itself reads it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from autotune.errors import ConfigError
from autotune.memory.allocator_settings import VARIABLES, AllocatorSettings
from autotune.memory.caching_allocator import LARGE_BUFFER, MIB

CUDA, HIP, GENERAL = VARIABLES

# torch reads the variables once in a process, so each case has a fork of its own
ASKS_TORCH = """
import json, os, sys
import torch

answers = []
for variables in json.load(sys.stdin):
    read, write = os.pipe()
    if os.fork() == 0:
        os.environ.update(variables)
        try:
            said = torch._C._accelerator_getAllocatorSettings()
        except (ValueError, RuntimeError):
            said = None
        os.write(write, json.dumps([said]).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as answer:
        answers.append(json.load(answer)[0])
    os.wait()
json.dump(answers, sys.stdout)
"""


def torch_says(cases: list[dict[str, str]]) -> list[str | None]:
    """What torch takes for its settings in each of these environments; None where it refuses them."""
    clean = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    done = subprocess.run(
        [sys.executable, "-c", ASKS_TORCH], input=json.dumps(cases), capture_output=True, text=True, timeout=120, env=clean
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answers: list[str | None] = json.loads(done.stdout)
    return answers


def settings(text: str) -> AllocatorSettings:
    return AllocatorSettings.of({GENERAL: text})


def test_the_variable_that_torch_reads_is_read() -> None:
    segments, size, rounds = "expandable_segments:True", "max_split_size_mb:64", "roundup_power2_divisions:4"
    cases: list[dict[str, str]] = [
        {},
        {GENERAL: segments},
        {CUDA: segments},
        {CUDA: segments, GENERAL: size},
        {HIP: rounds, GENERAL: size},
        {CUDA: segments, HIP: rounds, GENERAL: size},
        {CUDA: "", GENERAL: size},
    ]
    for case, said in zip(cases, torch_says(cases), strict=True):
        found = AllocatorSettings.of(case)
        assert case.get(found.variable, "") == said


TAKEN: dict[str, dict[str, Any]] = {
    "": {},
    "expandable_segments:True": {"expandable_segments": True},
    " expandable_segments : True , ": {"expandable_segments": True},
    "expandable_segments:True,expandable_segments:False": {},
    "max_split_size_mb:20,expandable_segments:True": {
        "expandable_segments": True,
        "unmodelled": ("max_split_size_mb:20",),
    },
    "max_split_size_mb:64.5": {"unmodelled": ("max_split_size_mb:64",)},
    "max_split_size_mb:-1": {},
    "max_non_split_rounding_mb:20": {},
    "garbage_collection_threshold:0.8": {"unmodelled": ("garbage_collection_threshold:0.8",)},
    "roundup_power2_divisions:4": {"unmodelled": ("roundup_power2_divisions:4",)},
    "roundup_power2_divisions:1": {},
    "roundup_power2_divisions:[256:1,512:2,>:8]": {"unmodelled": ("roundup_power2_divisions:[256:1,512:2,>:8]",)},
    "roundup_power2_divisions:[256:1,>:0],expandable_segments:True": {"expandable_segments": True},
    "large_segment_size_mb:20": {},
    "large_segment_size_mb:64,max_split_size_mb:64": {
        "unmodelled": ("large_segment_size_mb:64", "max_split_size_mb:64"),
        "large_segment_bytes": 64 * MIB,
    },
    "backend:native": {},
    "backend:cudaMallocAsync,expandable_segments:True": {"unmodelled": ("backend:cudaMallocAsync",)},
    "pinned_use_background_threads:True,per_process_memory_fraction:0.5": {},
}

REFUSED = {
    "expandable_segments:true": "True or False",
    "expandable_segments": "has no value",
    "expandable_segments:": "has no value",
    "expandable_segments:True;max_split_size_mb:64": "True or False",
    ",": "no setting ','",
    "max_split_size_mb:19": "at least 20",
    "max_split_size_mb:x": "a whole number",
    "large_segment_size_mb:64,max_split_size_mb:32": "at least 64",
    "large_segment_size_mb:10": "at least 11",
    "garbage_collection_threshold:0": "between 0 and 1",
    "garbage_collection_threshold:1": "between 0 and 1",
    "roundup_power2_divisions:3": "a power of 2",
    "roundup_power2_divisions:0": "a power of 2",
    "roundup_power2_divisions:[3:1]": "a power of 2",
    "roundup_power2_divisions:[256:3]": "a power of 2",
    "roundup_power2_divisions:[256:1": "has no value",
}

# of the CUDA part, which a build without CUDA does not look at
REFUSED_WITH_CUDA = {
    "nonsense:1": "no setting 'nonsense'",
    "Expandable_segments:True": "no setting 'Expandable_segments'",
    "backend:async": "native or cudaMallocAsync",
}


def test_what_torch_takes_and_refuses_is_taken_and_refused() -> None:
    for text, said in zip(TAKEN, torch_says([{GENERAL: text} for text in TAKEN]), strict=True):
        assert said == text
    assert torch_says([{GENERAL: text} for text in REFUSED]) == [None] * len(REFUSED)


@pytest.mark.parametrize(("text", "expected"), TAKEN.items())
def test_what_is_taken(text: str, expected: dict[str, Any]) -> None:
    found = settings(text)
    assert found == AllocatorSettings(variable=GENERAL, **expected)
    assert bool(found.warning) == bool(found.unmodelled)
    assert all(name in found.warning for name in found.unmodelled)
    assert found.page_bytes == (LARGE_BUFFER if found.expandable_segments else 0)


@pytest.mark.parametrize(("text", "words"), {**REFUSED, **REFUSED_WITH_CUDA}.items())
def test_what_is_refused_says_what_is_allowed(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match="which torch refuses") as told:
        AllocatorSettings.of({CUDA: text, GENERAL: ""})
    assert words in str(told.value)
    assert repr(text) in str(told.value)
    assert f"unset {CUDA}" in str(told.value)


def test_nothing_set_is_torchs_default() -> None:
    assert AllocatorSettings.of({}) == AllocatorSettings()
    assert (AllocatorSettings().found, AllocatorSettings().warning) == ("", "")
    assert settings("expandable_segments:True").found == f"expandable segments, by {GENERAL}"


def test_pages_follow_the_size_of_large_segments() -> None:
    assert settings("large_segment_size_mb:64,expandable_segments:True").page_bytes == 64 * MIB
