"""Predicted against measured memory, for tensors and for the device."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from autotune.outcome import Status, TrialRecord
from autotune.report.axes import Panel, scale, wide_range
from autotune.report.figures import MARKERS, Chart, MemoryUnit, cap_of, hint, mark_of, nothing
from autotune.report.front import Point
from autotune.report.legend import Entry, draw_legend
from autotune.report.scene import Line, Mark, Scene, Words, glyph
from autotune.units import format_bytes

NAME, TITLE = "predicted", "Predicted against measured memory"

Row = tuple[Point, int, int]  # the trial, predicted and measured bytes


def pairs(records: Sequence[TrialRecord], points: Sequence[Point]) -> tuple[list[Row], list[Row]]:
    """Trials with predicted and measured bytes: of tensors, and of the device."""
    by_number = {point.number: point for point in points}
    tensors, devices = [], []
    for record in records:
        outcome = record.outcome
        if outcome is None or outcome.peak is None or outcome.predicted is None:
            continue
        point, was, said = by_number[record.number], outcome.peak, outcome.predicted
        if was.allocated > 0 and said.allocated > 0:
            tensors.append((point, said.allocated, was.allocated))
        if was.device > 0 and said.device > 0:
            devices.append((point, said.device, was.device))
    return tensors, devices


def errors_in_words(rows: Sequence[Row], what: str) -> str:
    """How far predictions were off and how many were too low, which is what breaks a cap."""
    off = [said / was - 1 for _, said, was in rows]
    under = [error for error in off if error < 0]
    worst = (
        f"{len(under)} of {len(off)} too low (at most by {-min(under):.1%})" if under else f"none of {len(off)} too low"
    )
    return f"{what}: median {statistics.median(off):+.1%}, from {min(off):+.1%} to {max(off):+.1%}; {worst}"


def predicted_chart(records: Sequence[TrialRecord], points: Sequence[Point], settings: Mapping[str, Any]) -> Chart:
    """Two plots with the line on which a prediction is exact; above it, a trial took more than was predicted."""
    tensors, devices = pairs(records, points)
    caption = (
        "On the line a prediction was exact; above it a trial took more than was predicted, below it less. "
        "The device's prediction has a margin on purpose, which trials teach, so its points lie below."
    )
    if not tensors and not devices:
        return nothing(NAME, TITLE, caption, "No trial has both a predicted and a measured peak.")
    scene = Scene(1000, 540, TITLE)
    scene.add(Words(x=28, y=34, text=TITLE, size=17, bold=True))
    said = []
    scene.height = draw_legend(scene, _entries([*tensors, *devices]), left=28, right=970, y=530) + 22
    for rows, what, left in ((tensors, "tensor bytes", 82.0), (devices, "device", 580.0)):
        if rows:
            said.append(errors_in_words(rows, what))
            scene.add(Words(x=28, y=56 + 18 * (len(said) - 1), text=said[-1], size=11.5, role="muted"))
            _plot(scene, rows, what, left, cap_of(settings) if what == "device" else None)
    return Chart(name=NAME, title=TITLE, caption=f"{caption} Error: {'. '.join(said)}.", scene=scene)


def _entries(rows: Sequence[Row]) -> list[Entry]:
    """A sign for each sort of trial, as the front's figure has it, and for the line."""
    entries = [Entry("dashes", "muted", "predicted = measured")]
    for on_front, words in ((True, "on the front"), (False, "complete")):
        if any(point.on_front is on_front and point.status is Status.COMPLETE for point, _, _ in rows):
            entries.append(Entry("circle", "accent" if on_front else "grey", words))
    seen = {point.status for point, _, _ in rows}
    return [*entries, *(Entry(form, "warn", words) for status, (form, words) in MARKERS.items() if status in seen)]


def _plot(scene: Scene, rows: Sequence[Row], what: str, left: float, cap: int | None) -> None:
    figures = [count for _, said, was in rows for count in (said, was)]
    near = cap is not None and cap < 3 * max(figures)
    unit = MemoryUnit.of([*figures, cap if near else None])
    values = [unit.of_bytes(count) for count in ([*figures, cap] if near and cap else figures)]
    log = wide_range(values)
    panel = Panel(x=scale(values, left, left + 385, log=log), y=scale(values, 462, 112, log=log))
    panel.frame(scene, x_label=f"predicted {what} ({unit.name})", y_label=f"measured {what} ({unit.name})")
    low, high = panel.x.low, panel.x.high
    exact = Line(points=(panel.place(low, low), panel.place(high, high)), stroke="muted", width=1.4, dash=(6, 4))
    scene.add(Mark(shapes=(exact,), kind="exact", hint="predicted = measured", x=low, y=low))
    if near and cap:
        at = panel.y.at(unit.of_bytes(cap))
        line = Line(points=((panel.left, at), (panel.right, at)), stroke="cap", width=1.8, dash=(7, 4))
        name = Words(x=panel.left + 6, y=at - 5, text="cap", size=11, role="cap", bold=True)
        scene.add(Mark(shapes=(line, name), kind="cap", hint=f"memory cap {format_bytes(cap)}", y=unit.of_bytes(cap)))
    for point, said, was in sorted(rows, key=lambda row: row[0].on_front):
        form, role, _ = mark_of(point)
        x, y = unit.of_bytes(said), unit.of_bytes(was)
        words = f"{hint(point)}\npredicted {what}: {format_bytes(said)} ({said / was - 1:+.1%})"
        shapes = glyph(form, *panel.place(x, y), 5, role, rim="paper" if role == "accent" else None)
        kind = "tensors" if what == "tensor bytes" else "device"
        scene.add(Mark(shapes=shapes, kind=kind, hint=words, number=point.number, x=x, y=y))
