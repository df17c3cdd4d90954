"""MLflow as a view: what is written, that it is written once, and that nothing is lost when nobody listens."""

from __future__ import annotations

import json
import math
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autotune.errors import ConfigError
from autotune.outcome import Confirmation, InferenceFigures, Status
from autotune.tracking import entries
from autotune.tracking.location import locate, quiet_environment
from autotune.tracking.outbox import Outbox
from tests.autotune._records import SHERL, trial
from tests.autotune.conftest import Opener
from tests.autotune.mlflow_store import history, runs_of

pytestmark = pytest.mark.usefixtures("no_mlflow_settings")


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_study_is_one_run_with_its_trials_nested(opened: Opener, tmp_path: Path) -> None:
    tracker = opened()
    tracker.study_started({"memory_cap": 8_000_000_000, "data": {"train": None, "seed": 0}})
    tracker.trial_finished(trial(0, test_metrics={"accuracy": 0.77}))
    tracker.trial_finished(trial(1, None, 2_000, status=Status.OVER_CAP, reason="over the cap", epochs=0))
    tracker.trial_finished(trial(2, 0.5, status=Status.STOPPED, reason="stopped"))
    tracker.finished("complete")
    assert tracker.close() == 0
    assert tracker.notes == []
    (study,) = runs_of(tmp_path, "study")
    assert study.info.run_id == tracker.run_id
    assert study.info.run_name == "reviews ü"
    assert study.info.status == "FINISHED"
    assert study.data.params["memory_cap"] == "8000000000"
    assert study.data.params["data.seed"] == "0"
    first, second, third = runs_of(tmp_path, "trial")
    assert {run.data.tags["mlflow.parentRunId"] for run in (first, second, third)} == {tracker.run_id}
    assert [run.info.status for run in (first, second, third)] == ["FINISHED", "FAILED", "KILLED"]
    assert second.data.tags["status"] == "over_cap"
    assert second.data.tags["reason"] == "over the cap"
    assert first.data.params["method.late_route.rank"] == "8"
    assert first.data.params["training.learning_rate"] == "0.001"
    metrics = first.data.metrics
    assert metrics["metric"] == 0.8
    assert metrics["peak_allocated_mb"] == 400.0
    assert metrics["peak_device_mb"] == 1000.0
    assert metrics["predicted_device_mb"] == 1100.0
    assert metrics["trainable_parameters"] == 12_345
    assert metrics["test/accuracy"] == 0.77
    assert metrics["kept/accuracy"] == 0.8
    assert first.info.end_time - first.info.start_time == 12_500
    assert history(tmp_path, first.info.run_id, "curves/valid_accuracy") == [(1, 0.71), (2, 0.72)]
    assert history(tmp_path, first.info.run_id, "curves/train_loss") == [(1, 1.0), (2, 0.5)]


def test_resuming_tracks_nothing_twice_and_adds_what_is_new(opened: Opener, tmp_path: Path) -> None:
    tracker = opened()
    tracker.study_started({"trials": 2})
    tracker.trial_finished(trial(0))
    tracker.finished("interrupted")
    assert tracker.close() == 0
    assert runs_of(tmp_path, "study")[0].info.status == "KILLED"
    again = opened()
    again.study_started({"trials": 4, "new": "x"})
    again.trial_finished(trial(0))
    again.trial_finished(trial(1))
    assert again.close() == 0
    assert again.notes == []
    assert again.run_id == tracker.run_id
    (study,) = runs_of(tmp_path, "study")
    assert study.info.status == "RUNNING"
    assert study.data.params == {"trials": "2", "new": "x"}
    assert study.data.tags["now.trials"] == "4"
    first, _second = runs_of(tmp_path, "trial")
    assert history(tmp_path, first.info.run_id, "curves/train_loss") == [(1, 1.0), (2, 0.5)]


