"""``autotune plan``: what fits a memory cap, before there are weights, data or a GPU."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from autotune.cli.options import Json, Plugins, load_plugins

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rich.console import Console

    from autotune.study.planning import Plan
    from autotune.study.pricing import Price

PLAN_HELP = """Say what fits a memory cap: methods and their settings, what each takes, and the largest batch.

Nothing is trained and nothing is downloaded but the model's configuration; neither weights nor a GPU are needed.

Examples:

  autotune plan --memory-cap 8GB

  autotune plan --model google-t5/t5-base --batch-size 100 --max-length 128 --memory-cap 8GB --device "RTX 4070"

  autotune plan --model facebook/dinov2-small --image-size 224 --memory-cap 2GB --device cpu

  autotune plan --model path/to/config.json --method sherl --method lora --device 12GB --json
"""


MOST = 2**31 - 1
"""Rows, tokens or pixels a side that are priced, if only to say how little they fit."""
MOST_CLASSES = 10**6
"""Each has a name, which is held in memory."""
_QUICKLY_PRICED = 20
"""Configurations that are priced within a minute or so."""


def plan(
    model: Annotated[
        str, typer.Option("--model", help="A folder, a config.json or a hub id; only the configuration is read.")
    ] = "all-minilm-l6-v2",
    memory_cap: Annotated[
        str | None,
        typer.Option("--memory-cap", help="What a trial may hold of the device: 8GB, 7.5GiB; default: all it has."),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            "--device",
            help="A GPU by name (RTX 4070, A100 80GB, ...), by its size (12GB), or cpu; default: this machine's.",
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, max=MOST, help="Rows of an optimizer step.")] = 32,
    max_length: Annotated[
        int | None,
        typer.Option(
            "--max-length", min=1, max=MOST, help="Tokens of every row; default: 128, or fewer where it takes fewer."
        ),
    ] = None,
    target_length: Annotated[
        int | None,
        typer.Option(
            "--target-length", min=1, max=MOST, help="Tokens of every target, for a model that writes text; default: 8."
        ),
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option("--image-size", min=1, max=MOST, help="Pixels a side of images; default: the model's own."),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            "--task",
            help="classification, regression, text-to-text, language-modelling, token-classification or image-classification; default: "
            "text-to-text for a model that writes text, else classification.",
        ),
    ] = None,
    classes: Annotated[
        int | None, typer.Option("--classes", min=2, max=MOST_CLASSES, help="Classes of the task; default: 2.")
    ] = None,
    method: Annotated[
        list[str] | None, typer.Option("--method", help="Only these methods of the space (repeatable).")
    ] = None,
    space: Annotated[
        str, typer.Option("--space", help="A search space: a name in search_spaces/ or a YAML file.")
    ] = "methods",
    precision: Annotated[str | None, typer.Option("--precision", help="fp32 or bf16; default: the space's.")] = None,
    features: Annotated[
        Literal["on", "off"],
        typer.Option(
            "--features",
            help="on: what trials take that read hidden states of frozen layers from a store, as in a study that stores them; "
            "off: what they take that compute all themselves.",
        ),
    ] = "off",
    largest_batch: Annotated[
        bool, typer.Option("--largest-batch/--no-largest-batch", help="Look for the largest batch that fits.")
    ] = True,
    everything: Annotated[bool, typer.Option("--all", help="Show also what does not fit.")] = False,
    plugin: Plugins = None,
    as_json: Json = False,
) -> None:
    from autotune.cli.console import console
    from autotune.study.planning import plan_for

    load_plugins(plugin)
    made = plan_for(
        model,
        memory_cap=memory_cap,
        device=device,
        batch_size=batch_size,
        max_length=max_length,
        target_length=target_length,
        classes=classes,
        image_size=image_size,
        task=task,
        methods=method,
        space=space,
        precision=precision,
        stored=features == "on",
        plugins=plugin or (),
    )
    errors = console(stderr=True, soft_wrap=False)
    for note in made.notes:
        errors.print(f"note: {note}", markup=False, soft_wrap=True)
    prices = list(_watched(made.prices(largest_batch=largest_batch), made, errors))
    if as_json:
        typer.echo(json.dumps(made.to_dict(prices), indent=2))
        return
    _print(made, prices, everything=everything, shown=console(width=_width()))


def _width() -> int | None:
    """A file or a pipe has no width that a table would have to keep to."""
    return None if sys.stdout.isatty() else 200


def _watched(prices: Iterable[Price], made: Plan, errors: Any) -> Iterator[Price]:
    from rich.progress import track

    told = f"pricing {len(made.candidates)} configurations"
    if not errors.is_terminal:  # no bar can be shown there, and many take minutes
        if len(made.candidates) > _QUICKLY_PRICED:
            errors.print(f"note: {told}; --method prices fewer", markup=False, soft_wrap=True)
        yield from prices
        return
    yield from track(prices, told, len(made.candidates), console=errors, transient=True)


def _print(made: Plan, prices: list[Price], *, everything: bool, shown: Console) -> None:
    from rich.table import Table

    from autotune.units import format_bytes

    fitting = [price for price in prices if price.fits(made.cap)]
    rows = sorted(prices if everything else fitting, key=lambda price: price.figures.device if price.figures else 2**63)
    shown.print(made.headline, markup=False)
    if rows:
        table = Table(title=None)
        for column, justify in (
            ("configuration", "left"),
            ("allocated", "right"),
            ("reserved", "right"),
            ("device", "right"),
            ("most of it", "left"),
            ("largest batch", "right"),
        ):
            table.add_column(column, justify=justify)  # type: ignore[arg-type]  # one of rich's words
        for price in rows:
            table.add_row(*_row(price, made.cap))
        shown.print(table)
        if made.job.stored:
            reading = sum(price.reads for price in rows)
            others = "; the others compute everything themselves" if reading < len(rows) else ""
            shown.print(f"{reading} of the {len(rows)} shown read stored hidden states{others}.", markup=False)
    unfit = [price for price in prices if price.figures and not price.fits(made.cap)]
    impossible = [price for price in prices if price.problem]
    shown.print(
        f"{len(fitting)} of {len(prices)} configurations fit {format_bytes(made.cap)} at batch size {made.batch_size}; "
        f"{len(unfit)} do not"
        + (f", {len(impossible)} cannot be had with this model" if impossible else "")
        + "."
        + (" `--all` shows them too." if (unfit or impossible) and not everything else ""),
        markup=False,
    )
    if not fitting and unfit:
        nearest = min(unfit, key=lambda price: price.figures.device if price.figures else 0)
        assert nearest.figures is not None
        shown.print(
            f"The nearest is {nearest.candidate.label}, which needs {format_bytes(nearest.figures.device)}"
            + (f"; it fits with a batch of {nearest.largest_batch}." if nearest.largest_batch else "."),
            markup=False,
        )
    for problem in sorted({price.problem for price in impossible}):
        shown.print(f"Cannot be had: {problem}", markup=False)


def _row(price: Price, cap: int) -> list[str]:
    if price.figures is None:
        return [price.candidate.label, "-", "-", "-", "cannot be had", "-"]
    part, share = price.dominant
    figures = price.figures
    return [
        price.candidate.label,
        f"{figures.allocated / 1e9:.3f} GB",
        "-" if figures.reserved is None else f"{figures.reserved / 1e9:.3f} GB",
        f"{figures.device / 1e9:.3f} GB" + ("" if price.fits(cap) else " over"),
        f"{part} {100 * share:.0f} %",
        price.largest_words,
    ]
