"""``autotune resume``: going on with a study."""

from __future__ import annotations

from typing import Annotated

import typer

from autotune.cli.ending import drive
from autotune.cli.options import Json, Plugins, Quiet, StudyDir, load_plugins

RESUME_HELP = """Go on with a study after Ctrl-C, a crash or a reboot.

What is finished stays; what was running is trained again; the total number of trials is what was asked for. Then the front is
confirmed on other seeds as far as it is not.

Examples:

  autotune resume

  autotune resume --study-dir studies/mine --trials 32 --time-budget 1h
"""


def resume(
    study_dir: StudyDir = None,
    trials: Annotated[
        int | None, typer.Option("--trials", help="A new total of trials; default: what was asked for.")
    ] = None,
    time_budget: Annotated[
        str | None, typer.Option("--time-budget", help="A new time budget; it, or the earlier one, counts from now.")
    ] = None,
    confirm: Annotated[
        int | None,
        typer.Option(
            "--confirm",
            min=0,
            help="A new number of other seeds for each member of the front; default: what was asked for.",
        ),
    ] = None,
    plugin: Plugins = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """See :data:`RESUME_HELP`."""
    from autotune.study import resume_study

    load_plugins(plugin)
    drive(
        lambda display: resume_study(study_dir, display, trials=trials, time_budget=time_budget, confirm=confirm),
        quiet=quiet,
        as_json=as_json,
    )
