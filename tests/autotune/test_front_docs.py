"""The commands of docs/reading_a_front.md, one after another on a small study; its tables name all there is."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import get_args

import pytest

from autotune.outcome import Candidate, Status
from autotune.report import Preference
from autotune.report.rule import Rule
from autotune.space import SearchSpace
from autotune.space.files import names as find_names
from sherl.methods import METHODS

from .small_study import ROOT, autotune, make_inputs

PAGE = (ROOT / "docs" / "reading_a_front.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL) for line in block.splitlines()]


@pytest.mark.slow
@pytest.mark.timeout(900)  # a study and five commands, in seconds where nothing else runs
def test_the_commands_run_one_after_another(tmp_path: Path) -> None:
    options = {**make_inputs(tmp_path), "--memory-cap": "2GB", "--trials": "2", "--name": "mine"}
    autotune("run", options=options, cwd=tmp_path)
    assert [shlex.split(line)[1] for line in COMMANDS] == ["confirm", *["select"] * 4]
    for line in COMMANDS:
        words = shlex.split(line)
        if "--min-metric" in words:  # what a run on toy data reaches says nothing
            words[words.index("--min-metric") + 1] = "0.1"
        if "--max-latency" in words:  # nor how fast a machine answers that runs other tests
            words[words.index("--max-latency") + 1] = "60s"
        done = autotune(*words[1:], cwd=tmp_path)
        if words[1] == "select" and "--json" not in words:
            assert "over 2 other seeds" in done.stdout
            assert "With 1 GB more device memory" in done.stdout


def test_the_tables_name_every_status_condition_and_preference() -> None:
    statuses = re.findall(r"^\| `?(\w+)`? \|.*\| (?:no|where no other beats it) \|$", PAGE, flags=re.MULTILINE)
    assert sorted(statuses) == sorted(Status)
    conditions = {name.replace("_", "-") for name in Rule.__dataclass_fields__} - {"prefer"}
    assert set(re.findall(r"^\| `--([a-z-]+) \S+` \|", PAGE, flags=re.MULTILINE)) == conditions
    assert all(
        f"`{name}`" in PAGE.split("`--prefer` says")[1].split("By these rules")[0] for name in get_args(Preference)
    )


def test_every_word_of_a_name_is_explained() -> None:
    """Of all configurations of the spaces that come with the program, and of every memory plan that a name tells."""
    table = PAGE.split("## The names of configurations")[1].split("\n## ")[0]
    explained = {re.sub(r"\d+", "1", word) for word in re.findall(r"`([^`]+)`", table.split("|---|---|")[1])}
    names = {"shallow", *METHODS.names()}
    planned = Candidate(
        method={"name": "full"},
        training={},
        params={},
        plan={"activation_checkpointing": True, "accumulation": 4, "eval_batch_size": 8},
    )
    labels = {planned.label, "single@-2 lora(8)"}
    for space in find_names():
        loaded = SearchSpace.load(space, depth=12, width=768)
        labels |= {shape.label for shape in loaded.shapes()}
    words = {word for label in labels for word in label.split()}
    unexplained = {re.sub(r"\d+", "1", word) for word in words - names} - explained
    assert not unexplained
