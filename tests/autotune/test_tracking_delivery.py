"""Each run once: two commands at the same time, a server that answers late, and what a killed process leaves behind."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import pytest

from autotune.deploy import Registered
from autotune.errors import StudyError
from autotune.outcome import TrialRecord
from autotune.search.lock import StudyLock
from autotune.study import confirm_study, export_from_study, exporting, resume_study
from autotune.tracking import Tracker, entries
from autotune.tracking.lock import Busy, DeliveryLock
from autotune.tracking.outbox import Outbox
from tests.autotune._records import trial
from tests.autotune.conftest import Opener
from tests.autotune.finished_study import finished_study
from tests.autotune.mlflow_server import answering
from tests.autotune.mlflow_store import runs_of

pytestmark = pytest.mark.usefixtures("no_mlflow_settings")


def lock_of(study: Path, name: str = "a test") -> DeliveryLock:
    return DeliveryLock(study / "tracking" / "deliver.lock", name)


def outbox_of(study: Path) -> Outbox:
    return Outbox(study / "tracking" / "pending", store="own", shown="own")


def message_of(record: TrialRecord) -> dict[str, Any]:
    return {"record": entries.record_to_dict(record), "finished_ms": 1_700_000_000_000}


def test_two_commands_at_once_write_each_run_once(opened: Opener, tmp_path: Path) -> None:
    for number in range(3):
        outbox_of(tmp_path).put(f"trial-{number:06d}", message_of(trial(number)))
    both = [opened(), opened()]
    assert [one.undelivered for one in both] == [3, 3]
    threads = [threading.Thread(target=one.close, args=(60,)) for one in both]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one.undelivered for one in both] == [0, 0]
    assert len(runs_of(tmp_path, "study")) == 1
    assert [run.data.tags["trial_number"] for run in runs_of(tmp_path, "trial")] == ["0", "1", "2"]


def test_nothing_is_delivered_beside_another_and_the_outbox_is_read_anew(opened: Opener, tmp_path: Path) -> None:
    outbox_of(tmp_path).put("trial-000000", message_of(trial(0)))
    tracker = opened()
    with lock_of(tmp_path).held(timeout_s=0.0):
        assert tracker.deliver_pending(timeout_s=2.0) == 1
        assert runs_of(tmp_path, "study") == []
        with pytest.raises(Busy), lock_of(tmp_path).held(timeout_s=0.0):
            pytest.fail("it was held already")
        box = outbox_of(tmp_path)  # the other has delivered it
        box.delivered(*box.waiting()[0][:2])
        box.put("trial-000001", message_of(trial(1)))
    assert tracker.close() == 0
    assert tracker.notes == []
    assert [run.data.tags["trial_number"] for run in runs_of(tmp_path, "trial")] == ["1"]


def test_a_lock_says_whether_another_held_it_meanwhile(tmp_path: Path) -> None:
    for name, expected in (("a", True), ("a", False), ("b", True), ("b", False), ("a", True)):
        with lock_of(tmp_path, name).held(timeout_s=0.0) as others:
            assert others == expected


def test_runs_that_another_command_made_meanwhile_are_gone_on_with(opened: Opener, tmp_path: Path) -> None:
    first, second = opened(), opened()
    first.trial_finished(trial(0))
    assert first.deliver_pending() == 0
    second.trial_finished(trial(1))
    assert second.close() == 0
    first.trial_finished(trial(1, test_metrics={"accuracy": 0.5}))
    assert first.close() == 0
    assert len(runs_of(tmp_path, "study")) == 1
    _, run = runs_of(tmp_path, "trial")
    assert run.data.metrics["test/accuracy"] == 0.5


def test_a_newer_message_of_another_process_stays(tmp_path: Path) -> None:
    one, other = outbox_of(tmp_path), outbox_of(tmp_path)
    one.put("study", {"version": 1})
    other.refresh()
    (key, token, message), *_ = other.waiting()
    assert message == {"version": 1}
    one.put("study", {"version": 2})
    other.delivered(key, token)
    assert [message for _, _, message in outbox_of(tmp_path).waiting()] == [{"version": 2}]


def test_what_a_killed_process_left_is_no_message_and_goes(opened: Opener, tmp_path: Path) -> None:
    pending = tmp_path / "tracking" / "pending"
    (pending / "own").mkdir(parents=True)
    earlier, torn, old, fresh = (
        pending / ".1a2b3c4d.json",
        pending / ".5e6f7a8b.json",
        pending / "own" / ".12345678.json",
        pending / "own" / ".87654321.json",
    )
    for file in (earlier, old, fresh):
        file.write_text(json.dumps(message_of(trial(0))))
    torn.write_text('{"record": {"numb')
    os.utime(old, (time.time() - 3600, time.time() - 3600))
    tracker = opened()
    assert tracker.undelivered == 0
    tracker.study_started({})
    assert tracker.close() == 0
    assert tracker.notes == []
    assert runs_of(tmp_path, "trial") == []
    assert [file for file in (earlier, torn, old, fresh) if file.exists()] == [fresh], "another may be writing it"


def test_runs_that_were_made_twice_are_taken_away(opened: Opener, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    tracker = opened()
    tracker.study_started({})
    tracker.trial_finished(trial(0))
    tracker.trial_finished(trial(1))
    assert tracker.close() == 0
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    (study,), (whole, other) = runs_of(tmp_path, "study"), runs_of(tmp_path, "trial")
    place = study.info.experiment_id
    twin = client.create_run(place, start_time=1, tags={"kind": "study", "study_id": tracker.study_id})
    tags = {key: whole.data.tags[key] for key in ("kind", "study_id", "trial_number")}
    client.create_run(place, start_time=1, tags=tags)  # cut off, though it was there first
    client.set_tag(other.info.run_id, "mlflow.parentRunId", twin.info.run_id)
    strange = client.create_run(place, tags={**tags, "study_id": "another's"})
    again = opened()
    again.finished()
    assert again.close() == 0
    assert again.notes == []
    assert [run.info.run_id for run in runs_of(tmp_path, "study")] == [study.info.run_id]
    left = [run for run in runs_of(tmp_path, "trial") if run.info.run_id != strange.info.run_id]
    assert [run.info.run_id for run in left] == [whole.info.run_id, other.info.run_id]
    assert {run.data.tags["mlflow.parentRunId"] for run in left} == {study.info.run_id}
    assert client.get_run(strange.info.run_id).info.lifecycle_stage == "active"


@pytest.mark.parametrize("command", [resume_study, confirm_study], ids=["resume", "confirm"])
def test_where_the_studys_lock_is_refused_nothing_is_delivered(command: Any, tmp_path: Path) -> None:
    study = finished_study(tmp_path)
    outbox_of(study.path).put("trial-000000", message_of(trial(0)))
    with StudyLock(study.record_file.with_name("study.db.lock")):
        with pytest.raises(StudyError, match="another driver"):
            command(study.path, _Deaf())
        assert not (study.path / "mlflow.db").exists()
        assert len(outbox_of(study.path)) == 1


def test_registering_delivers_nothing_beside_a_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = finished_study(tmp_path)
    outbox_of(study.path).put("trial-000000", message_of(trial(0)))
    made = Registered(name="m", version=1, alias="champion", run_id="ab", uri="models:/m@champion")
    monkeypatch.setattr(exporting, "register", lambda *_args, **_options: made)
    with StudyLock(study.record_file.with_name("study.db.lock")):
        export_from_study(study.path, tmp_path / "first", register_as="m")
        assert not (study.path / "mlflow.db").exists()
    export_from_study(study.path, tmp_path / "second", register_as="m")
    assert len(runs_of(study.path, "trial")) == 1


class _Deaf:
    """Hears all and says nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_args, **_options: None


