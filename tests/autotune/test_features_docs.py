"""The commands of docs/features.md: those that store and delete run on a small study, the others are understood."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from typer.testing import CliRunner

from autotune.cli.app import app
from autotune.config import StudyConfig

from .small_study import ROOT, environment, make_inputs
from .warm import run_warm

PAGE = (ROOT / "docs" / "features.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL) for line in block.splitlines()]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder with a cache of its own, and in it a model, data and a space."""
    folder = tmp_path_factory.mktemp("home")
    make_inputs(folder)
    return folder


def run(line: str, home: Path) -> str:
    """What one line of the page printed."""
    own = {name: value for name, value in environment().items() if name not in ("AUTOTUNE_CACHE", "XDG_CACHE_HOME")}
    own |= {"HOME": str(home), "MPLCONFIGDIR": matplotlib.get_configdir()}
    words = shlex.split(line)
    if words[0] == "autotune":
        words += [
            "--confirm",
            "0",
            "--trials",
            "1",
            "--method",
            "linear_probe",
            "--space",
            "space.yaml",
            "--model",
            "model",
        ]
        words += ["--train", "rows.csv", "--text", "review", "--label", "stars", "--max-length", "32"]
        done = run_warm(words[1:], cwd=home, environment=own, timeout=240)
    else:
        done = subprocess.run(
            ["bash", "-c", line], cwd=home, env=own, capture_output=True, text=True, timeout=240, check=False
        )
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.slow
def test_what_is_stored_lies_where_the_page_says(home: Path) -> None:
    """The first command, and those that look at the store and delete it."""
    in_budget, _, _, size, gone = COMMANDS
    usual = home / ".cache" / "autotune" / "features"
    assert "stored: 1 hidden state," in run(in_budget, home)
    assert len(list(usual.rglob("*.bin"))) == 3, "one file for each part"
    assert run(size, home).split()[-1].endswith("autotune/features")
    run(gone, home)
    assert not usual.exists()


def test_the_other_commands_are_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    """Studies in a folder of one's own and without a store are run in test_feature_studies.py."""
    asked: list[StudyConfig] = []

    def run_study(config: StudyConfig, _display: Any) -> None:
        asked.append(config)
        raise KeyboardInterrupt

    monkeypatch.setattr("autotune.study.run_study", run_study)
    for line in COMMANDS[:3]:
        CliRunner().invoke(app, shlex.split(line)[1:])
    assert [config.features for config in asked] == ["on", str(Path("hidden-states").resolve()), "off"]
    assert [config.features_budget for config in asked] == [20 * 10**9, None, None]


def test_the_page_names_every_value_of_the_option() -> None:
    table = PAGE.split("| `--features` |")[1].split("\n\n")[0]
    assert [row.split("|")[1].strip(" `") for row in table.splitlines()[2:]] == ["auto", "on", "a folder", "off"]
