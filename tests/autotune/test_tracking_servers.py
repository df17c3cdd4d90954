"""A study whose runs go to a server or a database elsewhere: real ones, that go away in the middle and come back."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, ClassVar

import pytest

from autotune.report import front_table, points_from
from autotune.tracking import Tracker
from tests.autotune._records import trial
from tests.autotune.mlflow_server import MlflowServer, Postgres, answering

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def no_mlflow_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)


def with_memory(number: int, **options: Any) -> Any:
    """A trial with the memory that it held over time."""
    record = trial(number, **options)
    assert record.outcome is not None
    series = tuple((0.05 * step, 500_000_000 + 1_000_000 * step) for step in range(240))
    return replace(record, outcome=replace(record.outcome, memory_over_time=series))


def trials_of(uri: str, run_id: str, **options: Any) -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_run(run_id).info.experiment_id
    return list(client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{run_id}'", **options))


def run_a_study_through_an_outage(uri: str, study: Path, stop: Callable[[], None], start: Callable[[], object]) -> str:
    """Two trials before, two while nobody listens, the rest by a later process; returns the study's run."""
    notes: list[str] = []
    records = [with_memory(number, metric=0.7 + number / 100, allocated=10**8 * (number + 1)) for number in range(4)]
    tracker = Tracker.open(uri, study_dir=study, study_name="reviews", on_note=notes.append)
    tracker.study_started({"memory_cap": 8_000_000_000})
    for record in records[:2]:
        tracker.trial_finished(record)
    assert tracker.deliver_pending(timeout_s=90) == 0, notes
    stop()
    began = time.monotonic()
    for record in records[2:]:
        tracker.trial_finished(record)
    assert time.monotonic() - began < 10.0, "a trial waited for a server that is gone"
    assert tracker.deliver_pending(timeout_s=60) == 2
    assert tracker.close(timeout_s=5) == 2
    assert any("does not take" in note for note in notes)
    start()
    later = Tracker.open(uri, study_dir=study, study_name="reviews")
    later.front([], front_table(points_from(records, metric_name="accuracy")))
    later.finished("complete")
    assert later.close(timeout_s=120) == 0, later.notes
    assert later.run_id == tracker.run_id
    assert not list((study / "tracking" / "pending").glob("*/*.json"))
    return str(later.run_id)


def test_a_server_that_goes_away_and_comes_back_loses_nothing(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    server = MlflowServer(f"sqlite:///{tmp_path / 'server' / 'mlflow.db'}", tmp_path / "server")
    with server:
        run_id = run_a_study_through_an_outage(server.address, tmp_path / "study", server.stop, server.start)
        client = MlflowClient(server.address)
        assert client.get_run(run_id).info.status == "FINISHED"
        assert {item.path for item in client.list_artifacts(run_id)} == {"front_table.json"}
        assert (
            client.get_experiment_by_name("memory-autotune").tags["mlflow.experimentKind"] == "custom_model_development"
        )
        trials = trials_of(server.address, run_id)
        assert sorted(run.data.tags["trial_number"] for run in trials) == ["0", "1", "2", "3"]
        for run in trials:
            held = client.get_metric_history(run.info.run_id, "curves/memory_device_mb")
            assert len(held) == 240, "each reading once, however often it was sent"
            assert (held[-1].step, held[-1].value) == (11_950, 739.0)


def test_postgresql_takes_a_study_and_gets_what_it_missed(tmp_path: Path) -> None:
    with Postgres(tmp_path) as database:
        run_id = run_a_study_through_an_outage(database.address, tmp_path / "study", database.stop, database.start)
        best = trials_of(database.address, run_id, order_by=["metrics.metric DESC"])
        assert [run.data.tags["trial_number"] for run in best] == ["3", "2", "1", "0"]
        assert {run.data.tags["on_front"] for run in best} == {"true"}


class Deaf(BaseHTTPRequestHandler):
    """Writes down who asks, and refuses."""

    asked: ClassVar[list[str | None]] = []

    def do_GET(self) -> None:
        Deaf.asked.append(self.headers.get("Authorization"))
        self.send_response(401)
        self.end_headers()

    do_POST = do_GET

    def log_message(self, *args: object) -> None:
        """Nothing on the terminal."""


@pytest.fixture
def deaf() -> Iterator[str]:
    Deaf.asked.clear()
    with answering(Deaf) as address:
        yield address


@pytest.mark.parametrize(
    ("settings", "header"),
    [
        (
            {"MLFLOW_TRACKING_USERNAME": "team", "MLFLOW_TRACKING_PASSWORD": "geheim"},
            "Basic " + base64.b64encode(b"team:geheim").decode(),
        ),
        ({"MLFLOW_TRACKING_TOKEN": "geheim"}, "Bearer geheim"),
    ],
    ids=["user and password", "token"],
)
def test_name_and_password_come_from_the_environment_and_are_written_nowhere(
    settings: dict[str, str], header: str, deaf: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", deaf)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    tracker = Tracker.open(None, study_dir=tmp_path, study_name="s")
    tracker.study_started({"memory_cap": 1})
    assert tracker.close(timeout_s=60) == 1, "a wrong password may be put right: the message is kept"
    assert set(Deaf.asked) == {header}
    assert not any("geheim" in note for note in tracker.notes)
    assert not any(b"geheim" in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
