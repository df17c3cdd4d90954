"""Every command of docs/features.md runs as it stands there; only model, data and size are cut down."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from .small_study import ROOT, command, environment, make_inputs

PAGE = (ROOT / "docs" / "features.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL) for line in block.splitlines()]
FOLDER = "/tmp/hidden-states"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder with a cache of its own, and in it a model, data and a space."""
    folder = tmp_path_factory.mktemp("home")
    make_inputs(folder)
    return folder


def run(line: str, home: Path) -> str:
    """What one line of the page printed."""
    own = {name: value for name, value in environment().items() if name not in ("AUTOTUNE_CACHE", "XDG_CACHE_HOME")}
    words = shlex.split(line.replace(FOLDER, str(home / "hidden-states")))
    if words[0] == "autotune":
        words += ["--trials", "1", "--method", "linear_probe", "--space", "space.yaml", "--model", "model"]
        words += ["--train", "rows.csv", "--text", "review", "--label", "stars", "--max-length", "32"]
        asked = command(*words[1:])
    else:
        asked = ["bash", "-c", line]
    done = subprocess.run(
        asked,
        cwd=home,
        env={**own, "HOME": str(home), "MPLCONFIGDIR": str(home / "matplotlib")},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(600)  # three studies, each in seconds where nothing else runs
def test_the_commands_run_one_after_another(home: Path) -> None:
    in_budget, in_folder, without, size, gone = COMMANDS
    usual = home / ".cache" / "autotune" / "features"
    assert "stored: 1 hidden states" in run(in_budget, home)
    assert len(list(usual.rglob("*.bin"))) == 3, "one file for each part"
    assert "stored: 1 hidden states" in run(in_folder, home)
    assert len(list((home / "hidden-states").rglob("*.bin"))) == 3
    assert "stored" not in run(without, home)
    assert run(size, home).split()[-1].endswith("autotune/features")
    run(gone, home)
    assert not usual.exists()


def test_the_page_names_every_value_of_the_option() -> None:
    table = PAGE.split("| `--features` |")[1].split("\n\n")[0]
    assert [row.split("|")[1].strip(" `") for row in table.splitlines()[2:]] == ["auto", "on", "a folder", "off"]
