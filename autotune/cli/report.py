"""``autotune report``: the front and the figures of a study that runs or has run, or those of several over one another."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from autotune.cli.console import console
from autotune.cli.options import Json, StudyDir

if TYPE_CHECKING:
    from rich.console import Console

    from autotune.report import Comparison, Point

REPORT_HELP = """Write the report of a study anew (report.html, front.png and .svg, tables) and print the front with a small plot.

With --compare, lay the fronts of two or more studies of the same metric and data over one another.

Examples:

autotune report --study-dir studies/mine --json

autotune report --compare studies/minilm studies/mpnet --out minilm-mpnet
"""


def report(
    studies: Annotated[
        list[Path] | None,
        typer.Argument(metavar="STUDY", help="Folders of studies; more than one with --compare."),
    ] = None,
    study_dir: StudyDir = None,
    compared: Annotated[
        bool, typer.Option("--compare", help="Lay the fronts of these studies over one another.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="With --compare: the folder for compare.html, .png, .svg, .csv and .json. [default: comparison]",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """See :data:`REPORT_HELP`."""
    from autotune.errors import ConfigError

    folders = [*(studies or []), *([study_dir] if study_dir else [])]
    if compared:
        _compare(folders, out or Path("comparison"), as_json=as_json)
        return
    if len(folders) > 1:
        named = " ".join(map(str, folders))
        raise ConfigError(
            f"{len(folders)} studies were given ({named}), a report is of one. To lay them over one another: autotune report --compare {named}"
        )
    if out is not None:
        raise ConfigError(f"--out {out} goes with --compare: a report of one study lies in its folder, under report/.")
    _report(folders[0] if folders else None, as_json=as_json)


def _report(study_dir: Path | None, *, as_json: bool) -> None:
    from autotune.cli.front_table import front_table
    from autotune.study import report_study

    result = report_study(study_dir, on_note=_warn)
    if as_json:
        typer.echo(json.dumps(result.to_dict(), indent=2))
        return
    shown = console()
    if result.front:
        shown.print(front_table(result.front, result.metric_name, result.selected))
        _plot(shown, [result.points])
    shown.print(result.closing, markup=False)


def _compare(folders: Sequence[Path], out: Path, *, as_json: bool) -> None:
    from autotune.study import compare_studies

    comparison, paths = compare_studies(folders, out)
    if as_json:
        typer.echo(json.dumps(comparison.to_dict() | {"files": [str(path) for path in paths.all()]}, indent=2))
        return
    shown = console()
    for warning in comparison.warnings:
        _warn(warning)
    shown.print(_table(comparison))
    _plot(shown, [study.points for study in comparison.studies])
    shown.print("\n".join([*comparison.sentences, f"Comparison: {paths.html}"]), markup=False)


def _warn(text: str) -> None:
    console(stderr=True).print(f"warning: {text}", markup=False)


def _plot(shown: Console, fronts: Sequence[Sequence[Point]]) -> None:
    from autotune.report import can_encode, plot_front

    lines = plot_front(fronts, columns=shown.width, fine=can_encode(sys.stdout.encoding))
    if lines:
        shown.print("\n".join(["", *lines, ""]), markup=False)


def _table(comparison: Comparison) -> Table:
    table = Table(title=f"Fronts compared ({comparison.metric_name} on validation)", title_justify="left")
    for column in ("", "study", "model"):
        table.add_column(column, overflow="fold")
    for column in ("trials", "on the front", "best", "least tensors MB", "hyper-\nvolume"):
        table.add_column(column, justify="right")
    largest = max(comparison.hypervolumes.values(), default=0.0)
    for index, study in enumerate(comparison.studies):
        front, area = study.front, comparison.hypervolumes[study.name]
        table.add_row(
            chr(ord("a") + index % 26),
            Text(study.name),
            Text(study.model),
            str(len(study.points)),
            str(len(front)),
            f"{front[-1].ranked_metric:.4f}" if front else "–",
            f"{front[0].ranked_memory / 1e6:,.1f}" if front else "–",
            f"{area / largest:.1%}" if largest else "–",
        )
    return table
