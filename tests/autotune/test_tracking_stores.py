"""Which store a message is for, where a study is moved or another store is named; and what `autotune report` says of it."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from autotune.report import front_table, points_from, select
from autotune.search import StudyRecord
from autotune.search.lock import StudyLock
from autotune.study import report_study
from autotune.study.folder import StudyFolder
from autotune.study.phases import Phases
from autotune.study.showing import Front, send_waiting, store_words
from autotune.tracking import Tracker, entries
from autotune.tracking.location import locate
from tests.autotune._records import trial
from tests.autotune.conftest import Opener
from tests.autotune.mlflow_store import runs_of
from tests.autotune.shown_study import make_folder
from tests.autotune.test_tracking_page import png

NOBODY = "http://bob:geheim@127.0.0.1:9"
POINTS = points_from([trial(number, 0.7 + number / 100, 10**8 * (number + 1)) for number in range(3)])
TABLE = front_table(POINTS)

pytestmark = pytest.mark.usefixtures("no_mlflow_settings")


@pytest.fixture(autouse=True)
def no_second_try(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


def report_files(study: Path) -> list[Path]:
    folder = study / "report"
    folder.mkdir(exist_ok=True)
    (folder / "front.png").write_bytes(png(30, 20))
    (folder / "front.html").write_text("x")
    return [folder / "front.png", folder / "front.html"]


def description(store: Path, run_id: str | None) -> tuple[str, set[str]]:
    """The page of a study's run, and the names of its artifacts."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{store}")
    names = {item.path for item in client.list_artifacts(str(run_id))}
    return str(client.get_run(str(run_id)).data.tags["mlflow.note.content"]), names


