"""Models that are damaged in one setting: a plan, or a word of what is wrong, and never anything else."""

from __future__ import annotations

import json
import os
import random
import re
from pathlib import Path
from typing import Any

import pytest

from autotune.study.planning import plan_for
from autotune.study.pricing import Pricer
from sherl.errors import SherlError
from tests.autotune.warm import run_warm
from tests.sherl.tiny import tiny_config

SPACE = """
training: {batch_size: 2, epochs: 1}
methods:
  sherl: {learning_rate: 1e-3, reduction_factor: 2, insertion: single, start_layer: -1}
  full: {learning_rate: 1e-4}
"""
LEFT_OUT = object()
VALUES: tuple[Any, ...] = (LEFT_OUT, None, -1, 0, 1, 3, 2**40, 10**30, 1.5, "frob", [], [1], {}, True)
SIZED = re.compile(
    r"size|width|dim|heads|layers|depth|act|drop|eps|rope|positions|token_id|channels|dtype|vocab|ff|kv|init"
)
"""Settings that models are made by. Without the number of blocks transformers takes as many as it likes, which is slow."""
KEPT = ("chunk_size_feed_forward", "num_hidden_layers", "n_layer")
FAMILIES = (
    "bert",
    "deberta-v2",
    "llama",
    "gemma3_text",
    "gpt2",
    "t5",
    "bart",
    "whisper",
    "vit",
    "swin",
    "resnet",
    "vilt",
)


def plan(source: Path, space: Path) -> Any:
    return plan_for(
        str(source),
        memory_cap="1GB",
        device="RTX 4070",
        batch_size=2,
        max_length=8,
        target_length=3,
        classes=2,
        image_size=None,
        task=None,
        methods=None,
        space=str(space),
        precision=None,
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_one_damaged_setting(family: str, tmp_path: Path) -> None:
    whole = json.loads(tiny_config(family).to_json_string(use_diff=False))
    space, file = tmp_path / "space.yaml", tmp_path / "config.json"
    space.write_text(SPACE)
    draw = random.Random(family)
    pairs = [(key, value) for key in sorted(whole) if SIZED.search(key) and key not in KEPT for value in VALUES]
    told = list[str]()
    for key, value in draw.sample(pairs, 5):
        changed = {**whole, key: value}
        if value is LEFT_OUT:
            del changed[key]
        file.write_text(json.dumps(changed))
        try:
            made = plan(file, space)
        except SherlError as error:
            told.append(str(error))
            continue
        pricer = Pricer(made.job)
        for candidate in made.candidates:
            price = pricer.price(candidate, largest_batch=False)
            assert (price.figures is None) == bool(price.problem), (key, value)
    assert all(str(file) in message for message in told)


def test_the_command_says_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**tiny_config("bert").to_dict(), "num_attention_heads": 5}))
    done = run_warm(
        ["plan", "--model", str(tmp_path), "--device", "8GB", "--json"],
        cwd=tmp_path,
        environment=dict(os.environ),
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert "is not a multiple of the number of attention heads (5). Take the config.json" in done.stderr
    assert "Traceback" not in done.stderr
