"""A comparison of studies as a figure and as files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotune.files import beside, write_text
from autotune.report.axes import Panel, label_room, scale, wide_range
from autotune.report.compare import Comparison
from autotune.report.figures import Chart, MemoryUnit, hint, stepped
from autotune.report.labels import Name, put_names
from autotune.report.legend import Entry, draw_legend
from autotune.report.lettering import clean, fit
from autotune.report.metric_axis import MetricAxis
from autotune.report.page import Row, figure, heading, page, paragraph, section, table
from autotune.report.palette import series
from autotune.report.picture import write_png
from autotune.report.reach import far_below, reference_words
from autotune.report.scene import Form, Line, Mark, Scene, Words, glyph
from autotune.report.svg import svg_file
from autotune.report.tables import csv_text

_FORMS: tuple[Form, ...] = ("circle", "square", "diamond", "triangle-down", "triangle-right")


@dataclass(frozen=True, kw_only=True)
class ComparisonPaths:
    """Where the files of a comparison lie."""

    html: Path
    png: Path
    svg: Path
    csv: Path
    json: Path

    def all(self) -> tuple[Path, ...]:
        """Every file, in the order above."""
        return (self.html, self.png, self.svg, self.csv, self.json)


def comparison_chart(comparison: Comparison) -> Chart:
    """The fronts over one another: each study has its colour, its form and its dashes."""
    title = f"Fronts compared: {comparison.metric_name} against memory"
    caption = (
        "Each line is the best metric that an amount of memory buys in one study; a higher line is better. Marks are the members of "
        "the fronts. Memory is the peak of tensor bytes while training."
    )
    fronts = [study.front for study in comparison.studies]
    members = [point for front in fronts for point in front]
    unit = MemoryUnit.of([point.memory for point in members])
    memories = [unit.of_bytes(point.ranked_memory) for point in members if point.memory]
    scene = Scene(1100, 640, title)
    scene.add(Words(x=28, y=36, text=fit(title, 1040, 18, bold=True), size=18, bold=True))
    log = wide_range(memories)
    metrics = _metric_axis(comparison)
    left = max(82.0, 28 + label_room(metrics.scale))
    panel = Panel(x=scale(memories, left, 1070, log=log, room=0.1), y=metrics.scale)
    label = f"peak of tensor bytes while training ({unit.name})" + (", log scale" if log else "")
    panel.frame(scene, x_label=label, y_label=f"validation {comparison.metric_name}", y_ticks=metrics.ticks)
    metrics.draw_floor(scene, panel)
    if not members:
        scene.add(Words(x=576, y=290, text="no study has a front yet", size=13, role="muted", anchor="middle"))
    names, places, lines, entries = [], [], [], []
    for index, (study, front) in enumerate(zip(comparison.studies, fronts, strict=True)):
        role, dash = series(index)[0], ((), (8, 4), (3, 3), (9, 3, 2, 3))[index % 4]
        form = _FORMS[index % len(_FORMS)]
        corners = [(panel.x.at(unit.of_bytes(x)), metrics.at(y)) for x, y in stepped(front, panel.x.high * unit.size)]
        lines.append(corners)
        if corners:
            line = Line(points=tuple(corners), stroke=role, width=2.2, dash=dash)
            scene.add(Mark(shapes=(line,), kind="study", hint=clean(study.name)))
        for point in front:
            x, y = panel.x.at(unit.of_bytes(point.ranked_memory)), metrics.at(point.ranked_metric)
            places.append((x, y))
            said = f"{clean(study.name)}\n{hint(point)}"
            value = unit.of_bytes(point.ranked_memory)
            shapes = (*glyph(form, x, y, 6, role, rim="paper"), *metrics.arrow(x, point.ranked_metric, role))
            scene.add(Mark(shapes=shapes, kind="member", hint=said, x=value, y=point.metric))
            short = f"#{point.number}"
            words = f"{short} {fit(' '.join(point.label.split()[:2]), 130, 11)}"
            names.append(Name(x=x, y=y, text=words, short=short, role=role))
        words = f"{clean(study.name)} ({clean(study.model)})" if study.model else clean(study.name)
        entries.append(Entry(form, role, words, dash, lined=True))
    put_names(scene, panel, names, places, (), lines)
    if any(metrics.below(point.ranked_metric) for point in members):
        entries.append(Entry("arrow-down", "muted", "far below, out of scale"))
    scene.height = draw_legend(scene, entries, left=28, right=1070, y=604) + 24
    return Chart(name="compare", title=title, caption=caption, scene=scene)


def _metric_axis(comparison: Comparison) -> MetricAxis:
    """The axis of the fronts' members."""
    members = [point.ranked_metric for study in comparison.studies for point in study.front]
    able = [p.ranked_metric for study in comparison.studies for p in study.points if p.may_stand_on_front]
    return MetricAxis.of(members, far_below(members, able), bottom=530, top=66, room=0.12)


