"""A study's record in Optuna's own dashboard, started as a person starts it."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from autotune.outcome import Outcome, Status
from autotune.search import StudyRecord
from tests.autotune.search_samples import SETTINGS, candidate, complete
from tests.autotune.small_study import ROOT

DASHBOARD = Path(sys.executable).with_name("optuna-dashboard")
_PATIENCE_SECONDS = 120


def get(url: str, server: subprocess.Popen[bytes]) -> Any:
    """The answer as soon as the server gives one."""
    until = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                body = answer.read()
                return json.loads(body) if "/api/" in url else body.decode()
        except urllib.error.URLError:
            assert server.poll() is None, "the dashboard has ended"
            assert time.monotonic() < until, "the dashboard does not answer"
            time.sleep(0.3)


@pytest.mark.slow
def test_the_dashboard_shows_a_study(file: Path) -> None:
    with StudyRecord.create(file, "demo", settings=SETTINGS) as record:
        record.finish(record.start(candidate(1e-3), seed=0), complete(0.8))
        record.finish(record.start(candidate(2e-3), seed=1), Outcome(status=Status.OVER_CAP, reason="held too much"))
        record.refuse(candidate(3e-3), "over the cap")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [str(DASHBOARD), f"sqlite:///{file}", "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        (study,) = get(f"http://127.0.0.1:{port}/api/studies", server)["study_summaries"]
        assert study["directions"] == ["maximize", "minimize"]
        details = get(f"http://127.0.0.1:{port}/api/studies/{study['study_id']}", server)
        assert [trial["state"] for trial in details["trials"]] == ["Complete", "Fail"]
        assert details["trials"][0]["values"] == [0.8, 1000.0]
        assert "<html" in get(f"http://127.0.0.1:{port}/dashboard/", server)
    finally:
        server.terminate()
        server.wait(timeout=30)


def test_the_readme_says_how() -> None:
    assert "optuna-dashboard sqlite:///STUDY/study.db" in (ROOT / "README.md").read_text(encoding="utf-8")
