"""The whole report of a study as files: a page, pictures, tables and figures for an experiment tracker."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotune.files import beside, write_text
from autotune.outcome import TrialRecord
from autotune.report.curves import epochs_chart, memory_chart
from autotune.report.figures import Chart, Refused
from autotune.report.front import Point, points_from
from autotune.report.front_figure import front_chart
from autotune.report.lettering import clean
from autotune.report.page import Row, figure, figure_page, heading, page, paragraph, section, table
from autotune.report.parameters import importance_chart, importances, parallel_chart
from autotune.report.parts import parts_chart
from autotune.report.picture import write_png
from autotune.report.predicted import predicted_chart
from autotune.report.progress import hypervolume_chart
from autotune.report.scene import Scene
from autotune.report.select import Selection
from autotune.report.summary import findings, trial_table
from autotune.report.svg import svg_file
from autotune.report.tables import csv_text, front_summary, trial_rows

FIGURES = "figures"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure as files: a picture, and a page of its own in which marks tell their names."""

    name: str
    title: str
    caption: str
    png: Path
    html: Path


@dataclass(frozen=True, kw_only=True)
class ReportPaths:
    """Where the files of a report lie. ``report_html`` is the page with everything in it; ``figures`` begins with the
    front, whose files are ``front_png`` and ``front_html``, and always holds the same names in the same order."""

    report_html: Path
    front_png: Path
    front_svg: Path
    front_html: Path
    front_csv: Path
    trials_csv: Path
    front_json: Path
    figures: tuple[Figure, ...]

    def all(self) -> tuple[Path, ...]:
        """Every file once: the page, the front's, the tables, then the figures in their order."""
        first = (
            self.report_html, self.front_png, self.front_svg, self.front_html, self.front_csv, self.trials_csv, self.front_json,
        )  # fmt: skip
        return (*first, *(path for one in self.figures[1:] for path in (one.png, one.html)))

    def titles(self) -> dict[str, str]:
        """Each figure's title by the name of its files."""
        return {one.png.stem: one.title for one in self.figures}


def charts(
    records: Sequence[TrialRecord],
    points: Sequence[Point],
    settings: Mapping[str, Any],
    *,
    selection: Selection | None = None,
    refusals: Iterable[Refused] = (),
    ended: Mapping[int, float] | None = None,
) -> list[Chart]:
    """Every figure of a study, the front first. See :func:`write_report`."""
    found = importances(records, points)
    return [
        front_chart(points, settings, selection=selection, refused=refusals),
        parts_chart(records, points, settings),
        predicted_chart(records, points, settings),
        hypervolume_chart(points, ended or {}),
        importance_chart(points, found),
        parallel_chart(records, points, found),
        epochs_chart(records, points, settings),
        memory_chart(records, points, settings),
    ]


def write_report(
    directory: Path | str,
    records: Iterable[TrialRecord],
    settings: Mapping[str, Any],
    *,
    selection: Selection | None = None,
    refusals: Iterable[Refused] = (),
    ended: Mapping[int, float] | None = None,
) -> ReportPaths:
    """Write every file of the report, each whole or not at all, over those of an earlier report.

    settings: of the study; read are ``name``, ``model``, ``metric`` (the metric's name) and ``memory_cap`` (bytes), and
    any may be missing. selection: marked in the figures, said in the page and kept in front.json. refusals: what was never
    started. ended: seconds from the study's begin to the end of each trial, by its number, where they are known.

    Raises:
        OSError: the folder cannot be written to.
    """
    directory = Path(directory)
    records, refused = [record for record in records if record.outcome is not None], list(refusals)
    points = points_from(records, metric_name=str(settings.get("metric") or "metric"))
    drawn = charts(records, points, settings, selection=selection, refusals=refused, ended=ended)
    paths = _paths(directory, drawn)
    (directory / FIGURES).mkdir(parents=True, exist_ok=True)
    numbers = {point.number for point in points if point.on_front}
    rows = trial_rows(records, points)
    front_rows = sorted((row for row in rows if row["number"] in numbers), key=lambda row: row["allocated_bytes"])
    summary = json.dumps(front_summary(points, records, settings, selection), indent=2, ensure_ascii=False, default=str)
    _write(paths.front_csv, csv_text(front_rows, like=rows))
    _write(paths.trials_csv, csv_text(rows, like=rows))
    _write(paths.front_json, summary + "\n")
    _write(paths.front_svg, svg_file(drawn[0].scene))
    for chart, one in zip(drawn, paths.figures, strict=True):
        _write(one.html, figure_page(chart))
        write_picture(one.png, chart.scene)
    _write(paths.report_html, _report_page(records, points, settings, selection, refused, drawn))
    return paths