def test_a_trial_that_is_scored_later_is_brought_up_to_date(opened: Opener, tmp_path: Path) -> None:
    tracker = opened()
    tracker.study_started({})
    tracker.trial_finished(trial(0))
    assert tracker.deliver_pending() == 0
    tracker.trial_finished(trial(0, test_metrics={"accuracy": 0.75}))
    assert tracker.close() == 0
    (run,) = runs_of(tmp_path, "trial")
    assert run.data.metrics["test/accuracy"] == 0.75
    assert run.info.status == "FINISHED"
    assert history(tmp_path, run.info.run_id, "curves/train_loss") == [(1, 1.0), (2, 0.5)]
    assert history(tmp_path, run.info.run_id, "metric") == [(0, 0.8)]


def test_a_trial_that_was_cut_off_on_the_way_is_written_once(opened: Opener, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    tracker = opened()
    tracker.study_started({})
    tracker.trial_finished(trial(0))
    assert tracker.close() == 0
    (run,) = runs_of(tmp_path, "trial")
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    client.delete_tag(run.info.run_id, "digest")  # as after kill -9 between the last two calls
    client.update_run(run.info.run_id, status="RUNNING")
    again = opened()
    again.trial_finished(trial(0))
    assert again.close() == 0
    (run,) = runs_of(tmp_path, "trial")
    assert run.info.status == "FINISHED"
    assert history(tmp_path, run.info.run_id, "metric") == [(0, 0.8)]


def test_a_run_id_in_the_environment_hijacks_nothing(
    opened: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", "0123456789abcdef0123456789abcdef")
    tracker = opened()
    tracker.study_started({})
    tracker.trial_finished(trial(0))
    assert tracker.close() == 0
    assert tracker.run_id != "0123456789abcdef0123456789abcdef"
    assert runs_of(tmp_path, "trial")[0].data.tags["mlflow.parentRunId"] == tracker.run_id


def test_a_known_run_is_continued_and_a_deleted_one_replaced(opened: Opener, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    tracker = opened()
    tracker.study_started({})
    assert tracker.close() == 0
    (tmp_path / "tracking" / "state.json").unlink()
    again = opened(run_id=tracker.run_id)
    again.trial_finished(trial(0))
    assert again.close() == 0
    assert again.run_id == tracker.run_id
    MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}").delete_run(str(tracker.run_id))
    third = opened(run_id=tracker.run_id)
    third.study_started({})
    assert third.close() == 0
    assert third.run_id not in (None, tracker.run_id)
    assert "no longer there" in third.notes[0]


def test_the_front_is_a_table_figures_and_marks(opened: Opener, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    files = [tmp_path / "front.png", tmp_path / "front.html"]
    for file in files:
        file.write_text("x")
    tracker = opened()
    tracker.study_started({})
    tracker.trial_finished(trial(0))
    tracker.trial_finished(trial(1))
    table = [{"number": 1, "configuration": "a|b <script>", "accuracy": 0.8}]
    tracker.front([*files, tmp_path / "gone.svg"], table, {"explanation": "Trial 1 <b>wins</b>."})
    assert tracker.close() == 0
    assert any("gone.svg" in note for note in tracker.notes)
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    names = {item.path for item in client.list_artifacts(str(tracker.run_id))}
    assert names == {"front.png", "front.html", "front_table.json"}
    study = client.get_run(str(tracker.run_id))
    stored = Path(study.info.artifact_uri.removeprefix("file://")) / "front_table.json"
    assert stored.is_relative_to(tmp_path / "mlartifacts")
    assert json.loads(stored.read_text()) == {
        "columns": ["number", "configuration", "accuracy"],
        "data": [[1, "a|b <script>", 0.8]],
    }
    note = study.data.tags["mlflow.note.content"]
    assert "<script>" not in note
    assert "a&#124;b &#60;script&#62;" in note
    assert [run.data.tags["on_front"] for run in runs_of(tmp_path, "trial")] == ["false", "true"]


def test_a_dead_server_costs_no_time_and_loses_nothing(opened: Opener, tmp_path: Path) -> None:
    said: list[str] = []
    uri = f"http://127.0.0.1:{closed_port()}"
    tracker = opened(uri, on_note=said.append)
    began = time.monotonic()
    tracker.study_started({"a": 1})
    began = max(began, time.monotonic() - 1.0)  # the import of mlflow is not the server's fault
    for number in range(8):
        tracker.trial_finished(trial(number))
    tracker.finished("complete")
    assert time.monotonic() - began < 5
    assert tracker.deliver_pending(timeout_s=10) == 10
    assert tracker.close(timeout_s=10) == 10
    assert time.monotonic() - began < 40
    assert sum("does not take" in note for note in said) == 1
    assert said == tracker.notes
    assert len(list((tmp_path / "tracking" / "pending").glob("*/*.json"))) == 10
    assert opened(uri).undelivered == 10


def test_a_store_that_comes_back_gets_everything(opened: Opener, tmp_path: Path) -> None:
    database = tmp_path / "mlflow.db"
    good = database.read_bytes()
    database.write_bytes(b"this is no database" * 100)
    tracker = opened()
    tracker.study_started({})
    tracker.trial_finished(trial(0))
    assert tracker.deliver_pending(timeout_s=10) == 2
    assert "not a database" in tracker.notes[0]
    database.write_bytes(good)
    assert tracker.deliver_pending() == 0
    assert len(runs_of(tmp_path, "trial")) == 1


def test_one_refused_trial_does_not_hold_up_the_others(
    opened: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

    from autotune.tracking.delivery import Delivery

    deliver = Delivery.deliver

    def refuses_one(self: Delivery, key: str, message: Any) -> None:
        if key == "trial-000001":
            raise MlflowException("too odd", error_code=INVALID_PARAMETER_VALUE)
        deliver(self, key, message)

    monkeypatch.setattr(Delivery, "deliver", refuses_one)
    tracker = opened()
    tracker.study_started({})
    for number in range(3):
        tracker.trial_finished(trial(number))
    assert tracker.close() == 1
    assert any("refused trial-000001" in note for note in tracker.notes)
    assert len(runs_of(tmp_path, "trial")) == 2
    monkeypatch.setattr(Delivery, "deliver", deliver)
    assert opened().deliver_pending() == 0
    assert len(runs_of(tmp_path, "trial")) == 3


def test_odd_values_are_taken(opened: Opener, tmp_path: Path) -> None:
    method = {**SHERL, "name": "日本 <b>", "weird key 🙂/../x": "y" * 10_000, "": None}
    odd = trial(0, math.nan, status=Status.DIVERGED, method=method, reason="loss is NaN\n" * 1000)
    assert odd.outcome is not None
    reports = tuple(replace(report, train_loss=math.inf, metrics={"f1 (ä)": math.nan}) for report in odd.outcome.epochs)
    tracker = opened()
    tracker.study_started({f"key{number}": number for number in range(250)})
    tracker.trial_finished(replace(odd, outcome=replace(odd.outcome, epochs=reports)))
    assert tracker.close(timeout_s=200) == 0, tracker.notes
    (run,) = runs_of(tmp_path, "trial")
    assert run.info.status == "FAILED"
    assert math.isnan(run.data.metrics["metric"])
    assert len(runs_of(tmp_path, "study")[0].data.params) == 250


def test_passwords_are_written_nowhere(opened: Opener, tmp_path: Path) -> None:
    uri = f"postgresql://team:geheim@127.0.0.1:{closed_port()}/runs"
    tracker = opened(uri)
    tracker.study_started({"mlflow_uri": uri})
    tracker.close(timeout_s=10)
    assert "geheim" not in tracker.uri
    assert tracker.notes
    assert not any("geheim" in note for note in tracker.notes)
    local = opened(None)
    local.study_started({"mlflow_uri": uri})
    assert local.close() == 0
    assert "geheim" not in str(runs_of(tmp_path, "study")[0].data.params)
    assert all(b"geheim" not in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())


def test_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert locate(None, tmp_path).uri == f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert locate(None, tmp_path).artifacts == (tmp_path / "mlartifacts").as_uri()
    monkeypatch.chdir(tmp_path)
    assert locate("sqlite:///here/m.db", tmp_path).uri == f"sqlite:///{tmp_path / 'here' / 'm.db'}"
    assert locate("http://host:5000", tmp_path).artifacts is None
    for folder in ("./mlruns", "file:///tmp/mlruns", ""):
        with pytest.raises(ConfigError, match="sqlite:///PATH"):
            locate(folder, tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://team.example")
    assert locate(None, tmp_path).uri == "https://team.example"
    assert locate("sqlite:////x.db", tmp_path).uri == "sqlite:////x.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "./mlruns")
    fallen_back = locate(None, tmp_path)
    assert fallen_back.uri.startswith("sqlite:///")
    assert fallen_back.note is not None


def test_waiting_is_bounded_unless_a_person_says_how_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "to be taken away, and put back after the test")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES")
    quiet_environment()
    from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_MAX_RETRIES, MLFLOW_HTTP_REQUEST_TIMEOUT

    assert MLFLOW_HTTP_REQUEST_TIMEOUT.get() == 77
    assert MLFLOW_HTTP_REQUEST_MAX_RETRIES.get() == 1


def test_outbox_keeps_the_newest_and_survives_a_torn_file(tmp_path: Path) -> None:
    box = Outbox(tmp_path, store="here", shown="http://here")
    for key in ("finished", "trial-000010", "front", "trial-000002", "study"):
        box.put(key, {"version": 1})
    assert [key for key, _, _ in box.waiting()] == ["study", "trial-000002", "trial-000010", "front", "finished"]
    (_, token, _), *_ = box.waiting()
    box.put("study", {"version": 2})
    box.delivered("study", token)  # the older one was delivered meanwhile: the newer one stays
    torn = tmp_path / "here" / "trial-000099.json"
    torn.write_text('{"half')
    again = Outbox(tmp_path, store="here", shown="http://here")
    assert len(again) == 5
    assert again.waiting()[0][2] == {"version": 2}
    assert again.unreadable == [torn]
    assert len(Outbox(tmp_path, store="there", shown="http://there")) == 0


def test_records_travel_as_json() -> None:
    record = trial(3, test_metrics={"accuracy": 0.5})
    assert entries.record_from_dict(json.loads(json.dumps(entries.record_to_dict(record)))) == record
    assert entries.digest(record) != entries.digest(trial(3))
    assert record.outcome is not None
    assert record.outcome.peak is not None
    inference = InferenceFigures(
        peak=record.outcome.peak, latency_seconds=0.1, rows_per_second=9.0, batch_rows=8, threads=1, device="cpu"
    )
    confirmed = replace(record, confirmations=(Confirmation(seed=9, outcome=record.outcome),), inference=inference)
    plain = json.loads(json.dumps(entries.record_to_dict(confirmed)))
    assert entries.record_from_dict(plain) == confirmed
    del plain["confirmations"], plain["inference"]  # as an earlier version left it in an outbox
    assert entries.record_from_dict(plain) == record


def test_opening_imports_no_mlflow_and_terminal_stays_quiet(tmp_path: Path) -> None:
    script = (
        "import sys; from autotune.tracking import Tracker\n"
        f"t = Tracker.open(None, study_dir={str(tmp_path)!r}, study_name='s')\n"
        "assert 'mlflow' not in sys.modules and t.deliver_pending() == 0 and 'mlflow' not in sys.modules\n"
        "t.study_started({}); assert t.close(200) == 0; assert not t.notes\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=250, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
