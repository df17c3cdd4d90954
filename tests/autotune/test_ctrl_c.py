"""Ctrl-C at a moment when the interpreter drops what is raised still ends a command."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from autotune.cli.ctrl_c import note_interrupts, raise_if_lost
from autotune.cli.display import Display
from autotune.cli.live_display import LiveDisplay
from tests.autotune.small_study import autotune, make_inputs

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


class Ends:
    """Its end is where the interpreter drops what is raised."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


@pytest.fixture
def noted() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    note_interrupts()
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("noted")
@pytest.mark.parametrize("kind", [Display, LiveDisplay])
def test_what_was_dropped_is_raised_at_the_next_step_and_once(kind: type[Display]) -> None:
    display = kind()
    display.console = Console(file=StringIO())
    steps = (
        lambda: display.phase("plan", ""),
        lambda: display.progress("rows", 1, 2),
        lambda: display.search_begins(done=0, total=1, metric_name="accuracy", cap=1, deadline=None),
        lambda: display.confirmation_begins(done=0, total=1, metric_name="accuracy", deadline=None),
    )
    for step in steps:
        Ends()  # goes at once
        with pytest.raises(KeyboardInterrupt):
            step()
        step()


@pytest.mark.usefixtures("noted")
def test_a_study_that_was_ended_in_order_is_reported() -> None:
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    Display(quiet=True).phase("report", "")
    with pytest.raises(KeyboardInterrupt):
        raise_if_lost()
    raise_if_lost()


def test_who_ignores_ctrl_c_goes_on_to() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        note_interrupts()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.slow
def test_a_study_ends_though_it_was_dropped(tmp_path: Path) -> None:
    options = {**make_inputs(tmp_path), "--memory-cap": "2GB", "--study-dir": str(tmp_path / "study")}
    said = autotune("run", options={**options, "--plugin": "tests.autotune.loses_ctrl_c"}, code=130).stderr
    assert "interrupted before the first trial began: nothing is kept of it" in said
    assert not (tmp_path / "study").exists()
