"""docs/mlflow.md: its commands are run on a small study, through a server that comes late; its columns are those of a trial."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from autotune.cli.app import app
from autotune.outcome import Confirmation, InferenceFigures, MemoryFigures
from autotune.tracking import entries
from tests.autotune._records import trial
from tests.autotune.mlflow_server import MlflowServer
from tests.autotune.mlflow_store import runs_of
from tests.autotune.small_study import ROOT, environment, make_inputs
from tests.autotune.ui_process import running_ui
from tests.autotune.warm import run_warm

PAGE = (ROOT / "docs" / "mlflow.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL) for line in block.splitlines()]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a model, data and a space."""
    folder = tmp_path_factory.mktemp("home")
    make_inputs(folder)
    return folder


def run(line: str, home: Path, **options: str) -> str:
    """What one line of the page printed, as a person without any setting of MLflow sees it."""
    words = shlex.split(line)[1:]
    if words[0] == "run":
        words += ["--trials", "2", "--method", "linear_probe", "--space", "space.yaml", "--model", "model"]
        words += ["--train", "rows.csv", "--text", "review", "--label", "stars"]
    for name, value in options.items():
        words[words.index(f"--{name}") + 1] = value
    clean = {name: value for name, value in environment().items() if not name.startswith("MLFLOW_")}
    done = run_warm(words, cwd=home, environment=clean, timeout=400)
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def mine(home: Path) -> Path:
    """The folder of the page's first study."""
    run(COMMANDS[0], home)
    return home / "studies" / "mine"


@pytest.mark.slow
def test_a_study_is_seen_on_this_machine(mine: Path) -> None:
    assert shlex.split(COMMANDS[1]) == ["autotune", "ui", "--study-dir", "studies/mine"]
    with running_ui(mine) as (_, address):
        assert f"/runs/{runs_of(mine, 'study')[0].info.run_id}?" in address
    for trial_run in runs_of(mine, "trial"):
        peak, last = trial_run.data.metrics["peak_device_mb"], trial_run.data.metrics["curves/memory_device_mb"]
        assert 10 < last <= peak, "measured while it ran"


@pytest.mark.slow
def test_the_page_follows_another_selection(home: Path, mine: Path) -> None:
    before = runs_of(mine, "study")[0]
    state = (mine / "tracking" / "state.json").read_bytes()
    run("autotune report --study-dir studies/mine", home)
    assert (mine / "tracking" / "state.json").read_bytes() == state, "the same front is not sent twice"
    run("autotune select --study-dir studies/mine --prefer memory", home)
    run("autotune report --study-dir studies/mine", home)
    after = runs_of(mine, "study")[0].data.tags["mlflow.note.content"]
    assert "has the least peak of tensor bytes" in after
    assert "has the least peak" not in before.data.tags["mlflow.note.content"]


@pytest.mark.slow
@pytest.mark.timeout(600)  # a study, and a server that starts
def test_a_server_that_comes_late_gets_everything_by_report(home: Path, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    study, report = COMMANDS[2:]
    server = MlflowServer(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path)
    options = {"mlflow-uri": server.address}
    assert "does not take the study's runs for now" in run(study, home, **options)
    pending = home / "studies" / "shared" / "tracking" / "pending"
    assert len(list(pending.glob("*/trial-*.json"))) == 2
    with server:
        run(report, home)
        assert list(pending.glob("*/*.json")) == []
        client = MlflowClient(server.address)
        (run_of_study,) = client.search_runs(["1"], "tags.kind = 'study'")
        nested = client.search_runs(["1"], f"tags.`mlflow.parentRunId` = '{run_of_study.info.run_id}'")
        assert len(nested) == 2
        assert run_of_study.info.status == "FINISHED"
        assert "Selected: trial" in run_of_study.data.tags["mlflow.note.content"]
        assert {"front.png", "front.html", "page"} <= {
            item.path for item in client.list_artifacts(run_of_study.info.run_id)
        }
        shown = run("autotune ui --study-dir studies/shared --no-browser", home)
        address = f"{server.address}/#/experiments/1/runs/{run_of_study.info.run_id}?workflowType=machine_learning"
        assert shown == f"{address}\n", "the run is shown where it is, and no other server is started"


def test_every_column_on_the_page_is_one_of_a_trial() -> None:
    record = trial(0, test_metrics={"accuracy": 0.5})
    assert record.outcome is not None
    peak = MemoryFigures(allocated=1, device=2, reserved=3, meter="nvml")
    outcome = replace(record.outcome, memory_over_time=((0.0, 1),), peak=peak, reason="why")
    inference = InferenceFigures(
        peak=peak, latency_seconds=1.0, rows_per_second=1.0, batch_rows=1, threads=1, device="cpu"
    )
    confirmations = tuple(Confirmation(seed=seed, outcome=outcome) for seed in (1, 2))
    record = replace(record, outcome=outcome, inference=inference, confirmations=confirmations)
    entry = entries.trial_entry(record, outcome, "id")
    known = {row.name for row in entry.metrics} | entry.tags.keys() | {"on_front"}
    (table,) = re.findall(r"^\| column \|.*\n\|[-|]+\|\n((?:\|.*\n)*)", PAGE, re.MULTILINE)
    named = {name for line in table.splitlines() for name in re.findall(r"`([^`]+)`", line.split(" | ")[0])}
    assert len(named) >= 14
    assert named <= known


def test_every_option_on_the_page_is_one_of_the_command() -> None:
    said = CliRunner().invoke(app, ["ui", "--help"], terminal_width=200).output
    for option in ("--port", "--no-browser", "--host", "--open-to-network", "--study-dir"):
        assert option in PAGE
        assert option in said
