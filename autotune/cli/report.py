"""``autotune report``: the front and the figures of a study that runs or has run."""

from __future__ import annotations

import json

import typer
from rich.console import Console

from autotune.cli.options import Json, StudyDir


def report(study_dir: StudyDir = None, as_json: Json = False) -> None:
    """Write the front's figures and tables anew and print the front.

    Example: autotune report --study-dir studies/mine --json
    """
    from autotune.cli.display import front_table
    from autotune.study import report_study

    result = report_study(study_dir)
    if as_json:
        typer.echo(json.dumps(result.to_dict(), indent=2))
        return
    console = Console(highlight=False, soft_wrap=True)
    if result.front:
        console.print(front_table(result.front, result.metric_name, result.selected))
    console.print(result.closing, markup=False)
