"""``autotune confirm``: the front of a study that has run, trained again on other seeds."""

from __future__ import annotations

from typing import Annotated

import typer

from autotune.cli.ending import drive
from autotune.cli.options import Json, Plugins, Quiet, StudyDir, load_plugins

CONFIRM_HELP = """Train each member of a study's front on other seeds.

The last phase of `autotune run`, for a study that left it out (--confirm 0), that ended before it, or that is to have more
seeds. `autotune select` then ranks by the mean over the other seeds. What answering takes (memory, latency) is measured, and the
test part scored, for members that lack it. What is confirmed already is not trained again; Ctrl-C loses nothing.

Examples:

  autotune confirm

  autotune confirm --study-dir studies/mine --seeds 5 --time-budget 1h

  autotune confirm --quiet --json
"""


def confirm(
    study_dir: StudyDir = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            "--seeds",
            min=1,
            help="Other seeds in all for each member; default: what `run --confirm` asked for, else 3.",
        ),
    ] = None,
    time_budget: Annotated[
        str | None,
        typer.Option("--time-budget", help="End training after this long: 20m, 2h; default: when it is done."),
    ] = None,
    plugin: Plugins = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """See :data:`CONFIRM_HELP`."""
    from autotune.study import confirm_study

    load_plugins(plugin)
    drive(
        lambda display: confirm_study(study_dir, display, seeds=seeds, time_budget=time_budget),
        quiet=quiet,
        as_json=as_json,
    )