def test_messages_wait_for_their_own_store(opened: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", NOBODY)
    tracker = opened()
    tracker.study_started({"a": 1})
    tracker.trial_finished(trial(0))
    tracker.finished()
    assert tracker.close(timeout_s=20) == 3
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    other = opened()
    assert other.undelivered == 0
    (note,) = other.notes
    assert note.startswith("3 messages for MLflow at http://bob:***@127.0.0.1:9 wait to be sent")
    other.study_started({"b": 2})
    assert other.close() == 0
    (study,) = runs_of(tmp_path, "study")
    assert study.data.params == {"b": "2"}
    assert runs_of(tmp_path, "trial") == []
    monkeypatch.setenv("MLFLOW_TRACKING_URI", NOBODY.replace("geheim", "another"))
    again = opened()
    assert again.undelivered == 3, "the same store, though its password has changed"
    assert again.run_id is None, "the run of another store is none of this one"


def test_messages_of_earlier_versions_go_to_the_store_that_the_settings_name(opened: Opener, tmp_path: Path) -> None:
    pending = tmp_path / "tracking" / "pending"
    pending.mkdir(parents=True)
    message = {"record": entries.record_to_dict(trial(0)), "finished_ms": 1_700_000_000_000}
    (pending / "trial-000000.json").write_text(json.dumps(message))
    assert opened(f"sqlite:///{tmp_path / 'mlflow.db'}").close() == 0
    assert len(runs_of(tmp_path, "trial")) == 1
    assert not list(pending.rglob("*.json"))


def test_messages_of_earlier_versions_do_not_change_their_store(
    opened: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = opened()
    tracker.study_started({})
    assert tracker.close() == 0
    waiting = tmp_path / "tracking" / "pending" / "finished.json"
    waiting.write_text(json.dumps({"status": "complete"}))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", NOBODY)
    other = opened()
    assert other.undelivered == 0
    assert other.notes[0].startswith(f"1 message for MLflow at sqlite:///{tmp_path / 'mlflow.db'} waits to be sent")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert opened().close() == 0
    assert runs_of(tmp_path, "study")[0].info.status == "FINISHED"
    assert not waiting.exists()


def test_a_front_that_waited_while_the_study_was_moved_has_its_pictures(opened: Opener, tmp_path: Path) -> None:
    store, away, study = tmp_path / "mlflow.db", tmp_path / "away.db", make_folder(tmp_path / "study")
    uri = f"sqlite:///{store}"

    def open_in(folder: Path) -> Tracker:
        return Tracker.open(uri, study_dir=folder, study_name="s")

    tracker = open_in(study)
    tracker.study_started({})
    assert tracker.close() == 0
    store.rename(away)
    store.write_text("no database")
    tracker = open_in(study)
    tracker.front(report_files(study), TABLE, select(POINTS).to_dict())
    assert tracker.close() == 1
    away.replace(store)
    moved = study.rename(tmp_path / "moved")
    tracker = open_in(moved)
    assert not tracker.shows_front(TABLE, select(POINTS).to_dict()), "it only waits"
    assert tracker.close() == 0
    assert tracker.notes == []
    page, names = description(store, tracker.run_id)
    assert {"front.png", "front.html"} <= names
    assert "![" in page
    assert open_in(moved).shows_front(TABLE, select(POINTS).to_dict())


def test_a_front_of_an_earlier_version_is_found_where_it_was_moved_to(opened: Opener, tmp_path: Path) -> None:
    paths = [f"/gone/study/report/{path.name}" for path in report_files(tmp_path)]
    pending = tmp_path / "tracking" / "pending"
    pending.mkdir(parents=True)
    (pending / "front.json").write_text(json.dumps({"paths": paths, "table": TABLE, "selected": None, "titles": {}}))
    tracker = opened()
    assert tracker.close() == 0
    assert tracker.notes == []
    assert {"front.png", "front.html"} <= description(tmp_path / "mlflow.db", tracker.run_id)[1]


def test_a_front_without_all_its_files_is_sent_again(opened: Opener, tmp_path: Path) -> None:
    files = report_files(tmp_path)
    tracker = opened()
    tracker.front([*files, tmp_path / "report" / "gone.svg"], TABLE)
    assert tracker.close() == 0
    assert not opened().shows_front(TABLE, None)


def test_a_report_replaces_a_front_that_waits(opened: Opener, tmp_path: Path) -> None:
    study = make_folder(tmp_path)
    store, away = study / "mlflow.db", study / "away.db"
    shutil.copy(store, away)
    store.write_text("no database")
    tracker = opened()
    tracker.front([Path("/elsewhere/front.png")], TABLE, {"explanation": "The earlier one."})
    assert tracker.close() == 1
    away.replace(store)
    front = Front(paths=report_files(study), titles={}, table=TABLE, selected={"explanation": "The new one."})
    sent = send_waiting(StudyFolder(study), front=front, on_note=pytest.fail)
    page, names = description(store, sent.run_id)
    assert "The new one." in page
    assert {"front.png", "front.html"} <= names


@pytest.mark.parametrize("earlier", [False, True], ids=["this version's", "an earlier version's"])
def test_a_studys_own_store_is_known_after_a_move(earlier: bool, opened: Opener, tmp_path: Path) -> None:
    study = make_folder(tmp_path / "study")
    shutil.copy(tmp_path / "mlflow.db", study / "mlflow.db")
    tracker = Tracker.open(None, study_dir=study, study_name="s")
    tracker.front([], TABLE, select(POINTS).to_dict())
    assert tracker.close() == 0
    file = study / "tracking" / "state.json"
    state = json.loads(file.read_text())
    assert list(state["runs"]) == ["own"]
    if earlier:
        uri = f"sqlite:///{study / 'mlflow.db'}"
        key = hashlib.sha256(uri.encode()).hexdigest()[:16]
        state |= {"runs": {"other": "ab" * 16, key: tracker.run_id}, "stores": {key: uri}}
        state["front"] = state.pop("fronts")["own"]
        file.write_text(json.dumps(state))
    moved = study.rename(tmp_path / "moved")
    again = Tracker.open(None, study_dir=moved, study_name="s")
    assert again.run_id == tracker.run_id
    assert again.shows_front(TABLE, select(POINTS).to_dict())
    other = select(POINTS, prefer="memory").to_dict()
    assert not again.shows_front(TABLE, other)
    front = Front(paths=[], titles={}, table=TABLE, selected=other)
    send_waiting(StudyFolder(moved), front=front, on_note=pytest.fail)
    assert other["explanation"].split()[-1].strip(".") in description(moved / "mlflow.db", again.run_id)[0]
    assert len(runs_of(moved, "study")) == 1


def test_the_store_is_the_same_however_it_is_written(tmp_path: Path) -> None:
    own = locate(None, tmp_path)
    assert locate(f"sqlite:///{tmp_path}/./mlflow.db", tmp_path).key == own.key
    assert locate(f"sqlite:///{tmp_path}/other.db", tmp_path).key != own.key
    assert (
        locate("http://h:1/", tmp_path).key == locate("http://h:1", tmp_path).key != locate("http://h:2", tmp_path).key
    )


@pytest.fixture
def reported(opened: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StudyFolder:
    """A study with a record, whose run is in its own store, and whose metric is known."""
    from autotune.study import view

    study = StudyFolder(make_folder(tmp_path))
    settings = study.settings()
    with StudyRecord.create(study.record_file, "s", settings=settings.to_dict()) as record:
        one = trial(0)
        assert one.outcome is not None
        record.finish(record.start(one.candidate, seed=1), one.outcome)
    monkeypatch.setattr(view, "metric_of", lambda _folder: "accuracy")
    return study


def test_a_report_says_in_one_line_what_waits_where_and_why(reported: StudyFolder, opened: Opener) -> None:
    store = reported.path / "mlflow.db"
    tracker = opened()
    tracker.study_started({})
    assert tracker.close() == 0
    store.write_text("no database")
    tracker = opened()
    tracker.trial_finished(trial(0))
    tracker.close()
    notes: list[str] = []
    report_study(reported.path, on_note=notes.append)
    (note,) = notes
    # the trial, and the front of this report
    assert note.startswith(f"2 messages for MLflow at sqlite:///{store} could not be delivered (DatabaseError: ")
    assert "\n" not in note


def test_a_report_names_the_store_that_is_really_used(
    reported: StudyFolder, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    def last_words() -> str:
        return next(line for line in report_study(reported.path).closing.splitlines() if line.startswith("Report: "))

    assert last_words().endswith(f"; MLflow: {reported.path / 'mlflow.db'}")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", NOBODY)
    assert last_words().endswith("; MLflow: http://bob:***@127.0.0.1:9")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    tracker = opened()
    tracker.study_started({})
    assert tracker.close() == 0
    monkeypatch.setenv("MLFLOW_TRACKING_URI", NOBODY)
    expected = (
        f"http://bob:***@127.0.0.1:9 (no run of this study yet; it has runs in sqlite:///{reported.path / 'mlflow.db'})"
    )
    assert last_words().endswith(f"; MLflow: {expected}")


def test_a_password_in_the_settings_is_not_shown(tmp_path: Path) -> None:
    study = StudyFolder(make_folder(tmp_path, uri="postgresql://bob:geheim@127.0.0.1:9/runs"))
    assert store_words(study, study.settings()) == "postgresql://bob:***@127.0.0.1:9/runs"


def test_a_password_is_not_kept_in_the_record(tmp_path: Path) -> None:
    study = StudyFolder(make_folder(tmp_path, uri="postgresql://bob:geheim@127.0.0.1:9/runs"))
    phases = Phases(study, study.settings(), None, None, StudyLock(study.lock_file), None)  # type: ignore[arg-type]
    phases._record(study.settings()).close()
    held: list[Any] = [file.name for file in tmp_path.rglob("*") if file.is_file() and b"geheim" in file.read_bytes()]
    assert held == ["study.json"]
