"""Whole studies through the command line: the front, the cap, bad trials, a killed driver."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import mlflow
import psutil
import pytest
import torch

import sherl
from autotune.memory.margin import rule_bytes
from autotune.outcome import Status, TrialRecord
from autotune.search import StudyRecord
from sherl.data import PreparedData

from .small_study import SPACE, autotune, command, environment, make_inputs

pytestmark = pytest.mark.slow


def records(study: Path) -> list[TrialRecord]:
    with StudyRecord.open(study / "study.db") as record:
        return record.trials()


def statuses(study: Path) -> dict[int, Status | None]:
    return {trial.number: trial.outcome.status if trial.outcome else None for trial in records(study)}


def middle_cap(study: Path) -> int:
    """A cap between the least and the most that this study's configurations need where the heap is kept tight."""
    least = []
    for trial in records(study):
        assert trial.outcome is not None
        assert trial.outcome.predicted is not None
        allocated = trial.outcome.predicted.allocated
        baseline = trial.outcome.predicted.device - allocated - rule_bytes("fast", allocated)
        least.append(baseline + allocated + rule_bytes("tight", allocated))
    return (min(least) + max(least)) // 2


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A study of four trials under a cap that all of them fit, and what the command printed."""
    folder = tmp_path_factory.mktemp("finished")
    options = {**make_inputs(folder), "--memory-cap": "2GB", "--trials": "4", "--study-dir": str(folder / "study")}
    return folder / "study", autotune("run", options=options).stdout


def test_a_study_leaves_its_record_report_and_runs_in_mlflow(finished: tuple[Path, str]) -> None:
    study, printed = finished
    trials = records(study)
    assert len(trials) == 4
    assert {trial.candidate.method["name"] for trial in trials} == {"sherl", "linear_probe", "full"}
    for trial in trials:
        assert trial.outcome is not None
        assert trial.outcome.status in (Status.COMPLETE, Status.STOPPED)
        assert trial.outcome.peak is not None
        assert trial.outcome.peak.device <= 2e9
        assert trial.outcome.predicted is not None
        # the trace is exact: what was predicted for the tensors is what the trial measured, to the byte
        assert trial.outcome.predicted.allocated == trial.outcome.peak.allocated
    assert "Accuracy-memory front" in printed
    assert f"[{len(trials)}/{len(trials)}]" in printed
    client = mlflow.MlflowClient(f"sqlite:///{study / 'mlflow.db'}")
    (experiment,) = [one for one in client.search_experiments() if client.search_runs([one.experiment_id])]
    runs = client.search_runs([experiment.experiment_id])
    nested = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert len(runs) == 5
    assert len(nested) == 4


def test_only_members_of_the_front_are_scored_on_the_test_part(finished: tuple[Path, str]) -> None:
    study, _ = finished
    report = json.loads(autotune("report", "--study-dir", study, "--json").stdout)
    front = {member["number"] for member in report["front"]}
    assert front
    for trial in records(study):
        assert (trial.test_metrics is not None) == (trial.number in front)


def test_select_export_and_predict_give_what_the_trial_gave(finished: tuple[Path, str], tmp_path: Path) -> None:
    study, _ = finished
    chosen = json.loads(
        autotune("select", "--study-dir", study, "--memory-cap", "2GB", "--prefer", "memory", "--json").stdout
    )
    number = chosen["point"]["number"]
    autotune("export", tmp_path / "model", "--study-dir", study)
    files = {path.name for path in (tmp_path / "model").iterdir()}
    assert {"sherl.json", "README.md"} <= files
    data = PreparedData.open(study / "prepared")
    (trial,) = [trial for trial in records(study) if trial.number == number]
    assert trial.outcome is not None
    predictor = sherl.load(tmp_path / "model")
    for part, expected in (
        ("valid", trial.outcome.metrics["accuracy"]),
        ("test", (trial.test_metrics or {})["accuracy"]),
    ):
        texts, labels = list(data.part(part).texts), data.part(part).labels
        right = (predictor.logits(texts).argmax(-1) == labels).float().mean()
        assert float(right) == pytest.approx(expected, abs=1e-5)
    both = predictor.logits(texts[:2])
    assert torch.allclose(both[:1], predictor.logits(texts[:1]), atol=1e-5)
    said = autotune("predict", tmp_path / "model", texts[0], "--json").stdout
    answer = json.loads(said)[0]
    assert answer["label"] == data.task.class_names[int(both[0].argmax())]


def test_a_condition_that_nothing_meets_says_what_comes_nearest(finished: tuple[Path, str]) -> None:
    study, _ = finished
    said = autotune("select", "--study-dir", study, "--min-metric", "1.5", code=5).stderr
    assert "The highest metric has trial" in said


def test_a_second_run_in_the_same_folder_is_refused(finished: tuple[Path, str], tmp_path: Path) -> None:
    study, _ = finished
    options = {**make_inputs(tmp_path), "--memory-cap": "2GB", "--study-dir": str(study)}
    assert "autotune resume" in autotune("run", options=options, code=3).stderr


def test_a_rule_that_a_person_gave_outlives_report_and_resume(finished: tuple[Path, str]) -> None:
    study, _ = finished
    autotune("select", "--study-dir", study, "--prefer", "memory")
    chosen = json.loads((study / "selection.json").read_text())
    autotune("resume", "--study-dir", study)
    assert json.loads((study / "selection.json").read_text()) == chosen
    assert (
        json.loads(autotune("report", "--study-dir", study, "--json").stdout)["selected"] == chosen["point"]["number"]
    )


def test_resuming_a_finished_study_trains_nothing_again(finished: tuple[Path, str]) -> None:
    study, _ = finished
    before = records(study)
    told = json.loads(autotune("resume", "--study-dir", study, "--json").stdout)
    assert records(study) == before
    assert told["front"] == json.loads(autotune("report", "--study-dir", study, "--json").stdout)["front"]


def test_a_low_cap_refuses_part_of_the_space_and_the_rest_runs(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path, width=256)
    autotune("run", options={**inputs, "--memory-cap": "4GB", "--trials": "3", "--study-dir": str(tmp_path / "first")})
    cap = middle_cap(tmp_path / "first")
    low = tmp_path / "low"
    said = autotune(
        "run", options={**inputs, "--memory-cap": str(cap), "--trials": "3", "--study-dir": str(low)}
    ).stdout
    with StudyRecord.open(low / "study.db") as record:
        refused = record.refusals()
    assert refused
    assert all(row.predicted is not None and row.predicted.device > cap for row in refused)
    assert "do not fit" in said
    for trial in records(low):
        assert trial.outcome is not None
        assert trial.outcome.peak is not None
        assert trial.outcome.peak.device <= cap


def test_ctrl_c_has_its_exit_code_and_resume_keeps_a_new_total_from_anywhere(tmp_path: Path) -> None:
    study = tmp_path / "study"
    inputs = make_inputs(tmp_path, space=SPACE.replace("epochs: 2", "epochs: 6"))  # long enough to be interrupted
    here = {name: str(Path(value).relative_to(tmp_path)) for name, value in inputs.items() if value.startswith("/")}
    options = {**inputs, **here, "--memory-cap": "2GB", "--trials": "1", "--study-dir": "study"}
    autotune("run", options=options, cwd=tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "rows.csv").unlink()  # the study has its own copy of what it read
    words = command("resume", "--study-dir", "../study", "--trials", "3")
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment(), cwd=elsewhere) as driver:
        assert driver.stdout is not None
        for line in driver.stdout:
            if re.search(r"trial \d+ started", line):
                driver.send_signal(signal.SIGINT)
                break
        driver.stdout.read()
        assert driver.wait(timeout=60) == 130
    assert statuses(study)[0] is Status.COMPLETE
    said = autotune("resume", "--study-dir", study, cwd=elsewhere).stdout
    assert "Go on with what was interrupted" not in said, "it was trained again"
    after = statuses(study)
    assert sum(status is not Status.INTERRUPTED for status in after.values()) == 3
    assert Status.INTERRUPTED in after.values()


def test_a_store_that_mlflow_cannot_write_to_is_told_before_anything_is_made(tmp_path: Path) -> None:
    options = {**make_inputs(tmp_path), "--memory-cap": "2GB", "--study-dir": str(tmp_path / "study")}
    autotune("run", options={**options, "--mlflow-uri": "./mlruns"}, code=2)
    assert not (tmp_path / "study").exists()


def test_settings_and_data_settings_are_judged_together(tmp_path: Path) -> None:
    options = {**make_inputs(tmp_path), "--memory-cap": "2GB", "--study-dir": str(tmp_path / "study")}
    said = autotune("run", options={**options, "--metric": "f2", "--precision": "fp16"}, code=2).stderr
    assert "f2" in said
    assert "fp16" in said


def test_a_cap_that_nothing_fits_ends_with_its_own_exit_code(tmp_path: Path) -> None:
    space = "name: two\ntraining: {batch_size: 8}\nmethods:\n  linear_probe: {learning_rate: 1e-3}\n  full: {learning_rate: 1e-3}\n"
    options = {**make_inputs(tmp_path, space=space), "--memory-cap": "50MB", "--study-dir": str(tmp_path / "study")}
    said = autotune("run", options=options, code=4).stderr
    assert "50.00 MB" in said


MISBEHAVING = """
name: misbehaving
training: {batch_size: 8, epochs: 1}
methods:
  greedy: {learning_rate: 1e-3}
  failing: {learning_rate: 1e-3}
  diverging: {learning_rate: 1e-3}
  vanishing: {learning_rate: 1e-3}
  linear_probe: {learning_rate: 1e-3}
