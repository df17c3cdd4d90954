"""How a study's command ends where no training could end in order, and what it leaves alone."""

from __future__ import annotations

import json
import signal
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import typer

from autotune.cli import ending
from autotune.cli.app import exit_code
from autotune.cli.options import absolute_file
from autotune.config import StudyConfig
from autotune.errors import ConfigError, InterruptedStudyError, StudyError
from autotune.memory.device import cpu_device
from autotune.outcome import Status, TrialRecord
from autotune.search import StudyRecord, is_begun
from autotune.search.lock import StudyLock
from autotune.search.record import DIRECTIONS
from autotune.search.storage import as_url
from autotune.study import StudyResult, confirm_study, resume_study
from autotune.study.folder import StudyFolder, create_folder, name_of
from autotune.study.phases import Phases
from autotune.study.reading import has_trials, read_only
from autotune.tracking import Tracker

from ._records import trial
from .finished_study import finished_study
from .small_study import command, environment, make_inputs


def made(folder: Path, **settings: Any) -> StudyFolder:
    config = StudyConfig(memory_cap="3GB", model="m", name="small", study_dir=str(folder / "study"), **settings)
    return create_folder(config)[0]


class Silent:
    """A listener that is told nothing of interest."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


# ---- Ctrl-C outside a training


@pytest.mark.slow
def test_ctrl_c_before_the_first_trial_keeps_nothing_and_says_so(tmp_path: Path) -> None:
    options = {**make_inputs(tmp_path), "--memory-cap": "2GB", "--study-dir": str(tmp_path / "study")}
    with subprocess.Popen(
        command("run", options=options), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    ) as driver:
        assert driver.stdout is not None
        assert "prepare:" in driver.stdout.readline()
        driver.send_signal(signal.SIGINT)
        _, said = driver.communicate(timeout=200)
    assert driver.returncode == 130
    assert "interrupted before the first trial began: nothing is kept of it" in said
    assert not (tmp_path / "study").exists()


def test_ctrl_c_in_a_study_with_trials_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = finished_study(tmp_path, tracked=True)

    def interrupted(self: Phases) -> StudyResult:
        self.tracker.study_started({})
        self.tracked = True
        raise KeyboardInterrupt

    monkeypatch.setattr(Phases, "run", interrupted)
    for go_on in (resume_study, confirm_study):
        with pytest.raises(InterruptedStudyError, match=r"autotune resume --study-dir .*study` goes on") as raised:
            go_on(study.path, Silent())  # type: ignore[arg-type]
        assert exit_code(raised.value) == 130
    assert has_trials(study)
    from mlflow import MlflowClient

    tracker = Tracker.open(None, study_dir=study.path, study_name="small")
    assert MlflowClient(tracker.uri).get_run(str(tracker.run_id)).info.status == "KILLED", "and not running for ever"


# ---- a driver that is refused


@pytest.mark.parametrize("go_on", [resume_study, confirm_study])
def test_a_driver_that_is_refused_changes_nothing(go_on: Any, tmp_path: Path) -> None:
    study = finished_study(tmp_path)
    before = study.settings_file.read_bytes()
    with (
        StudyLock(study.lock_file),
        pytest.raises(StudyError, match="another driver"),
    ):
        go_on(study.path, Silent(), **({"trials": 999} if go_on is resume_study else {"seeds": 7}))
    assert study.settings_file.read_bytes() == before
    assert not (study.path / "tracking").exists()


@pytest.mark.parametrize(("trials", "kept"), [(0, 10**9), (1, 3 * 10**9)])
def test_a_cap_lowered_for_today_is_kept_by_a_study_that_begins_alone(trials: int, kept: int, tmp_path: Path) -> None:
    study = finished_study(tmp_path) if trials else made(tmp_path)
    tight = replace(cpu_device(), free_bytes=10**9)
    phases = Phases(study, study.settings(), None, Silent(), StudyLock(study.lock_file), None)  # type: ignore[arg-type]
    allowed, _ = phases._allowed(tight)
    assert allowed.memory_cap == 10**9
    assert study.settings().memory_cap == kept


# ---- a record whose maker was ended on the way


def test_a_record_that_was_cut_off_is_made_whole(tmp_path: Path) -> None:
    study = made(tmp_path)
    url = as_url(study.record_file)
    for cut in ("nothing", "an empty file", "tables", "a study without settings"):
        if cut == "an empty file":
            study.record_file.touch()
        elif cut == "tables":
            optuna.storages.RDBStorage(url)
        elif cut == "a study without settings":
            optuna.create_study(storage=url, study_name="small", directions=list(DIRECTIONS))
        assert not is_begun(study.record_file), cut
        assert not has_trials(study), cut
        with pytest.raises(StudyError, match=r"has no record yet: .*autotune resume"):
            read_only(study)
    phases = Phases(study, study.settings(), None, Silent(), StudyLock(study.lock_file), None)  # type: ignore[arg-type]
    for _ in range(2):  # made, then opened
        with phases._record(study.settings()) as record:
            assert record.trials() == []
    assert is_begun(study.record_file)


def test_a_lock_that_was_given_stays_with_whoever_gave_it(tmp_path: Path) -> None:
    file = tmp_path / "study.db"
    with StudyLock(tmp_path / "study.db.lock") as lock:
        StudyRecord.create(file, "s", settings={}, lock=lock).close()
        StudyRecord.open(file, write=True, lock=lock).close()
        with pytest.raises(StudyError, match="another driver"):
            StudyRecord.open(file, write=True)
    StudyRecord.open(file, write=True).close()


# ---- nothing completed


def result(*records: TrialRecord, interrupted: bool = False) -> StudyResult:
    return StudyResult(
        folder=Path("studies/s"),
        metric_name="accuracy",
        records=records,
        points=(),
        selection=None,
        closing="",
        refused=0,
        interrupted=interrupted,
    )


@pytest.mark.parametrize(
    ("statuses", "interrupted", "code", "advice"),
    [
        ((Status.FAILED,), False, 1, "--trials N"),
        ((), False, 1, "none was begun. `autotune resume` goes on, with `--time-budget"),
        ((Status.FAILED, Status.INTERRUPTED), False, 1, "interrupted. `autotune resume` goes on, with `--time-budget"),
        ((Status.OVER_CAP, Status.OUT_OF_MEMORY), False, 4, "--trials N"),
        ((Status.OVER_CAP, Status.DIVERGED), False, 1, "--trials N"),
        ((Status.INTERRUPTED,), True, 130, ""),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_a_script_does_not_go_on_where_no_trial_completed(
    statuses: tuple[Status, ...],
    interrupted: bool,
    code: int,
    advice: str,
    as_json: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    records = [trial(number, None, status=status, reason="why") for number, status in enumerate(statuses)]
    with pytest.raises(typer.Exit) as raised:
        ending.drive(lambda _: result(*records, interrupted=interrupted), quiet=True, as_json=as_json)
    assert raised.value.exit_code == code
    out, said = capsys.readouterr()
    assert ("no trial has completed" in said) == (not interrupted)
    assert advice in said
    if as_json:
        assert json.loads(out)["front"] == []


# ---- names and plugins


def test_a_study_in_a_given_folder_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my work").mkdir()
    monkeypatch.chdir(tmp_path / "my work")
    assert [name_of(Path(folder)) for folder in (".", "a/b", ".hidden", "..x", "/", "über")] == [
        "my work", "b", "hidden", "x", "study", "über",
    ]  # fmt: skip
    for folder in (".", ".hidden", "/", "über"):
        StudyConfig(memory_cap="3GB", model="m", name=name_of(Path(folder)), study_dir=folder)


def test_a_folder_that_is_called_like_a_space_is_not_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "default").mkdir()
    (tmp_path / "own.yaml").touch()
    assert absolute_file("default") == "default"
    assert absolute_file("own.yaml") == str(tmp_path / "own.yaml")


@pytest.mark.parametrize(
    ("module", "told"),
    [("no_such_module_at_all", "PYTHONPATH=."), ("raises_on_purpose", "its own code raised TypeError: on purpose")],
)
def test_a_studys_plugins_are_loaded_before_it_goes_on(
    module: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "raises_on_purpose.py").write_text("raise TypeError('on purpose')\n")
    monkeypatch.syspath_prepend(tmp_path)
    study = made(tmp_path, plugins=(module,))
    with pytest.raises(ConfigError, match=told):
        resume_study(study.path, Silent())  # type: ignore[arg-type]
