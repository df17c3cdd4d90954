"""docs/quickstart.md, docs/cluster.md and the notebook: what looks at a study runs on one, what searches is understood.

Searches run in test_readme.py, test_study.py and in ``.ci/run``.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from autotune.cli.app import app
from autotune.config import StudyConfig
from tests.autotune.doc_pages import DOCS
from tests.autotune.finished_study import finished_study
from tests.autotune.small_study import autotune

QUICKSTART, CLUSTER = ((DOCS / name).read_text(encoding="utf-8") for name in ("quickstart.md", "cluster.md"))
NOTEBOOK = json.loads((DOCS.parent / "examples" / "a_study.ipynb").read_text(encoding="utf-8"))


def commands(page: str) -> list[list[str]]:
    """Those of ``autotune`` on a page, without their first word."""
    lines = [
        line
        for block in re.findall(r"```(?:bash|console)\n(.*?)```", page, flags=re.DOTALL)
        for line in block.splitlines()
    ]
    split = [shlex.split(line.removeprefix("$ "), comments=True) for line in lines]
    return [words[1:] for words in split if words[:1] == ["autotune"]]


def short(words: list[str]) -> list[str]:
    """With texts cut at what the tiny model takes."""
    return [*words[:-1], "32"] if words[-2:-1] == ["--max-length"] else words


@pytest.fixture
def understood(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The settings that a search would start with, by the words of its command."""

    def settings(words: list[str]) -> StudyConfig:
        asked: list[StudyConfig] = []

        def run_study(config: StudyConfig, _display: Any) -> None:
            asked.append(config)
            raise KeyboardInterrupt

        monkeypatch.setattr("autotune.study.run_study", run_study)
        said = CliRunner().invoke(app, words)
        assert asked, f"{shlex.join(words)}\n{said.output}"
        return asked[0]

    return settings


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a study of one trial in ``studies/first`` and a model in ``path/or/hub-id``."""
    folder = tmp_path_factory.mktemp("first-steps")
    for name in ("inputs", "studies", "path/or"):
        (folder / name).mkdir(parents=True)
    finished_study(folder / "inputs").path.rename(folder / "studies" / "first")
    (folder / "path" / "or" / "hub-id").symlink_to(folder / "inputs" / "model")
    return folder


@pytest.mark.slow
def test_the_quickstart_goes_through(place: Path, understood: Any) -> None:
    searches = []
    for words in commands(QUICKSTART):
        if words[0] == "run":
            searches.append(understood(words))
        else:
            autotune(*short(words), cwd=place)
    first, own = searches
    assert (first.space, first.trials, first.confirm, Path(first.study_dir)) == ("quick", 4, 1, Path("studies/first"))
    assert own.data == own.data | {"train": "train.csv", "text": "review", "label": "stars"}
    assert (place / "model" / "sherl.json").is_file()


def test_the_quickstart_names_what_lies_in_a_study(place: Path) -> None:
    named = set(re.findall(r"`([\w./]+)`", QUICKSTART.split("## Where things are")[1].split("\n\n`report`")[0]))
    lies = {path.name for path in (place / "studies" / "first").iterdir()}
    assert {"study.db", "study.json", "space.yaml", "prepared", "trials"} <= lies & {name.strip("/") for name in named}


def test_the_phases_of_the_quickstart_are_those_of_a_study() -> None:
    table = QUICKSTART.split("| phase |")[1].split("\n\n")[0]
    named = [row.split("|")[1].strip() for row in table.splitlines()[2:]]
    assert named == ["prepare", "features", "plan", "search", "confirm", "measure", "test", "report"]


def test_the_commands_for_a_cluster_are_understood(understood: Any) -> None:
    one, cluster = map(understood, commands(CLUSTER))
    assert (one.gpu_budget, one.trials) == ("all", 64)
    assert (cluster.ray_address, cluster.study_dir) == ("10.0.0.1:6379", "/shared/studies/mine")


@pytest.mark.slow
def test_the_notebook_runs(place: Path, understood: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cell by cell; ``display`` of notebooks is stood in for, and the search has been made."""
    shown = ModuleType("IPython.display")
    shown.Image = lambda path: Path(path).read_bytes()  # type: ignore[attr-defined]
    package = ModuleType("IPython")
    package.version_info = (9, 0)  # type: ignore[attr-defined]  # matplotlib asks for it
    monkeypatch.setitem(sys.modules, "IPython", package)
    monkeypatch.setitem(sys.modules, "IPython.display", shown)
    monkeypatch.chdir(place)
    names: dict[str, Any] = {}
    searches: list[StudyConfig] = []
    results = []
    for cell in NOTEBOOK["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] != "code":
            continue
        if source.startswith("!autotune "):
            words = shlex.split(source.removeprefix("!autotune ").format(**names))
            if words[0] == "run":
                searches.append(understood(words))
                autotune("report", "--study-dir", names["STUDY"], cwd=place)
            else:
                autotune(*short(words), cwd=place)
            continue
        *body, last = source.splitlines()
        if "parameters" in cell["metadata"].get("tags", ()):
            exec(source, names)
            names |= {"STUDY": "studies/first", "MODEL": "path/or/hub-id"}
        elif last.startswith((" ", ")", "]", "print(")):
            exec(source, names)
        else:
            exec("\n".join(body), names)
            results.append(eval(last, names))
    picture, front, answers, trials = results
    assert picture.startswith(b"\x89PNG")
    assert isinstance(front, pd.DataFrame)
    assert list(front["tensors MB"] > 0) == [True]
    assert [set(answer) for answer in answers] == [{"label", "score"}] * 2
    assert list(trials["state"]) == ["COMPLETE"]
    (search,) = searches
    assert (search.trials, search.confirm, search.space) == (4, 1, "quick")