"""


def test_bad_trials_are_outcomes_and_the_study_goes_on(tmp_path: Path) -> None:
    """A breach of the cap, an error, NaN, a process that vanishes: each ends its own trial and nothing else."""
    study = tmp_path / "study"
    options = {**make_inputs(tmp_path, space=MISBEHAVING), "--memory-cap": "1GB", "--trials": "5"}
    said = autotune(
        "run", options={**options, "--study-dir": str(study), "--plugin": "tests.autotune.misbehaving"}
    ).stdout
    ended = {trial.candidate.method["name"]: trial.outcome for trial in records(study)}
    assert {name: outcome.status for name, outcome in ended.items() if outcome} == {
        "greedy": Status.OVER_CAP,
        "failing": Status.FAILED,
        "diverging": Status.DIVERGED,
        "vanishing": Status.FAILED,
        "linear_probe": Status.COMPLETE,
    }
    greedy, failing, vanishing = ended["greedy"], ended["failing"], ended["vanishing"]
    assert greedy is not None
    assert greedy.peak is not None
    assert greedy.peak.device <= 1e9
    assert "1.00 GB" in greedy.reason
    assert failing is not None
    assert "this method fails on purpose" in failing.reason
    assert vanishing is not None
    assert "17" in vanishing.reason
    assert greedy.reason in said


def test_a_killed_driver_leaves_no_process_and_its_study_goes_on(tmp_path: Path) -> None:
    study = tmp_path / "study"
    slow = SPACE.replace("epochs: 2", "epochs: 300")
    options = {**make_inputs(tmp_path, space=slow), "--memory-cap": "2GB", "--trials": "3", "--study-dir": str(study)}
    with subprocess.Popen(
        command("run", options=options), stdout=subprocess.PIPE, text=True, env=environment(), cwd=tmp_path
    ) as driver:
        assert driver.stdout is not None
        for line in driver.stdout:
            if re.search(r"trial \d+ epoch 1:", line):
                break
        family = psutil.Process(driver.pid).children(recursive=True)
        assert any("autotune.trial.server" in " ".join(process.cmdline()) for process in family)
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
        _, alive = psutil.wait_procs(family, timeout=15)  # five where nothing else runs
        assert not alive, [process.cmdline() for process in alive]
    running = [number for number, status in statuses(study).items() if status is None]
    assert running
    (tmp_path / "space.yaml").write_text(slow)
    settings = json.loads((study / "study.json").read_text())
    assert settings["trials"] == 3
    autotune("resume", "--study-dir", study, "--time-budget", "45s", code=(0, 1))  # 1: no time for a whole trial
    after = statuses(study)
    assert all(after[number] is Status.INTERRUPTED for number in running)
    again = [trial.candidate.params for trial in records(study) if trial.number not in running]
    for number in running:
        (params,) = [trial.candidate.params for trial in records(study) if trial.number == number]
        assert params in again


def test_problems_of_the_data_are_told_at_once_and_leave_nothing_behind(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path)
    (tmp_path / "rows.csv").write_text("review,stars\ngood film,pos\n,neg\nbad plot,\n" + "very good,pos\n" * 20)
    options: dict[str, Any] = {**inputs, "--memory-cap": "2GB", "--study-dir": str(tmp_path / "study")}
    said = autotune("run", options=options, code=2).stderr
    assert "rows.csv" in said
    assert "2" in said
    assert "3" in said
    assert not (tmp_path / "study").exists()


def test_a_time_budget_ends_the_study_with_what_there_is(tmp_path: Path) -> None:
    slow = SPACE.replace("epochs: 2", "epochs: 100000")
    study = tmp_path / "study"
    options = {**make_inputs(tmp_path, space=slow), "--memory-cap": "2GB", "--study-dir": str(study)}
    for budget in (25, 50, 100):  # where the machine is slow, the first ends before a trial has begun
        begin = time.monotonic()
        first = not study.exists()
        asked = ["--time-budget", f"{budget}s"]
        words = ["run"] if first else ["resume", "--study-dir", str(study)]
        done = autotune(*words, *asked, options=options if first else None, code=1)
        assert "no trial has completed" in done.stderr
        assert time.monotonic() - begin < budget + 100
        if study.exists() and (study / "study.db").exists() and statuses(study):
            break
    assert set(statuses(study).values()) == {Status.INTERRUPTED}
    assert "autotune resume" in done.stdout