class Slow(BaseHTTPRequestHandler):
    """An MLflow server that makes runs at once, and says so of the first only when released. Holds one experiment."""

    runs: ClassVar[dict[str, dict[str, Any]]] = {}
    released: ClassVar[threading.Event] = threading.Event()

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers.get("content-length") or 0)) or b"{}")
        address = urlsplit(self.path)
        asked |= {key: values[0] for key, values in parse_qs(address.query).items()}
        name = address.path.rpartition("/mlflow/")[2]
        answer: dict[str, Any] = {}
        if name == "experiments/get-by-name":
            answer = {"experiment": {"experiment_id": "1", "name": "x", "lifecycle_stage": "active"}}
        elif name == "runs/create":
            run_id = f"{len(Slow.runs):032x}"
            info = {"run_id": run_id, "run_uuid": run_id, "experiment_id": "1", "status": "RUNNING", "start_time": 1}
            run = {"info": {**info, "lifecycle_stage": "active"}, "data": {"tags": asked["tags"]}}
            Slow.runs[run_id] = run
            answer = {"run": run}
            if len(Slow.runs) == 1:
                Slow.released.wait(60)
        elif name == "runs/get":
            answer = {"run": Slow.runs[asked["run_id"]]}
        elif name == "runs/update":
            answer = {"run_info": Slow.runs[asked["run_id"]]["info"]}
        elif name == "runs/search":
            kind = "study" if "'study'" in asked["filter"] else "trial"
            answer = {
                "runs": [run for run in Slow.runs.values() if {"key": "kind", "value": kind} in run["data"]["tags"]]
            }
        body = json.dumps(answer).encode()
        try:
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        except OSError:  # who asked has gone
            return

    do_GET = do_POST

    def log_message(self, *args: object) -> None:
        """Nothing on the terminal."""


@pytest.fixture
def slow() -> Iterator[str]:
    Slow.runs.clear()
    Slow.released.clear()
    with answering(Slow) as address:
        yield address
        Slow.released.set()


def test_a_run_whose_making_was_answered_late_is_not_made_again(
    slow: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # of a person's choice, and kept for all else
    tracker = Tracker.open(slow, study_dir=tmp_path, study_name="s")
    tracker.study_started({})
    tracker.trial_finished(trial(0))
    tracker.deliver_pending(timeout_s=20)  # gives up after two seconds, by itself or in the round before
    Slow.released.set()
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "2"
    assert tracker.close(timeout_s=60) == 0, tracker.notes
    kinds = [tag["value"] for run in Slow.runs.values() for tag in run["data"]["tags"] if tag["key"] == "kind"]
    assert kinds == ["study", "trial"], "a second try of MLflow's client, or the next round, made one more"
