"""A headless Chromium, and a study of a few trials in a real ``mlflow server``."""

from __future__ import annotations

import math
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from autotune.outcome import Status, TrialRecord
from autotune.report import front_table, points_from, select, write_report
from autotune.tracking import Tracker
from tests.autotune._records import SHERL, trial
from tests.autotune.mlflow_server import MlflowServer

HOSTILE = '<img src=x onerror="window.harmed=1">|`*_[x](javascript:harmed) @you :smile: www.example.com'
"""A name that a person could give, which is more than text wherever it is not escaped."""

OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"]
WAIT_MS = 60_000


@dataclass(frozen=True)
class Shown:
    """A study in a server. run_id, experiment_id: of the study; best: the run of the trial that was selected."""

    server: str
    experiment_id: str
    run_id: str
    best: str

    @property
    def page(self) -> str:
        """Its run's page."""
        return f"{self.server}/#/experiments/{self.experiment_id}/runs/{self.run_id}?workflowType=machine_learning"


def records() -> list[TrialRecord]:
    """Five trials: a front of three, of which one has a hostile name, one that was stopped and one over the cap."""
    made = [
        trial(0, 0.71, 150_000_000, test_metrics={"accuracy": 0.70}),
        trial(1, 0.79, 420_000_000, method={**SHERL, "name": HOSTILE}, test_metrics={"accuracy": 0.78}),
        trial(2, 0.83, 1_900_000_000, method={"name": "full"}, test_metrics={"accuracy": 0.82}),
        trial(3, 0.65, 900_000_000, status=Status.STOPPED, reason="stopped early"),
        trial(4, None, 2_600_000_000, status=Status.OVER_CAP, reason="over the cap", epochs=0),
    ]
    held = []
    for record in made:
        assert record.outcome is not None
        assert record.outcome.peak is not None
        device = record.outcome.peak.device
        series = tuple((0.05 * step, int(device * (0.6 + 0.4 * math.sin(step / 76) ** 2))) for step in range(240))
        held.append(replace(record, outcome=replace(record.outcome, memory_over_time=series)))
    return held


def write_study(uri: str, folder: Path) -> tuple[str, str]:
    """The study's run and that of trial 2, written as a study writes them."""
    from mlflow import MlflowClient

    trials = records()
    points = points_from(trials, metric_name="accuracy")
    selection = select(points)
    settings = {"name": HOSTILE, "model": "all-minilm-l6-v2", "memory_cap": 3_000_000_000, "metric": "accuracy"}
    paths = write_report(folder / "report", trials, settings, selection=selection)
    further = folder / "report" / "parallel_coordinates.png"
    shutil.copyfile(paths.front_png, further)
    tracker = Tracker.open(uri, study_dir=folder, study_name=HOSTILE)
    tracker.study_started({"memory_cap": 3_000_000_000, "model": "all-minilm-l6-v2"})
    for record in trials:
        tracker.trial_finished(record)
    tracker.front([*paths.all(), further], front_table(points), selection.to_dict())
    tracker.finished("complete")
    assert tracker.close(timeout_s=120) == 0, tracker.notes
    client = MlflowClient(uri)
    experiment = client.get_run(str(tracker.run_id)).info.experiment_id
    (best,) = client.search_runs([experiment], "tags.trial_number = '2'")
    return str(tracker.run_id), str(best.info.run_id)


@pytest.fixture(scope="session")
def shown(tmp_path_factory: pytest.TempPathFactory, chromium: str) -> Iterator[Shown]:
    """The study in a server of its own."""
    folder = tmp_path_factory.mktemp("server")
    outer = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("MLFLOW_")}
    try:
        with MlflowServer(f"sqlite:///{folder / 'mlflow.db'}", folder) as server:
            run_id, best = write_study(server.address, tmp_path_factory.mktemp("study"))
            yield Shown(server=server.address, experiment_id="1", run_id=run_id, best=best)
    finally:
        os.environ.update(outer)


@pytest.fixture(scope="session")
def chromium() -> str:
    """Where Debian's Chromium lies."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    pytest.importorskip("playwright", reason="needs playwright: pip install -e '.[test]'")
    return found


@dataclass
class Browser:
    """A window of its own for each page. requested: every address that was asked for; blocked: those of them elsewhere."""

    context: Any
    requested: list[str]
    blocked: list[str]

    def open(self, address: str) -> Any:
        """A page at an address, as far as its first bytes."""
        page = self.context.new_page()
        page.set_default_timeout(WAIT_MS / 2)
        page.goto(address, wait_until="domcontentloaded", timeout=WAIT_MS)
        return page


Browse = Callable[..., Browser]


@pytest.fixture
def browse(chromium: str) -> Iterator[Browse]:
    """Opens browsers that reach 127.0.0.1 and nothing else."""
    from playwright.sync_api import Route, sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=OPTIONS)

        def start(*, dark: bool = False) -> Browser:
            context = browser.new_context(
                viewport={"width": 1440, "height": 1300}, color_scheme="dark" if dark else "light"
            )
            # what a person has clicked once: the theme, and MLflow's assistant closed
            context.add_init_script(
                f"localStorage.setItem('_mlflow_dark_mode_toggle_enabled', '{str(dark).lower()}');"
                "localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true');"
            )
            started = Browser(context, [], [])
            lock = threading.Lock()

            def decide(route: Route) -> None:
                address = route.request.url
                with lock:
                    started.requested.append(address)
                if address.startswith(("http://127.0.0.1:", "data:", "blob:")):
                    route.continue_()
                else:
                    started.blocked.append(address)
                    route.abort()

            context.route("**/*", decide)
            return started

        yield start
        browser.close()
