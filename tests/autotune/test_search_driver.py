"""The study's record has one driver at a time, and loses nothing that was said when that one dies."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import optuna
import pytest

from autotune.errors import StudyError
from autotune.outcome import Status
from autotune.search import StudyRecord

from .search_samples import candidate, complete, optuna_trials, report


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
