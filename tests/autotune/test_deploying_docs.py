"""docs/deploying.md: its commands run in their order on a study, its Python and its file of settings are what the code takes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from autotune.study.train_settings import Changes
from autotune.study.train_sources import settings_from_file
from sherl.merging import FOLDABLE
from sherl.methods import METHODS
from tests.autotune.doc_pages import DOCS
from tests.autotune.finished_study import finished_study
from tests.autotune.small_study import autotune

PAGE = DOCS / "deploying.md"
TEXT = PAGE.read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, flags=re.DOTALL | re.MULTILINE)


@pytest.mark.slow
def test_every_command_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "inputs").mkdir()
    made = finished_study(tmp_path / "inputs", tracked=True, method={"name": "lora", "rank": 2})
    (tmp_path / "studies").mkdir()
    made.path.rename(tmp_path / "studies" / "reviews")
    monkeypatch.chdir(tmp_path)
    commands = [shlex.split(line) for block in blocks("sh") for line in block.splitlines() if line]
    assert [command[:2] for command in commands] == [
        ["autotune", name] for name in ("export", "predict", *["export"] * 3, "train")
    ]
    for _, *words in commands:
        if "--trial" in words:  # this study has one
            words[words.index("--trial") + 1] = "0"
        autotune(*words, cwd=tmp_path)
    assert (tmp_path / "plain" / "merged" / "model.safetensors").is_file()
    assert (tmp_path / "plain" / "merged" / "head.safetensors").is_file()
    assert (tmp_path / "graph" / "model.pt2").is_file()
    assert (tmp_path / "longer" / "trainables.safetensors").is_file()
    for block in blocks("python"):
        exec(compile(block, str(PAGE), "exec"), {"__name__": "page"})


def test_the_file_of_settings_is_one(tmp_path: Path) -> None:
    (block,) = blocks("yaml")
    (tmp_path / "one.yaml").write_text(block)
    settings = settings_from_file(tmp_path / "one.yaml", None, Changes())
    assert settings.candidate.label == "lora rank=4 b16"


def test_what_can_be_folded_is_what_the_page_says() -> None:
    (said,) = re.findall(r"((?:`\w+`,? (?:and )?)+)can be folded", TEXT)
    assert set(re.findall(r"`(\w+)`", said)) == set(FOLDABLE)
    assert set(FOLDABLE) <= set(METHODS.names())
