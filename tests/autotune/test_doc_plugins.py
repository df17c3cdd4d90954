"""A study that takes its method and its backbone from the modules that the pages show, by the pages' own command."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

from tests.autotune.doc_pages import DOCS, blocks_of, write_module
from tests.autotune.small_study import ROOT, command, make_inputs

METHOD, BACKBONE = DOCS / "your_own_method.md", DOCS / "your_own_backbone.md"


def words_of(page: Path) -> list[str]:
    """What the page types behind ``PYTHONPATH=. autotune run``."""
    (line,) = re.findall(r"^    PYTHONPATH=\. autotune run (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return shlex.split(line)


def plugins_of(words: list[str]) -> list[str]:
    return [value for name, value in pairwise(words) if name == "--plugin"]


@pytest.mark.slow
def test_a_study_with_the_pages_method_on_the_pages_backbone(tmp_path: Path) -> None:
    plugins = [*plugins_of(words_of(METHOD)), *plugins_of(words_of(BACKBONE))]
    assert len(plugins) == 2
    (space,) = (block.text for block in blocks_of(METHOD) if block.language == "yaml")
    options = make_inputs(tmp_path, rows=80, space=space)
    for page in (METHOD, BACKBONE):
        for block in blocks_of(page):
            write_module(block, tmp_path)
    config = tmp_path / "model" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_type": "plain-bert", "architectures": None}))
    options |= {"--trials": "2", "--study-dir": str(tmp_path / "study"), "--memory-cap": "8GB", "--method": "norms"}
    taken = [word for name in plugins for word in ("--plugin", name)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), "."]), "COLUMNS": "120"}

    def typed(*words: str) -> str:
        done = subprocess.run(
            words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280, check=False
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    plan = {name: options[name] for name in ("--space", "--method")} | {"--model": str(tmp_path / "model")}
    priced = json.loads(
        typed(*command("plan", *taken, "--json", "--device", "12GB", "--max-length", "16", options=plan))
    )
    assert {one["fits"] for one in priced["configurations"]} == {True}
    assert all(one["configuration"].startswith("norms") for one in priced["configurations"])
    typed(*command("run", *taken, options=options))
    typed(*command("export", "exported", options={"--study-dir": str(tmp_path / "study")}))
    manifest = json.loads((tmp_path / "exported" / "sherl.json").read_text())
    assert (manifest["method"]["name"], manifest["backbone"]["family"]) == ("norms", "plain-bert")
    assert re.fullmatch(r"(neg|pos)\t0\.\d+\tgood film\n", typed(*command("predict", "exported", *taken, "good film")))
