"""The study's record: what goes in comes back, whatever kills the driver."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from autotune.errors import StudyError
from autotune.outcome import Confirmation, InferenceFigures, MemoryFigures, Outcome, Status
from autotune.search import StudyRecord

from .search_samples import PEAK, SETTINGS, candidate, complete, optuna_trials, report


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


def test_confirmations_lie_with_their_trial_in_the_order_of_their_seeds(record: StudyRecord, file: Path) -> None:
    failed, good = record.start(candidate(), seed=0), record.start(candidate(), seed=3)
    record.finish(failed, Outcome(status=Status.FAILED))
    with pytest.raises(StudyError, match="not complete"):
        record.confirm(failed, Confirmation(seed=7, outcome=complete()))
    record.finish(good, complete())
    with pytest.raises(StudyError, match="another seed"):
        record.confirm(good, Confirmation(seed=3, outcome=complete()))
    interrupted = Outcome(status=Status.INTERRUPTED, reason="the time budget")
    for seed, outcome in ((12, complete(0.7)), (4, interrupted), (4, complete(0.6))):
        record.confirm(good, Confirmation(seed=seed, outcome=outcome))
    with pytest.raises(StudyError, match="already"):
        record.confirm(good, Confirmation(seed=12, outcome=complete(0.9)))
    kept = StudyRecord.open(file).trial(good).confirmations
    assert [(one.seed, one.outcome.metric) for one in kept] == [(4, 0.6), (12, 0.7)]
    assert StudyRecord.open(file).trial(failed).confirmations == ()


def test_what_answering_takes_can_be_measured_anew(record: StudyRecord, file: Path) -> None:
    number = record.start(candidate(), seed=0)
    figures = InferenceFigures(
        peak=MemoryFigures(allocated=10, device=30, meter="rss"),
        latency_seconds=0.01,
        rows_per_second=250.0,
        batch_rows=32,
        threads=2,
        device="cpu",
    )
    with pytest.raises(StudyError, match="not complete"):
        record.set_inference(number, figures)
    record.finish(number, complete())
    assert record.trial(number).inference is None
    record.set_inference(number, replace(figures, latency_seconds=0.5))
    record.set_inference(number, figures)
    assert StudyRecord.open(file).trial(number).inference == figures


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
