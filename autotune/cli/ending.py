"""How a command that trains ends: what it prints last, and its exit code."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from autotune.cli.display import Display
    from autotune.study import StudyResult

EXIT_INTERRUPTED = 130


def conclude(display: Display, result: StudyResult, *, as_json: bool) -> None:
    """Print the result, as JSON alone where that was asked for; raise typer's exit where the study was interrupted."""
    if as_json:
        typer.echo(json.dumps(result.to_dict(), indent=2))
    else:
        display.result(result)
    exit_if(result.interrupted)


def exit_if(interrupted: bool) -> None:
    """A study that Ctrl-C or SIGTERM ended has its own exit code, also when all was put in order."""
    if interrupted:
        raise typer.Exit(EXIT_INTERRUPTED)
