"""How a command that drives a study is shown and ends: its display, what it prints last, its exit code."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

import typer

if TYPE_CHECKING:
    from autotune.cli.display import Display
    from autotune.study import StudyResult

EXIT_FAILED = 1
EXIT_NOTHING_FITS = 4
EXIT_INTERRUPTED = 130


def drive(work: Callable[[Display], StudyResult], *, quiet: bool, as_json: bool) -> None:
    """Do the work under a display and print its result, as JSON alone where that was asked for.

    Raises:
        typer.Exit: the study was interrupted, or has no trial that completed.
    """
    with _display(quiet=quiet or as_json) as display:
        result = work(display)
    if as_json:
        typer.echo(json.dumps(result.to_dict(), indent=2))
    else:
        display.result(result)
    if result.interrupted:
        raise typer.Exit(EXIT_INTERRUPTED)
    if not result.front:
        _without_front(result)


def _display(*, quiet: bool) -> Display:
    """The live display in a terminal, plain lines elsewhere or when all is to be quiet."""
    from autotune.cli.display import Display
    from autotune.cli.live_display import LiveDisplay

    return LiveDisplay() if sys.stdout.isatty() and not quiet else Display(quiet=quiet)


def _without_front(result: StudyResult) -> NoReturn:
    """A script must not go on as if there were a model."""
    from autotune.outcome import Status

    ends = {record.outcome.status for record in result.records if record.outcome is not None}
    held = bool(ends) and ends <= {Status.OVER_CAP, Status.OUT_OF_MEMORY}
    advice = "`autotune resume --trials N` tries further ones"
    if held:
        why = "every one of them went over the cap"
    elif ends and Status.INTERRUPTED not in ends:
        why = "there is nothing to select"
    else:  # not by Ctrl-C, which has its own end: time was short
        why = "what was begun was interrupted" if ends else "none was begun"
        advice = "`autotune resume` goes on, with `--time-budget 1h` for an hour"
    typer.echo(f"autotune: no trial has completed: {why}. {advice}.", err=True)
    raise typer.Exit(EXIT_NOTHING_FITS if held else EXIT_FAILED)
