"""``autotune confirm`` on a whole study: cut off, gone on with, and what `select` then reads."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from pathlib import Path

import pytest

from autotune.config import StudyConfig
from autotune.outcome import Status, TrialRecord
from autotune.search import StudyRecord

from .small_study import SPACE, autotune, command, environment, make_inputs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # a study, in seconds where nothing else runs


def front_of(study: Path) -> list[TrialRecord]:
    """Members of the front, by the report."""
    report = json.loads(autotune("report", "--study-dir", study, "--json").stdout)
    numbers = {member["number"] for member in report["front"]}
    with StudyRecord.open(study / "study.db") as record:
        return [trial for trial in record.trials() if trial.number in numbers]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that confirmed nothing, as a version wrote it that knew of no confirming and of fewer conditions."""
    folder = tmp_path_factory.mktemp("confirmed")
    options = {
        **make_inputs(folder, space=SPACE.replace("epochs: 2", "epochs: 4")),
        "--memory-cap": "2GB",
        "--trials": "3",
        "--parallel": "1",
        "--study-dir": str(folder / "study"),
    }
    said = autotune("run", options=options).stdout
    assert "Unconfirmed: each metric of the front is of one seed" in said
    assert "of other seeds" not in said
    settings = json.loads((folder / "study" / "study.json").read_text())
    assert settings.pop("confirm") == 0
    (folder / "study" / "study.json").write_text(json.dumps(settings))
    chosen = json.loads((folder / "study" / "selection.json").read_text())
    chosen["rule"] = {"memory_cap": 2 * 10**9, "min_metric": 0.01, "prefer": "metric"}
    (folder / "study" / "selection.json").write_text(json.dumps(chosen))
    return folder / "study"


def test_ctrl_c_ends_it_in_order_and_it_goes_on(study: Path) -> None:
    shown = autotune("report", "--study-dir", study).stdout
    assert "stay within 2.00 GB" in shown or "is the only member" in shown, "the rule of an earlier version is read"
    assert "unconfirmed" in autotune("select", "--study-dir", study, "--memory-cap", "2GB").stdout
    words = command("confirm", "--study-dir", study, "--seeds", "2")
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment()) as driver:
        assert driver.stdout is not None
        for line in driver.stdout:
            if re.search(r"on seed 1 started", line):
                driver.send_signal(signal.SIGINT)
                break
        rest = driver.stdout.read()
        assert driver.wait(timeout=60) == 130
    assert f"autotune confirm --study-dir {study}" in rest
    before = front_of(study)
    ended = [one for member in before for one in member.confirmations if one.outcome.status is Status.COMPLETE]
    assert len(ended) < 2 * len(before)
    result = json.loads(autotune("confirm", "--study-dir", study, "--json").stdout)
    for member in front_of(study):
        assert [one.seed for one in member.confirmations] == [1, 2], "the seeds that were asked for are kept"
        assert all(one.outcome.status is Status.COMPLETE for one in member.confirmations)
        assert member.inference is not None
        assert member.test_metrics is not None
        assert member.outcome is not None
        folder = study / "trials" / f"{member.number:05d}"
        assert (folder / "checkpoint" / "trainables.safetensors").exists(), "the search's weights are kept"
        assert not list(folder.glob("confirm/*/checkpoint")), "those of other seeds are not"
    means = {one["number"]: one["confirmed_mean"] for one in result["front"]}
    assert means[result["selected"]] == max(means.values()), "the study's own choice is by the mean"


def test_selecting_reads_what_was_confirmed_and_measured_and_changes_nothing_else(study: Path) -> None:
    front = front_of(study)
    chosen = json.loads(autotune("select", "--study-dir", study, "--max-latency", "60s", "--json").stdout)
    assert chosen["point"]["confirmed_of"] == 2
    assert "over 2 other seeds" in chosen["explanation"]
    assert {chosen["one_gb_more"]["number"], chosen["point"]["number"]} <= {member.number for member in front}
    kept = json.loads((study / "selection.json").read_text())["rule"]
    assert kept == {
        "memory_cap": None,
        "inference_memory_cap": None,
        "min_metric": None,
        "max_latency": 60.0,
        "prefer": "metric",
    }
    assert (
        "shortest latency has trial"
        in autotune("select", "--study-dir", study, "--max-latency", "0.001ms", code=5).stderr
    )
    assert "is not a latency" in autotune("select", "--study-dir", study, "--max-latency", "3h", code=2).stderr
    assert front_of(study) == front
    table = autotune("report", "--study-dir", study).stdout
    assert "other" in table
    assert "(2 seeds)" in table
    assert " ms " in table


def test_nothing_is_done_twice(study: Path) -> None:
    front = front_of(study)
    said = autotune("confirm", "--study-dir", study).stdout
    assert "started" not in said
    assert "measure:" not in said
    assert "test:" not in said
    assert front_of(study) == front


def test_a_study_without_a_complete_trial_has_nothing_to_confirm(tmp_path: Path) -> None:
    assert "does not exist" in autotune("confirm", "--study-dir", tmp_path / "none", code=3).stderr
    StudyConfig(memory_cap="2GB", model="m", study_dir=str(tmp_path)).save(tmp_path / "study.json")
    with StudyRecord.create(tmp_path / "study.db", "study", settings={}):
        pass
    said = autotune("confirm", "--study-dir", tmp_path, code=3).stderr
    assert "no trial of" in said
    assert "autotune resume" in said
