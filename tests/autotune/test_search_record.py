"""The study's record: what goes in comes back, whatever kills the driver."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from autotune.errors import StudyError
from autotune.outcome import Candidate, EpochReport, MemoryFigures, Outcome, Status
from autotune.search import StudyRecord

SETTINGS = {"memory_cap": 8 * 10**9, "model": "all-minilm-l6-v2", "methods": ("sherl", "full")}
PEAK = MemoryFigures(allocated=1000, device=2000, reserved=1500, meter="process private bytes")


def candidate(rate: float = 1e-3, **method: Any) -> Candidate:
    return Candidate(
        method={"name": "sherl", "reduction_factor": 8, "late_route": {"name": "lora", "rank": 4}, **method},
        training={"learning_rate": rate, "batch_size": 16},
        params={"method": "sherl", "sherl.learning_rate": rate},
    )


def report(epoch: int, accuracy: float = 0.5) -> EpochReport:
    return EpochReport(epoch=epoch, train_loss=1 / epoch, metrics={"accuracy": accuracy}, seconds=float(epoch))


def complete(metric: float = 0.8, **values: Any) -> Outcome:
    return Outcome(**{"status": Status.COMPLETE, "metric": metric, "peak": PEAK, **values})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "study" / "study.db"


@pytest.fixture
def record(file: Path) -> Iterator[StudyRecord]:
    with StudyRecord.create(file, "demo", settings=SETTINGS) as made:
        yield made


def optuna_trials(file: Path) -> list[optuna.trial.FrozenTrial]:
    """What Optuna itself sees, without this program."""
    return optuna.load_study(study_name="demo", storage=f"sqlite:///{file}").trials


def test_a_trial_comes_back_whole(record: StudyRecord, file: Path) -> None:
    number = record.start(candidate(), seed=7)
    outcome = complete(
        reason="",
        metrics={"accuracy": 0.8, "f1": 0.7},
        best_epoch=2,
        epochs=(report(1), report(2, 0.8)),
        predicted=MemoryFigures(allocated=999, device=2100, meter="prediction"),
        seconds=12.5,
        step_seconds=0.25,
        trainable_parameters=12345,
        checkpoint="trials/0/checkpoint",
        details={"note": "ünïcode \udce9 \x00", "list": [1, None]},
    )
    assert record.finish(number, outcome) == outcome
    record.close()
    [row] = StudyRecord.open(file).trials()
    assert (row.number, row.candidate, row.seed, row.outcome, row.test_metrics) == (
        number,
        candidate(),
        7,
        outcome,
        None,
    )


@pytest.mark.parametrize(
    ("status", "state"),
    [
        (Status.COMPLETE, "COMPLETE"),
        (Status.STOPPED, "PRUNED"),
        (Status.OVER_CAP, "FAIL"),
        (Status.OUT_OF_MEMORY, "FAIL"),
        (Status.DIVERGED, "FAIL"),
        (Status.INTERRUPTED, "FAIL"),
        (Status.FAILED, "FAIL"),
    ],
)
def test_what_each_status_becomes_in_optuna(record: StudyRecord, file: Path, status: Status, state: str) -> None:
    record.finish(record.start(candidate(), seed=0), complete(status=status, reason="because"))
    [trial] = optuna_trials(file)
    assert trial.state.name == state
    assert trial.values == ([0.8, 1000.0] if status is Status.COMPLETE else None)
    assert trial.user_attrs["status"] == status.value
    assert trial.user_attrs["reason"] == "because"


def test_the_objectives_are_the_metric_up_and_the_memory_down(record: StudyRecord, file: Path) -> None:
    del record
    study = optuna.load_study(study_name="demo", storage=f"sqlite:///{file}")
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE"]


@pytest.mark.parametrize(
    "values", [{"metric": None}, {"metric": float("nan")}, {"metric": float("inf")}, {"peak": None}]
)
def test_complete_without_its_figures_is_kept_as_failed(record: StudyRecord, values: dict[str, Any]) -> None:
    kept = record.finish(record.start(candidate(), seed=0), complete(**values))
    assert kept.status is Status.FAILED
    assert "without a finite metric or a measured peak" in kept.reason
    [row] = record.trials()
    assert row.outcome is not None
    assert row.outcome.status is Status.FAILED


def test_epochs_are_kept_as_they_come(record: StudyRecord, file: Path) -> None:
    number = record.start(candidate(), seed=0)
    for epoch in range(1, 12):
        record.note_epoch(number, report(epoch))
    seen = StudyRecord.open(file).epochs(number)
    assert [one.epoch for one in seen] == list(range(1, 12))
    kept = record.finish(number, Outcome(status=Status.OVER_CAP, reason="the guard ended it"))
    assert kept.epochs == seen, "the epochs of a trial that could not say them itself"
    record.note_epoch(number, report(12))
    assert len(record.epochs(number)) == 11, "what comes after the end is left out"


def test_numbers_of_numpy_and_odd_objects_do_not_stop_a_study(record: StudyRecord) -> None:
    number = record.start(candidate(rate=np.float64(1e-3)), seed=np.int64(3))  # type: ignore[arg-type]  # that is what is tested
    details = {"share": np.float32(0.5), "path": Path("a/b"), "count": np.int64(4)}
    record.finish(number, complete(metric=np.float64(0.75), details=details))
    [row] = record.trials()
    assert row.outcome is not None
    assert row.outcome.details == {"share": 0.5, "path": "a/b", "count": 4}
    assert row.candidate == candidate()


def test_an_outcome_is_entered_once_and_only_for_a_trial_that_was_started(record: StudyRecord) -> None:
    number = record.start(candidate(), seed=0)
    record.finish(number, complete())
    with pytest.raises(StudyError, match="has ended already as complete"):
        record.finish(number, complete(0.9))
    for call in (
        lambda: record.finish(99, complete()),
        lambda: record.note_epoch(99, report(1)),
        lambda: record.trial(99),
    ):
        with pytest.raises(StudyError, match="no trial 99"):
            call()
    with pytest.raises(StudyError, match=r"refuse\(\)"):
        record.finish(record.start(candidate(), seed=0), Outcome(status=Status.REFUSED))


def test_refusals_are_no_trials_and_stand_once_for_a_shape(record: StudyRecord, file: Path) -> None:
    record.refuse(candidate(1e-3), "too big", PEAK)
    record.refuse(candidate(2e-3), "the same shape at another learning rate", PEAK)
    record.refuse(candidate(1e-3, reduction_factor=2), "no figure")
    record.close()
    assert optuna_trials(file) == []
    with StudyRecord.open(file, write=True) as again:
        again.refuse(candidate(3e-3), "known since before", PEAK)
        again.refuse(candidate(1e-3, reduction_factor=4), "new", PEAK)
        assert [(row.reason, row.predicted) for row in again.refusals()] == [
            ("too big", PEAK),
            ("no figure", None),
            ("new", PEAK),
        ]
        assert again.refusals()[0].candidate == candidate(1e-3)
        assert again.trials() == []


def test_the_test_part_is_scored_once_and_for_complete_trials_only(record: StudyRecord) -> None:
    failed, good = (record.start(candidate(), seed=0) for _ in range(2))
    with pytest.raises(StudyError, match="not complete"):
        record.set_test_metrics(good, {"accuracy": 0.9})
    record.finish(failed, Outcome(status=Status.FAILED))
    record.finish(good, complete())
    with pytest.raises(StudyError, match="not complete"):
        record.set_test_metrics(failed, {"accuracy": 0.9})
    record.set_test_metrics(good, {"accuracy": np.float32(0.5)})
    with pytest.raises(StudyError, match="once"):
        record.set_test_metrics(good, {"accuracy": 1.0})
    assert [row.test_metrics for row in record.trials()] == [None, {"accuracy": 0.5}]


def test_notes_of_a_study(record: StudyRecord, file: Path) -> None:
    record.set_attribute("data", {"rows": (1, 2)})
    record.set_attribute("settings", "no clash with the study's own")
    assert StudyRecord.open(file).attributes == {"data": {"rows": [1, 2]}, "settings": "no clash with the study's own"}
    assert record.settings == {**SETTINGS, "methods": ["sherl", "full"]}


# ---- opening ----------------------------------------------------------------------------------------------------


def test_a_study_of_other_settings_is_not_opened_and_the_difference_is_said(record: StudyRecord, file: Path) -> None:
    record.close()
    StudyRecord.open(file, "demo", settings=SETTINGS)
    other = {**SETTINGS, "memory_cap": 6 * 10**9, "metric": "f1"}
    del other["methods"]
    with pytest.raises(StudyError) as caught:
        StudyRecord.open(file, "demo", settings=other, write=True)
    for words in (
        "memory_cap was 8000000000, now 6000000000",
        "metric was '(absent)', now 'f1'",
        "methods was ['sherl', 'full'], now '(absent)'",
    ):
        assert words in str(caught.value)
    assert "model" not in str(caught.value)
    StudyRecord.open(file, write=True).close()


def test_what_is_there_already_is_not_made_again(record: StudyRecord, file: Path) -> None:
    record.close()
    with pytest.raises(StudyError, match="autotune resume"):
        StudyRecord.create(file, "demo", settings=SETTINGS)
    with (
        StudyRecord.create(file, "second", settings=SETTINGS),
        pytest.raises(StudyError, match=r"holds 2 studies.*demo, second"),
    ):
        StudyRecord.open(file)
    with pytest.raises(StudyError, match=r"no study 'third'.*demo, second"):
        StudyRecord.open(file, "third")


def test_a_study_that_is_not_there_is_said_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="no study at"):
        StudyRecord.open(tmp_path / "none" / "study.db", write=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"this is no database at all, only text " * 200, b""])
def test_a_file_that_is_no_study_is_said(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "study.db"
    file.write_bytes(content)
    with pytest.raises(StudyError, match=r"study\.db"):
        StudyRecord.open(file)


def test_an_optuna_study_of_somebody_else_is_said(tmp_path: Path) -> None:
    file = tmp_path / "study.db"
    optuna.create_study(study_name="theirs", storage=f"sqlite:///{file}").add_trial(
        optuna.trial.create_trial(value=1.0)
    )
    with pytest.raises(StudyError, match="not made by autotune"):
        StudyRecord.open(file)


def test_a_record_of_a_later_version_is_said(record: StudyRecord, file: Path) -> None:
    record.close()
    optuna.load_study(study_name="demo", storage=f"sqlite:///{file}").set_user_attr("format", 99)
    with pytest.raises(StudyError, match=r"record format 99, this version reads 1"):
        StudyRecord.open(file)


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match="file"):
        StudyRecord.create(tmp_path / "file" / "study.db", "demo", settings={})


def test_a_database_that_cannot_be_reached_is_said_without_its_password() -> None:
    with pytest.raises(StudyError, match="somewhere") as caught:
        StudyRecord.create("nosuchdb://me:secret@somewhere/db", "demo", settings={})
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("folder", ["ünï ço", "a?b=c", "50%20", "#1", "quo'te\"", "semi;colon"])
def test_odd_paths(tmp_path: Path, folder: str) -> None:
    file = tmp_path / folder / "study.db"
    with StudyRecord.create(str(file), "näme / 1", settings={}) as made:
        made.start(candidate(), seed=0)
    assert file.is_file()
    assert len(StudyRecord.open(file).trials()) == 1


# ---- one driver -------------------------------------------------------------------------------------------------


def test_readers_need_no_lock_and_cannot_write(record: StudyRecord, file: Path) -> None:
    record.start(candidate(), seed=0)
    reader = StudyRecord.open(file)
    assert len(reader.trials()) == 1
    for write in (
        lambda: reader.start(candidate(), 0),
        lambda: reader.set_attribute("a", 1),
        lambda: reader.refuse(candidate(), ""),
    ):
        with pytest.raises(StudyError, match="opened for reading"):
            write()
    record.finish(0, complete())
    assert reader.trials()[0].outcome == complete(), "a reader sees what was written after it was opened"


def test_a_second_driver_is_told_who_the_first_is(record: StudyRecord, file: Path) -> None:
    with pytest.raises(StudyError, match=rf"another driver \(process {os.getpid()} on "):
        StudyRecord.open(file, write=True)
    with pytest.raises(StudyError, match="another driver"):
        StudyRecord.create(file, "second", settings={})
    record.close()
    with StudyRecord.open(file, write=True) as again:
        again.start(candidate(), seed=0)
    with pytest.raises(StudyError, match="closed"):
        again.start(candidate(), seed=0)


DRIVER = """
import sys, time
from autotune.outcome import Candidate, EpochReport, MemoryFigures, Outcome, Status
from autotune.search import StudyRecord
record = StudyRecord.create(sys.argv[1], "demo", settings={"a": 1})
print("ready", flush=True)
for turn in range(10**9):
    candidate = Candidate(method={"name": "full"}, training={"learning_rate": 1.0 + turn}, params={"turn": turn})
    number = record.start(candidate, seed=turn)
    print("started", number, flush=True)
    for epoch in (1, 2):
        record.note_epoch(number, EpochReport(epoch=epoch, train_loss=1.0, metrics={"accuracy": 0.5}, seconds=1.0))
        print("epoch", number, epoch, flush=True)
    record.refuse(Candidate(method={"name": "lora", "rank": turn}, training={}, params={}), "too big")
    print("refused", turn, flush=True)
    peak = MemoryFigures(allocated=turn + 1, device=10, meter="test")
    record.finish(number, Outcome(status=Status.COMPLETE, metric=0.5, peak=peak))
    print("finished", number, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("wait", [0.05, 0.13, 0.31, 0.57])
def test_kill_9_in_the_middle_of_writing_loses_nothing_that_was_said(file: Path, wait: float) -> None:
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(file)], stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    assert driver.stdout.readline() == "ready\n"
    with pytest.raises(StudyError, match=f"process {driver.pid} on "):
        StudyRecord.open(file, write=True)
    time.sleep(wait)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    said = [line.split() for line in driver.stdout.read().splitlines()]
    driver.stdout.close()
    with StudyRecord.open(file, settings={"a": 1}, write=True) as record:
        rows = {row.number: row for row in record.trials()}
        for words in said:
            if words[0] == "started":
                assert rows[int(words[1])].candidate.params == {"turn": int(words[1])}
            elif words[0] == "epoch":
                assert len(record.epochs(int(words[1]))) >= int(words[2])
            elif words[0] == "refused":
                assert record.refusals()[int(words[1])].candidate.method["rank"] == int(words[1])
            elif words[0] == "finished":
                outcome = rows[int(words[1])].outcome
                assert outcome is not None
                assert (outcome.status, len(outcome.epochs)) == (Status.COMPLETE, 2)
        running = [row for row in rows.values() if row.outcome is None]
        assert len(running) <= 1
        assert record.interrupt_running() == [row.candidate for row in running]
        assert all(row.outcome is not None for row in record.trials())
        assert record.start(candidate(), seed=0) == len(rows), "and the study goes on"
    with sqlite3.connect(file) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    database.close()


