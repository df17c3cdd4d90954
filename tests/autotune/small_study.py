"""A study that takes seconds: a tiny BERT with random weights, 120 rows, a space of a few shapes; and the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch
from transformers import BertConfig, BertModel

from tests.autotune.warm import run_warm
from tests.sherl.data_samples import WORDS, tiny_tokenizer, two_class_rows, write_csv

ROOT = Path(__file__).parents[2]
SPACE = """
name: small
training: {batch_size: 8, epochs: 2}
methods:
  sherl:
    learning_rate: {float: {low: 1e-3, high: 5e-3, log: true}}
    reduction_factor: {choice: [2, 4]}
    start_layer: {choice: [-1, -2]}
    late_route: {choice: [none, {lora: {rank: 2}}]}
  linear_probe:
    learning_rate: {float: {low: 1e-3, high: 3e-2, log: true}}
  full:
    learning_rate: {float: {low: 1e-4, high: 1e-3, log: true}}
"""


def make_model(folder: Path, *, width: int = 32) -> Path:
    """A BERT of three blocks with random weights and its tokenizer, as ``save_pretrained`` writes them."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=4 + len(WORDS),
        hidden_size=width,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=4 * width,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def make_inputs(folder: Path, *, rows: int = 120, space: str = SPACE, width: int = 32) -> dict[str, str]:
    """Model, data and space in a folder, as options of ``autotune run``, which confirms nothing unless a test says otherwise."""
    (folder / "space.yaml").write_text(space)
    return {
        "--model": str(make_model(folder / "model", width=width)),
        "--train": str(write_csv(folder / "rows.csv", two_class_rows(rows), header=("review", "stars"))),
        "--text": "review",
        "--label": "stars",
        "--space": str(folder / "space.yaml"),
        "--confirm": "0",
    }


def command(*arguments: str | Path, options: dict[str, str] | None = None) -> list[str]:
    """The command line as a person types it, by this interpreter."""
    words = [str(argument) for argument in arguments]
    for name, value in (options or {}).items():
        words += [name, value]
    return [sys.executable, "-c", "from autotune.cli import main; main()", *words]


def environment() -> dict[str, str]:
    """This process's, able to import the tests as plugins."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}


def autotune(
    *arguments: str | Path,
    options: dict[str, str] | None = None,
    cwd: Path | None = None,
    code: int | tuple[int, ...] = 0,
) -> subprocess.CompletedProcess[str]:
    """Runs one command to its end and requires its exit code, or one of several."""
    words = command(*arguments, options=options)[3:]
    done = run_warm(words, cwd=cwd, environment=environment(), timeout=400)
    assert done.returncode in (code if isinstance(code, tuple) else (code,)), (
        f"exit code {done.returncode}, wanted {code}\n{done.stdout}\n{done.stderr}"
    )
    return done
