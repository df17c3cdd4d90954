"""Commands that read a finished or running study: report, select, export, predict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from autotune.cli.run import Plugins, StudyDir, load_plugins

Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]


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


def export(
    directory: Annotated[Path, typer.Argument(help="The folder to write; new, empty or an earlier export.")],
    study_dir: StudyDir = None,
    trial: Annotated[
        int | None, typer.Option("--trial", help="This trial; default: the selected one (see `autotune select`).")
    ] = None,
) -> None:
    """Write a trained configuration as a folder that `sherl.load` reads.

    Example: autotune export model
    """
    from autotune.study import export_from_study

    exported = export_from_study(study_dir, directory, trial=trial)
    typer.echo(exported.explanation)


def _answer(answer: dict[str, Any]) -> str:
    """What was predicted, on one line."""
    if "scores" in answer:
        return f"{answer['label']}\t{answer['scores'][answer['label']]:.4f}"
    if "tags" in answer:
        return " ".join(f"{word}/{tag or '-'}" for word, tag in zip(answer["words"], answer["tags"], strict=True))
    if "text" in answer:
        written = " ".join(str(answer["text"]).split())  # one line
        return f"{written} (none of the classes)" if "label" in answer and answer["label"] is None else written
    if "perplexity" in answer:
        return "no token to predict" if answer["perplexity"] is None else f"perplexity {answer['perplexity']:.4f}"
    return f"{answer['value']:.4f}"


def predict(
    directory: Annotated[Path, typer.Argument(help="A folder that `autotune export` wrote.")],
    texts: Annotated[
        list[str],
        typer.Argument(
            help="Texts; for a task on pairs, first and second text in turn; for tags sentences, words apart by blanks; for "
            "images their paths."
        ),
    ],
    model: Annotated[str | None, typer.Option("--model", help="The backbone, where it lies elsewhere now.")] = None,
    as_json: Json = False,
    plugin: Plugins = None,
) -> None:
    """Predict on raw texts or images with an exported model.

    Examples:

      autotune predict model "a warm, funny, engaging film"

      autotune predict model photo.jpg another.png --json
    """
    import sherl
    from autotune.errors import ConfigError

    load_plugins(plugin)
    predictor = sherl.load(directory, backbone=model)
    inputs: list[str] | list[tuple[str, str]] = texts
    if predictor.model.task.pair:
        if len(texts) % 2:
            raise ConfigError(
                f"This model predicts on pairs of texts; an odd number of texts ({len(texts)}) was given. Give an even number."
            )
        inputs = list(zip(texts[::2], texts[1::2], strict=True))
    answers = predictor.predict(inputs)
    if as_json:
        typer.echo(json.dumps(answers, indent=2, ensure_ascii=False))
        return
    for given, answer in zip(inputs, answers, strict=True):
        shown = given if isinstance(given, str) else " | ".join(given)
        typer.echo(f"{_answer(answer)}\t{shown}")