def test_interrupted_trials_keep_their_epochs_and_say_why(record: StudyRecord) -> None:
    done, running = (record.start(candidate(rate), seed=0) for rate in (1e-3, 2e-3))
    record.finish(done, complete())
    record.note_epoch(running, report(1))
    assert record.interrupt_running("Ctrl-C") == [candidate(2e-3)]
    outcome = record.trial(running).outcome
    assert outcome is not None
    assert (outcome.status, outcome.reason, outcome.epochs) == (Status.INTERRUPTED, "Ctrl-C", (report(1),))
    assert record.trial(done).outcome == complete()
    assert record.interrupt_running() == []


def test_an_outcome_that_was_written_before_the_kill_counts(
    record: StudyRecord, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = record.start(candidate(), seed=0)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(StudyRecord, "_end", killed)
    with pytest.raises(KeyboardInterrupt):
        record.finish(number, complete())
    monkeypatch.undo()
    assert optuna_trials(file)[0].state.name == "RUNNING"
    record.close()
    with StudyRecord.open(file, write=True) as again:
        assert again.interrupt_running() == []
        assert again.trial(number).outcome == complete()
    assert optuna_trials(file)[0].state.name == "COMPLETE"


def test_a_start_that_was_cut_off_can_be_made_again(file: Path) -> None:
    file.parent.mkdir()
    optuna.create_study(study_name="demo", storage=f"sqlite:///{file}", directions=["maximize", "minimize"])
    with pytest.raises(StudyError, match="Start it anew"):
        StudyRecord.open(file)
    with StudyRecord.create(file, "demo", settings={"a": 1}) as record:
        assert record.settings == {"a": 1}


def test_the_lock_file_says_who_holds_it_and_can_be_shared_by_url(tmp_path: Path) -> None:
    lock = tmp_path / "driver.lock"
    with StudyRecord.create(f"sqlite:///{tmp_path / 'one.db'}", "demo", settings={}, lock_path=lock):
        assert json.loads(lock.read_text())["pid"] == os.getpid()
        with pytest.raises(StudyError, match="another driver"):
            StudyRecord.create(tmp_path / "two.db", "demo", settings={}, lock_path=lock)
