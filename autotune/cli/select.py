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
    inference_memory_cap: Annotated[
        str | None,
        typer.Option(
            "--inference-memory-cap", help="Only models that hold no more of the device while they answer: 2GB."
        ),
    ] = None,
    min_metric: Annotated[
        float | None,
        typer.Option(
            "--min-metric",
            help="Only models that reach this on validation, by the mean over other seeds where they were trained on some; "
            "below 0 for neg_perplexity and the like: -20.",
        ),
    ] = None,
    max_latency: Annotated[
        str | None, typer.Option("--max-latency", help="Only models that answer one row in this time: 20ms, 0.5s.")
    ] = None,
    prefer: Annotated[
        Literal["metric", "memory", "latency", "knee"],
        typer.Option(
            "--prefer",
            help="What to take among those that qualify: the highest metric, the least tensor bytes, the soonest answer, or "
            "the knee, beyond which more memory buys less metric.",
        ),
    ] = "metric",
    as_json: Json = False,
) -> None:
    """Pick one configuration of the front; it is what `autotune export` then writes.

    The rule is kept: where trials or confirmations that came later change what it picks, export writes that.

    Members that were confirmed on other seeds come first, ranked by their mean. Says what comes next, and what 1 GB of device
    memory more or less would bring. Reads the study, never a test score.

    Examples:

      autotune select --memory-cap 6GB --min-metric 0.8

      autotune select --max-latency 20ms --inference-memory-cap 2GB

      autotune select --prefer memory --min-metric 0.75 --json
    """
    from autotune.study import select_from_study
    from autotune.units import parse_bytes, parse_latency

    selection = select_from_study(
        study_dir,
        memory_cap=None if memory_cap is None else parse_bytes(memory_cap),
        inference_memory_cap=None if inference_memory_cap is None else parse_bytes(inference_memory_cap),
        min_metric=min_metric,
        max_latency=None if max_latency is None else parse_latency(max_latency),
        prefer=prefer,
        warn=lambda why: typer.echo(f"autotune: {why}", err=True),
    )
    typer.echo(json.dumps(selection.to_dict(), indent=2) if as_json else selection.text)
