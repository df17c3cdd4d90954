"""``--gpu-budget`` through the command line, on a machine without a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from autotune.config import StudyConfig
from autotune.outcome import Status
from autotune.search import StudyRecord

from .small_study import autotune, make_inputs

pytestmark = pytest.mark.slow

GB = 10**9


def test_a_budget_below_the_cap_is_an_error_that_says_so(tmp_path: Path) -> None:
    options = {"--memory-cap": "2GB", "--gpu-budget": "1GB", "--study-dir": str(tmp_path / "study")}
    said = autotune("run", options=options, code=2).stderr
    for words in ("gpu_budget", "'1GB' was given", "below the memory cap of 2.00 GB (1.86 GiB)", "'all'"):
        assert words in said
    assert not (tmp_path / "study").exists()


def test_a_study_keeps_its_budget_for_resume_and_each_trial_its_cap(tmp_path: Path) -> None:
    study = tmp_path / "study"
    options = {
        **make_inputs(tmp_path),
        "--memory-cap": "1500MB",
        "--gpu-budget": "3GB",
        "--trials": "3",
        "--study-dir": str(study),
    }
    autotune("run", options=options)
    assert StudyConfig.load(study).gpu_budget == 3 * GB
    autotune("resume", options={"--study-dir": str(study), "--trials": "4"})
    assert StudyConfig.load(study).gpu_budget == 3 * GB
    with StudyRecord.open(study / "study.db") as record:
        trials = record.trials()
    assert len(trials) == 4
    for trial in trials:
        assert trial.outcome is not None
        assert trial.outcome.status in (Status.COMPLETE, Status.STOPPED)
        assert trial.outcome.peak is not None
        assert trial.outcome.peak.device <= 1_500_000_000
