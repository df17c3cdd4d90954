"""``autotune ui``: what it serves, to whom, and that nothing of it is left."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import signal
import socket
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import pytest

from autotune.errors import ConfigError, StudyError
from autotune.search.lock import StudyLock
from autotune.study.showing import find_in_mlflow
from autotune.tracking import Tracker
from autotune.tracking.ui import ADDED, DEFAULT_PORT, listening_socket, run_address, with_additions
from tests.autotune._records import trial
from tests.autotune.conftest import Opener
from tests.autotune.mlflow_server import answers
from tests.autotune.mlflow_store import runs_of
from tests.autotune.shown_study import make_folder, write_study
from tests.autotune.small_study import autotune
from tests.autotune.ui_process import running_ui

pytestmark = pytest.mark.usefixtures("no_mlflow_settings")


def fetch(address: str) -> bytes:
    with urllib.request.urlopen(address, timeout=30) as answer:
        return bytes(answer.read())


@pytest.mark.slow
def test_it_serves_the_study_to_this_machine_until_ctrl_c(tmp_path: Path) -> None:
    study = make_folder(tmp_path / "study")
    run_id, _ = write_study(f"sqlite:///{study / 'mlflow.db'}", study)
    with running_ui(study) as (process, address):
        server, _, page = address.partition("/#/")
        assert page == f"experiments/1/runs/{run_id}?workflowType=machine_learning"
        assert ADDED in fetch(f"{server}/")
        assert b"<svg" in fetch(f"{server}/get-artifact?path=page/front.svg&run_uuid={run_id}")
        listening = [one.laddr for one in psutil.Process(process.pid).net_connections() if one.status == "LISTEN"]
        assert [place.ip for place in listening] == ["127.0.0.1"]
        assert psutil.Process(process.pid).children(recursive=True) == [], "there is nothing that could stay behind"
        process.send_signal(signal.SIGINT)
        said, complained = process.communicate(timeout=20)
        assert (process.returncode, complained) == (0, "")
        assert said == "Ended.\n"
        assert not answers(f"{server}/health")


def test_others_are_let_in_only_by_name(tmp_path: Path) -> None:
    done = autotune("ui", "--study-dir", make_folder(tmp_path), "--host", "0.0.0.0", code=2)
    assert "--open-to-network" in done.stderr
    assert "MLflow asks for no password" in done.stderr


def test_without_a_study_or_a_run_of_it_it_says_so(tmp_path: Path) -> None:
    assert "does not exist" in autotune("ui", "--study-dir", tmp_path / "none", code=3).stderr
    study = make_folder(tmp_path / "study")
    with pytest.raises(StudyError, match="written once its search has begun"):
        find_in_mlflow(study, on_note=print)
    assert not list(study.glob("mlruns*"))


def test_a_server_that_does_not_answer_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    study = make_folder(tmp_path, uri="http://127.0.0.1:9")
    with pytest.raises(StudyError, match=r"MLflow at http://127\.0\.0\.1:9 does not answer"):
        find_in_mlflow(study, on_note=print)


def test_it_names_the_store_that_the_runs_went_to(
    opened: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = f"sqlite:///{tmp_path / 'mlflow.db'}"
    study = make_folder(tmp_path / "study")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", elsewhere)
    tracker = Tracker.open(None, study_dir=study, study_name="s")
    tracker.study_started({})
    assert tracker.close() == 0
    assert find_in_mlflow(study, on_note=print).run_id == tracker.run_id
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with pytest.raises(StudyError, match=f"went to {re.escape(elsewhere)}: set MLFLOW_TRACKING_URI"):
        find_in_mlflow(study, on_note=print)


def test_what_waits_is_delivered_first_but_not_beside_a_driver(opened: Opener, tmp_path: Path) -> None:
    make_folder(tmp_path)
    tracker = opened()
    tracker.study_started({})
    assert tracker.close() == 0
    (tmp_path / "tracking" / "pending").mkdir(exist_ok=True)
    waiting = tmp_path / "tracking" / "pending" / "trial-000000.json"
    from autotune.tracking.entries import record_to_dict

    waiting.write_text(json.dumps({"record": record_to_dict(trial(0)), "finished_ms": 1_700_000_000_000}))
    with StudyLock(tmp_path / "study.db.lock"):  # as a driver holds it
        assert find_in_mlflow(tmp_path, on_note=pytest.fail).run_id == tracker.run_id
        assert runs_of(tmp_path, "trial") == []
        assert waiting.exists()
    assert find_in_mlflow(tmp_path, on_note=print).run_id == tracker.run_id
    assert len(runs_of(tmp_path, "trial")) == 1
    assert not waiting.exists()


def test_a_moved_study_brings_its_pictures_along(opened: Opener, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    tracker = opened()
    tracker.study_started({})
    tracker.trial_finished(trial(0))
    tracker.front([], [{"number": 0, "accuracy": 0.8}])
    assert tracker.close() == 0
    first = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    pictures = first.create_experiment("another's", artifact_location="file:///elsewhere/pictures")
    moved = make_folder(tmp_path / "moved 'ü'")
    for name in ("mlflow.db", "tracking", "mlartifacts"):
        shutil.move(tmp_path / name, moved / name)
    shown = find_in_mlflow(moved, on_note=pytest.fail)
    assert shown.run_id == tracker.run_id, "found by the study's own name: its store has another address now"
    client = MlflowClient(f"sqlite:///{moved / 'mlflow.db'}")
    assert [item.path for item in client.list_artifacts(shown.run_id)] == ["front_table.json"]
    places = [run.info.artifact_uri for kind in ("study", "trial") for run in runs_of(moved, kind)]
    assert all(place.startswith(f"{(moved / 'mlartifacts').as_uri()}/") for place in places), places
    assert client.get_experiment(pictures).artifact_location == "file:///elsewhere/pictures"
    again = Tracker.open(None, study_dir=moved, study_name="reviews")
    again.trial_finished(trial(1))
    assert again.close() == 0
    assert len(runs_of(moved, "trial")) == 2


def test_a_port_that_is_taken() -> None:
    with listening_socket("127.0.0.1", None) as first, listening_socket("127.0.0.1", None) as second:
        assert first.getsockname()[1] != second.getsockname()[1]
        taken = first.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {taken}: .*in use.*another --port"):
            listening_socket("127.0.0.1", taken)
    assert DEFAULT_PORT == 5000
    with pytest.raises(ConfigError, match="--port"):
        listening_socket("192.0.2.1", 5000)  # an address that is for documents alone


@pytest.mark.parametrize("base", ["http://host:5000", "http://host:5000/", "https://team:geheim@host/mlflow/"])
def test_an_address_holds_no_password(base: str) -> None:
    address = run_address(base, "1", "ab")
    assert address.endswith("/#/experiments/1/runs/ab?workflowType=machine_learning")
    assert "geheim" not in address
    assert "//#" not in address


def ask(
    path: str, *, method: str = "GET", chunks: tuple[bytes, ...], headers: list[tuple[bytes, bytes]]
) -> tuple[Any, bytes, Any]:
    """What a browser gets of an application that answers with these chunks: status and headers, body, what was asked."""
    asked: dict[str, Any] = {}
    sent: list[Any] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        asked.update(scope)
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for index, chunk in enumerate(chunks):
            await send({"type": "http.response.body", "body": chunk, "more_body": index < len(chunks) - 1})

    async def collect(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "path": path, "method": method, "headers": [(b"If-None-Match", b"x"), (b"accept", b"*/*")]}
    asyncio.run(with_additions(application)(scope, None, collect))  # type: ignore[arg-type]  # it receives nothing
    return sent[0], b"".join(message.get("body", b"") for message in sent[1:]), asked


def test_only_the_page_itself_is_added_to() -> None:
    page, headers = (
        (b"<html><he", b"ad></head><body></head>"),
        [(b"content-length", b"32"), (b"etag", b"x"), (b"a", b"b")],
    )
    start, body, asked = ask("/", chunks=page, headers=headers)
    assert body == b"<html><head>" + ADDED + b"</head><body></head>"
    assert dict(start["headers"]) == {b"a": b"b", b"content-length": str(len(body)).encode()}
    assert asked["headers"] == [(b"accept", b"*/*")]
    start, body, asked = ask("/get-artifact", chunks=page, headers=headers)
    assert (body, start["headers"], len(asked["headers"])) == (b"".join(page), headers, 2)


def test_it_is_bound_to_this_machine() -> None:
    with listening_socket("127.0.0.1", None) as listening:
        assert listening.family is socket.AF_INET
        assert listening.getsockname()[0] == "127.0.0.1"
        assert not listening.get_inheritable()
