"""``autotune select``: one configuration of the front."""

from __future__ import annotations

import json
from typing import Annotated, Literal

import typer

from autotune.cli.options import Json, StudyDir


def select(
    study_dir: StudyDir = None,
    memory_cap: Annotated[
        str | None, typer.Option("--memory-cap", help="Only models whose training held no more of the device: 6GB.")
    ] = None,
    min_metric: Annotated[
        float | None,
        typer.Option(
            "--min-metric",
            help="Only models that reach this on validation; below 0 for neg_perplexity and the like: -20.",
        ),
    ] = None,
    prefer: Annotated[
        Literal["metric", "memory", "knee"], typer.Option("--prefer", help="What to take among those that qualify.")
    ] = "metric",
    as_json: Json = False,
) -> None:
    """Pick one configuration of the front; it is what `autotune export` then writes.

    Examples:

      autotune select --memory-cap 6GB --min-metric 0.8

      autotune select --prefer memory --min-metric 0.75 --json
    """
    from autotune.study import select_from_study
    from autotune.units import parse_bytes

    selection = select_from_study(
        study_dir,
        memory_cap=None if memory_cap is None else parse_bytes(memory_cap),
        min_metric=min_metric,
        prefer=prefer,
    )
    typer.echo(json.dumps(selection.to_dict(), indent=2) if as_json else selection.explanation)
