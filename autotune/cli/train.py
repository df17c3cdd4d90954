"""``autotune train``: its arguments."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from autotune.cli.ending import EXIT_INTERRUPTED
from autotune.cli.options import Json, Plugins, Quiet, absolute, load_plugins

TRAIN_HELP = """Train one configuration for longer and on all rows, under the same cap, and write it as an export.

CONFIG is a YAML or JSON file of settings, the folder of an export, or a study's report/front.json; without it the selected
trial of a study is taken. All training rows are learnt from that are neither validation nor test; these two stay the study's.

Killed at any moment, the same command goes on behind the last whole epoch.

Examples:

  autotune train --out model --epochs 10

  autotune train --from-study studies/reviews --trial 4 --out model --epochs 10

  autotune train exported --out model --train reviews.csv --text review --label stars --memory-cap 8GB

  autotune train configuration.yaml --out model
"""


def train(
    out: Annotated[Path, typer.Option("--out", help="The folder to write: new, or empty.")],
    configuration: Annotated[
        Path | None,
        typer.Argument(metavar="[CONFIG]", help="Settings, an export, or a front.json; default: a study's."),
    ] = None,
    from_study: Annotated[
        Path | None, typer.Option("--from-study", help="A study's folder; default: the newest one under ./studies.")
    ] = None,
    trial: Annotated[
        int | None, typer.Option("--trial", help="A trial of the study; default: the selected one.")
    ] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", help="How long; default: as in the configuration.")] = None,
    memory_cap: Annotated[
        str | None, typer.Option("--memory-cap", help="What it may hold of the device; default: the study's cap.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Another seed; default: the trial's.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="The backbone, where it lies elsewhere now.")] = None,
    train_rows: Annotated[str | None, typer.Option("--train", help="Other training rows: a file or a hub id.")] = None,
    valid: Annotated[str | None, typer.Option("--valid", help="Other validation rows.")] = None,
    test: Annotated[str | None, typer.Option("--test", help="Other test rows.")] = None,
    text: Annotated[str | None, typer.Option("--text", help="Column of the text.")] = None,
    pair: Annotated[str | None, typer.Option("--pair", help="Column of the second text of a pair.")] = None,
    label: Annotated[str | None, typer.Option("--label", help="Column of what is to be predicted.")] = None,
    task: Annotated[str | None, typer.Option("--task", help="As of `autotune run`, like the next six.")] = None,
    template: Annotated[str | None, typer.Option("--template", help="Text-to-text: the input.")] = None,
    target_length: Annotated[
        int | None, typer.Option("--target-length", help="Text-to-text: tokens that no target may exceed.")
    ] = None,
    unit: Annotated[str | None, typer.Option("--unit", help="Language modelling: row or stream.")] = None,
    image: Annotated[str | None, typer.Option("--image", help="Column of image paths.")] = None,
    image_size: Annotated[int | None, typer.Option("--image-size", help="Pixels of each side of images.")] = None,
    metric: Annotated[
        str | None, typer.Option("--metric", help="What to maximise; default: what the configuration was chosen by.")
    ] = None,
    study_rows: Annotated[
        bool, typer.Option("--study-rows", help="Learn from the study's training rows alone, not from all.")
    ] = False,
    threads: Annotated[int | None, typer.Option("--threads", help="CPU threads; default: all cores.")] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Throw away what was begun for this --out.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export in --out.")] = False,
    plugin: Plugins = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """See :data:`TRAIN_HELP`."""
    from autotune.cli.console import console
    from autotune.cli.display import Display
    from autotune.errors import ConfigError
    from autotune.study.train import train_configuration
    from autotune.study.train_folder import work_folder
    from autotune.study.train_settings import Changes
    from autotune.study.train_sources import settings_from_file, settings_from_study

    if configuration is not None and from_study is not None:
        raise ConfigError("CONFIG and --from-study were both given: give one of them.")
    load_plugins(plugin)
    given = {
        "train": absolute(train_rows), "valid": absolute(valid), "test": absolute(test), "text": text, "pair": pair,
        "label": label, "task": task, "template": template, "target_length": target_length, "unit": unit, "image": image,
        "image_size": image_size, "metric": metric,
    }  # fmt: skip
    changes = Changes(
        memory_cap=memory_cap,
        epochs=epochs,
        seed=seed,
        model=absolute(model),
        data={key: value for key, value in given.items() if value is not None},
        whole=not study_rows,
        threads=threads,
    )
    display = Display(quiet=quiet)
    display.console = console(stderr=True)  # standard output is for the result
    try:
        if configuration is not None:
            settings = settings_from_file(configuration, trial, changes)
        else:
            settings = settings_from_study(from_study, trial, changes)
        result = train_configuration(settings, out, display, restart=restart, overwrite=overwrite)
    except KeyboardInterrupt:
        interrupted = True
    else:
        interrupted = result.interrupted
    if interrupted:
        words = [word for word in sys.argv[1:] if word not in ("--restart", "--overwrite")]
        kept = work_folder(out.expanduser().absolute()).exists()
        typer.echo(
            "autotune: interrupted. What was learnt up to the last whole epoch is kept; the same command goes on:\n"
            f"  autotune {shlex.join(words)}"
            if kept
            else "autotune: interrupted before the training began: nothing is kept of it.",
            err=True,
        )
        raise typer.Exit(EXIT_INTERRUPTED)
    typer.echo(json.dumps(result.to_dict(), indent=2, ensure_ascii=False) if as_json else result.explanation)
