"""Fork servers that are forked from another one: there at once, and nobody's but their own parent's."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from autotune.errors import DeviceError
from autotune.outcome import Status
from autotune.trial.ancestry import Ancestor
from autotune.trial.fork_server import ForkServer, Lender
from autotune.trial.process import TrialProcess
from autotune.trial.request import Epoch

from .stub_trials import outcome_of, start_stub
from .test_trial_process import gone

Start = Callable[..., TrialProcess]
COUNTED = "counts_imports"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """With a module on it that says how often it is imported."""
    folder = tmp_path_factory.mktemp("modules")
    (folder / f"{COUNTED}.py").write_text(f"print('once', file=open({str(folder / 'imports')!r}, 'a'))\n")
    return (str(folder), *sys.path)


@pytest.fixture(scope="module")
def lends(path: tuple[str, ...]) -> Iterator[ForkServer]:
    with ForkServer(preload=(COUNTED,), path=path, lends=True) as running:
        running.wait_ready()
        yield running


@pytest.fixture
def start(tmp_path: Path) -> Start:
    def begin(on: ForkServer, number: int = 0, **settings: object) -> TrialProcess:
        return start_stub(on, tmp_path / str(number), number, **settings)

    return begin


def own_children() -> set[int]:
    return {child.pid for child in psutil.Process().children()}


def borrowed(lends: ForkServer, path: tuple[str, ...], **changes: object) -> ForkServer:
    return ForkServer(**{"preload": (COUNTED,), "path": path, "lender": lends.lender, **changes})  # type: ignore[arg-type]


def test_a_borrowed_server_has_its_imports_done(lends: ForkServer, path: tuple[str, ...], start: Start) -> None:
    with borrowed(lends, path) as server:
        server.wait_ready()
        assert Path(path[0], "imports").read_text() == "once\n"
        assert server.pid != lends.pid
        assert server.pid not in own_children()
        outcome = outcome_of(start(server, do=""))
        assert outcome.status is Status.COMPLETE
        assert outcome.details["notes"] == [0], "a fresh process"
        assert outcome_of(start(server, 1, do="raise")).status is Status.FAILED
    assert gone(server.pid)
    assert lends.is_alive()
    assert outcome_of(start(lends, 2)).status is Status.COMPLETE


def test_other_wishes_are_met_by_a_server_of_ones_own(lends: ForkServer, path: tuple[str, ...], start: Start) -> None:
    with borrowed(lends, path, preload=()) as server:
        assert server.pid in own_children()
        assert outcome_of(start(server)).status is Status.COMPLETE
    with borrowed(lends, path, preload=(), lender=Lender("/nowhere/at/all", path)) as server:
        assert server.pid in own_children()
        assert outcome_of(start(server)).status is Status.COMPLETE


def test_a_server_of_other_allocator_settings_is_not_borrowed(
    lends: ForkServer, path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    with borrowed(lends, path) as server:
        assert server.pid in own_children()


def test_a_borrowed_server_outlives_the_one_it_was_forked_from(path: tuple[str, ...], start: Start) -> None:
    with ForkServer(preload=(), path=path, lends=True) as lends:
        lends.wait_ready()
        server = borrowed(lends, path, preload=())
        os.kill(lends.pid, signal.SIGKILL)
        assert gone(lends.pid)
    with server:
        assert outcome_of(start(server)).status is Status.COMPLETE
    assert gone(server.pid)


def test_a_killed_borrowed_server_costs_its_trial_and_no_more(
    lends: ForkServer, path: tuple[str, ...], start: Start
) -> None:
    with borrowed(lends, path) as server:
        process = start(server, do="hang")
        while not isinstance(process.poll(), Epoch):
            pass
        os.kill(server.pid, signal.SIGKILL)
        assert outcome_of(process).status is Status.INTERRUPTED
        assert gone(process.pid)
        assert not server.is_alive()
        with pytest.raises(DeviceError, match="has died"):
            start(server, 1)
    assert lends.is_alive()


def test_it_ends_with_the_driver(lends: ForkServer, path: tuple[str, ...], start: Start) -> None:
    with (
        subprocess.Popen(["sleep", "600"]) as driver,
        borrowed(lends, path, driver=Ancestor.of(driver.pid)) as server,
    ):
        process = start(server, do="hang")
        while not isinstance(process.poll(), Epoch):
            pass
        driver.kill()
        driver.wait()
        assert gone(server.pid)
        assert gone(process.pid)


def test_visitors_that_say_nothing_or_nonsense_stop_nobody(
    lends: ForkServer, path: tuple[str, ...], start: Start
) -> None:
    assert lends.lender is not None
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as silent:
        silent.connect(lends.lender.address)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as rude:
            rude.connect(lends.lender.address)
            rude.send(b"\xff no JSON")
            with borrowed(lends, path) as server:
                assert server.pid not in own_children()
                assert outcome_of(start(server)).status is Status.COMPLETE
    assert lends.is_alive()


def test_the_address_goes_with_the_server(path: tuple[str, ...]) -> None:
    with ForkServer(preload=(), path=path, lends=True) as lends:
        lends.wait_ready()
        assert lends.lender is not None
        assert Path(lends.lender.address).is_socket()
        assert Path(lends.lender.address).parent.stat().st_mode & 0o777 == 0o700
    assert not Path(lends.lender.address).parent.exists()