def _paths(directory: Path, drawn: Sequence[Chart]) -> ReportPaths:
    front, *others = drawn
    folder = directory / FIGURES
    png, html = directory / "front.png", directory / "front.html"
    figures = [Figure(name=front.name, title=front.title, caption=front.caption, png=png, html=html)]
    figures += [
        Figure(
            name=c.name, title=c.title, caption=c.caption, png=folder / f"{c.name}.png", html=folder / f"{c.name}.html"
        )
        for c in others
    ]
    return ReportPaths(
        report_html=directory / "report.html",
        front_png=png,
        front_svg=directory / "front.svg",
        front_html=html,
        front_csv=directory / "front.csv",
        trials_csv=directory / "trials.csv",
        front_json=directory / "front.json",
        figures=tuple(figures),
    )


def _write(target: Path, text: str) -> None:
    """Half a sign, as a path that is no UTF-8 has it, becomes a question mark."""
    write_text(target, text.encode("utf-8", "replace").decode("utf-8"))


def write_picture(target: Path, scene: Scene) -> None:
    """Write a PNG whole or not at all."""
    with beside(target) as scratch:
        write_png(scratch, scene)


def _report_page(
    records: Sequence[TrialRecord],
    points: Sequence[Point],
    settings: Mapping[str, Any],
    selection: Selection | None,
    refused: Sequence[Refused],
    drawn: Sequence[Chart],
) -> str:
    name = clean(settings.get("name") or "study")
    about = [
        f"{word} {clean(settings[key])}"
        for key, word in (("model", "Model"), ("metric", "metric"))
        if settings.get(key)
    ]
    picked = (
        f"Selected: {selection.explanation}"
        if selection
        else "Nothing is selected: no member of the front meets the rule, or there is no front."
    )
    headings, rows = trial_table(records, points, selection.point.number if selection else None)
    parts = [heading(name), paragraph(", ".join(about), "note") if about else ""]
    parts.append(paragraph(" ".join(findings(points, settings, refused)), "lead"))
    parts += [paragraph(picked, "picked"), figure(drawn[0])]
    parts += [section(chart.title, figure(chart), unseen=True) for chart in drawn[1:]]
    note = "Press a heading to sort. The same rows with all parameters are in trials.csv, the front's in front.csv and front.json."
    parts.append(section("Trials", paragraph(note, "note"), table(headings, rows)))
    if refused:
        parts.append(_refused_section(refused))
    return page(f"{name}: accuracy-memory front", "\n".join(parts))


def _refused_section(refused: Sequence[Refused]) -> str:
    rows = [
        Row(
            cells=[
                one.candidate.label[:500],
                (one.predicted.allocated, f"{one.predicted.allocated / 1e6:,.1f}") if one.predicted else (None, "–"),
                (one.predicted.device, f"{one.predicted.device / 1e6:,.1f}") if one.predicted else (None, "–"),
                one.reason[:600],
            ]
        )
        for one in refused
    ]
    headings = [
        ("configuration", False),
        ("predicted tensors MB", True),
        ("predicted device MB", True),
        ("reason", False),
    ]
    return section("Refused before their start", table(headings, rows))
