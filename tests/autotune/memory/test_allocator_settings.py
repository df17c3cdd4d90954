"""What the environment tells torch's CUDA allocator, read as torch itself reads it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from autotune.errors import ConfigError
from autotune.memory.allocator_rules import LARGE_BUFFER, MIB, AllocatorRules
from autotune.memory.allocator_settings import VARIABLES, AllocatorSettings

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


EXPANDABLE = AllocatorRules(expandable_segments=True)
TAKEN: dict[str, AllocatorRules] = {
    "": AllocatorRules(),
    "expandable_segments:True": EXPANDABLE,
    " expandable_segments : True , ": EXPANDABLE,
    "expandable_segments,True": EXPANDABLE,  # torch does not look at the sign between
    "expandable_segments:True,expandable_segments:False": AllocatorRules(),
    "max_split_size_mb:20,expandable_segments:True": AllocatorRules(max_split_bytes=20 * MIB, expandable_segments=True),
    "max_split_size_mb:64.5": AllocatorRules(max_split_bytes=64 * MIB),
    "max_split_size_mb:-1": AllocatorRules(),  # it wraps around, to more than anything has
    "max_non_split_rounding_mb:33": AllocatorRules(max_unsplit_rounding_bytes=33 * MIB),
    "roundup_power2_divisions:4": AllocatorRules(divisions=(4,) * 16),
    "roundup_power2_divisions:1": AllocatorRules(),
    "roundup_power2_divisions:[256:1,512:2,>:8]": AllocatorRules(divisions=(*(1,) * 9, 2, *(8,) * 6)),
    "roundup_power2_divisions:[256:1,>:0],expandable_segments:True": EXPANDABLE,
    "roundup_power2_divisions:2,roundup_power2_divisions:[4:0]": AllocatorRules(divisions=(0, 0, 0, *(2,) * 13)),
    "roundup_power2_divisions:[>:4]": AllocatorRules(divisions=(0, *(4,) * 15)),
    "large_segment_size_mb:20": AllocatorRules(),
    "large_segment_size_mb:64,max_split_size_mb:64": AllocatorRules(
        large_segment_bytes=64 * MIB, max_split_bytes=64 * MIB
    ),
    "backend:native": AllocatorRules(),
    "pinned_use_background_threads:True,per_process_memory_fraction:0.5": AllocatorRules(),
}

UNMODELLED = {
    "garbage_collection_threshold:0.8": ("garbage_collection_threshold:0.8",),
    "backend:cudaMallocAsync,expandable_segments:True": ("backend:cudaMallocAsync",),
}

REFUSED = {
    "expandable_segments:true": "True or False",
    "expandable_segments": "has no value",
    "expandable_segments:": "has no value",
    "expandable_segments:True;max_split_size_mb:64": "True or False",
    "max_split_size_mb:19": "at least 20",
    "max_split_size_mb:64,large_segment_size_mb:65": "at least 65",
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
    ",": "no setting ','",
    "pinned_num_register_threads:3": "at most 128",
    "per_process_memory_fraction:1.1": "from 0 to 1",
    "nonsense:1": "no setting 'nonsense'",
    "Expandable_segments:True": "no setting 'Expandable_segments'",
    "backend:native,backend:cudaMallocAsync": "one backend",
    "backend:async": "native or cudaMallocAsync",
}


def test_what_torch_takes_and_refuses_is_taken_and_refused() -> None:
    taken = [*TAKEN, *UNMODELLED]
    for text, said in zip(taken, torch_says([{GENERAL: text} for text in taken]), strict=True):
        assert said == text
    assert torch_says([{GENERAL: text} for text in REFUSED]) == [None] * len(REFUSED)


@pytest.mark.parametrize(("text", "rules"), TAKEN.items())
def test_what_is_taken(text: str, rules: AllocatorRules) -> None:
    found = settings(text)
    assert found == AllocatorSettings(variable=GENERAL, rules=rules)
    assert found.warning == ""
    assert bool(found.found) == (rules != AllocatorRules())
    assert found.page_bytes == (LARGE_BUFFER if rules.expandable_segments else 0)


@pytest.mark.parametrize(("text", "unmodelled"), UNMODELLED.items())
def test_what_is_taken_and_not_modelled_is_said(text: str, unmodelled: tuple[str, ...]) -> None:
    found = settings(text)
    assert found == AllocatorSettings(variable=GENERAL, unmodelled=unmodelled)
    assert all(name in found.warning for name in unmodelled)


def test_a_setting_is_known_from_the_version_of_torch_on_that_has_it() -> None:
    late = {GENERAL: "pinned_max_cached_size_mb:64"}
    assert AllocatorSettings.of(late, torch="2.13.0+cu130").rules == AllocatorRules()
    for early in ("2.11.0", "2.12.1"):
        with pytest.raises(ConfigError, match="there is no setting 'pinned_max_cached_size_mb'"):
            AllocatorSettings.of(late, torch=early)


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
    told = settings("expandable_segments:True,max_split_size_mb:64").found
    assert told == f"expandable segments, max_split_size_mb, by {GENERAL}"


def test_pages_follow_the_size_of_large_segments() -> None:
    assert settings("large_segment_size_mb:64,expandable_segments:True").page_bytes == 64 * MIB
