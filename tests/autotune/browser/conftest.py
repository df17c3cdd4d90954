"""A headless Chromium, and a study of a few trials in a real ``mlflow server``."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.autotune.mlflow_server import MlflowServer
from tests.autotune.shown_study import write_study

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

        def start(*, dark: bool = False, fresh: bool = False) -> Browser:
            context = browser.new_context(
                viewport={"width": 1440, "height": 1300}, color_scheme="dark" if dark else "light"
            )
            if not fresh:  # what a person has clicked once: the theme, and MLflow's assistant closed
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
