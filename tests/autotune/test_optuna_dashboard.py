"""A study's record is an Optuna study like any other: optuna-dashboard shows it."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna_dashboard import wsgi

from autotune.outcome import Outcome, Status
from autotune.search import StudyRecord

from .search_samples import candidate, complete
from .small_study import ROOT


def get(file: Path, path: str) -> Any:
    """What the dashboard's own pages ask it for."""
    seen: list[str] = []
    environ = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": path,
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": False,
        "wsgi.multiprocess": False,
        "wsgi.run_once": True,
        "wsgi.version": (1, 0),
    }
    body = b"".join(wsgi(f"sqlite:///{file}")(environ, lambda status, _headers, *_: seen.append(status)))
    assert seen == ["200 OK"], body
    return json.loads(body)


def test_the_dashboard_shows_both_objectives_parameters_and_how_trials_ended(record: StudyRecord, file: Path) -> None:
    rules = {
        "sherl.learning_rate": FloatDistribution(1e-4, 1e-1, log=True),
        "method": CategoricalDistribution(["sherl", "full"]),
    }
    for rate, metric in ((1e-3, 0.8), (1e-2, 0.7)):
        record.finish(record.start(candidate(rate), seed=0, distributions=rules), complete(metric))
    record.finish(record.start(candidate(), seed=0), Outcome(status=Status.OVER_CAP, reason="it held 9 GB"))
    record.start(candidate(), seed=0)
    (study,) = get(file, "/api/studies")["study_summaries"]
    assert study["directions"] == ["maximize", "minimize"]
    shown = get(file, f"/api/studies/{study['study_id']}")
    states = [trial["state"] for trial in shown["trials"]]
    assert states == ["Complete", "Complete", "Fail", "Running"]
    assert [trial.get("values") for trial in shown["trials"][:2]] == [[0.8, 1000.0], [0.7, 1000.0]]
    params = {row["name"]: row["param_external_value"] for row in shown["trials"][1]["params"]}
    assert params == {"method": "sherl", "sherl.learning_rate": "0.01"}
    attributes = {row["key"]: row["value"] for row in shown["trials"][2]["user_attrs"]}
    assert (attributes["status"], attributes["reason"]) == ("over_cap", "it held 9 GB")


def test_the_readme_says_how() -> None:
    assert "optuna-dashboard sqlite:///STUDY/study.db" in (ROOT / "README.md").read_text(encoding="utf-8")
