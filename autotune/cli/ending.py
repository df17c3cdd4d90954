"""How a command that drives a study is shown and ends: its display, what it prints last, its exit code."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from autotune.cli.display import Display
    from autotune.study import StudyResult

EXIT_INTERRUPTED = 130


def drive(work: Callable[[Display], StudyResult], *, quiet: bool, as_json: bool) -> None:
    """Do the work under a display and print its result, as JSON alone where that was asked for.

    Raises:
        typer.Exit: the study was interrupted.
    """
    from autotune.cli.display import display_for

    with display_for(quiet=quiet or as_json) as display:
        result = work(display)
    if as_json:
        typer.echo(json.dumps(result.to_dict(), indent=2))
    else:
        display.result(result)
    if result.interrupted:
        raise typer.Exit(EXIT_INTERRUPTED)