def write_comparison(directory: Path | str, comparison: Comparison) -> ComparisonPaths:
    """Write the page, the picture as PNG and SVG, the members as CSV and all of it as JSON, each whole or not at all.

    Raises:
        OSError: the folder cannot be written to.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    paths = ComparisonPaths(
        html=directory / "compare.html",
        png=directory / "compare.png",
        svg=directory / "compare.svg",
        csv=directory / "compare.csv",
        json=directory / "compare.json",
    )
    chart = comparison_chart(comparison)
    texts = {
        paths.json: json.dumps(comparison.to_dict(), indent=2, ensure_ascii=False) + "\n",
        paths.csv: csv_text(_rows(comparison), like=[dict.fromkeys(_COLUMNS), *_rows(comparison)]),
        paths.svg: svg_file(chart.scene),
        paths.html: _page(comparison, chart),
    }
    for path, text in texts.items():
        write_text(path, text.encode("utf-8", "replace").decode("utf-8"))
    with beside(paths.png) as scratch:
        write_png(scratch, chart.scene)
    return paths


_COLUMNS = ("study", "model", "number", "label", "metric", "allocated_bytes", "device_bytes")


def _rows(comparison: Comparison) -> list[dict[str, Any]]:
    rows = []
    for study in comparison.studies:
        for point in study.front:
            row = point.to_dict()
            tests = row.pop("test_metrics")
            row.pop("inference")
            row |= {f"test_{name}": value for name, value in tests.items()}
            rows.append({"study": study.name, "model": study.model, **row})
    return rows


def _page(comparison: Comparison, chart: Chart) -> str:
    headings = [("study", False), ("model", False), ("trials", True), ("on the front", True), ("best metric", True)]
    headings += [("least tensors MB", True), ("hypervolume, share of the largest", True)]
    largest = max(comparison.hypervolumes.values(), default=0.0)
    rows = []
    for study in comparison.studies:
        front, area = study.front, comparison.hypervolumes[study.name]
        best = front[-1].ranked_metric if front else None
        least = front[0].ranked_memory / 1e6 if front else None
        rows.append(
            Row(
                cells=[
                    study.name, study.model, (len(study.points), str(len(study.points))), (len(front), str(len(front))),
                    (best, "–" if best is None else f"{best:.4f}"), (least, "–" if least is None else f"{least:,.1f}"),
                    (area, f"{area / largest:.1%}" if largest else "–"),
                ]
            )
        )  # fmt: skip
    members = [("study", False), ("trial", True), ("configuration", False), (comparison.metric_name, True)]
    members += [("tensors MB", True), ("device MB", True)]
    lines = [
        Row(
            cells=[
                study.name, (point.number, f"#{point.number}"), point.label[:500],
                (point.metric, f"{point.ranked_metric:.4f}"), (point.memory, f"{point.ranked_memory / 1e6:,.1f}"),
                (point.device, "–" if point.device is None else f"{point.device / 1e6:,.0f}"),
            ]
        )
        for study in comparison.studies
        for point in study.front
    ]  # fmt: skip
    parts = [heading(chart.title), *(paragraph(f"Note: {warning}", "note") for warning in comparison.warnings)]
    parts += [paragraph(sentence, "lead") for sentence in comparison.sentences] + [figure(chart)]
    parts.append(section("Studies", table(headings, rows), paragraph(_reference_sentence(comparison), "note")))
    parts.append(section("Members of the fronts", table(members, lines)))
    return page(chart.title, "\n".join(parts))


def _reference_sentence(comparison: Comparison) -> str:
    """What the hypervolumes are measured from."""
    if comparison.reference is None:
        return "No trial is complete, so there is no hypervolume."
    words = reference_words(comparison.metric_name, comparison.reference)
    return f"Hypervolumes are measured from one reference of all studies: {words}."
