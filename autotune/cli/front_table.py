"""The front as a table of a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from autotune.outcome import TrialRecord
from autotune.units import format_bytes, format_latency

if TYPE_CHECKING:
    from autotune.report import Point


def front_table(front: list[TrialRecord], metric_name: str, selected: int | None) -> Table:
    """The front as a table, in the order given. Where members are confirmed or measured answering, cells hold two lines, so
    that all of it stays readable in 80 columns."""
    from autotune.report import points_from  # its pictures take a while to import

    points = {point.number: point for point in points_from(front, metric_name=metric_name)}
    further = any(point.confirmed_of or point.inference for point in points.values())
    table = Table(title=f"Accuracy-memory front ({metric_name} on validation)", title_justify="left")
    table.add_column("trial", justify="right", no_wrap=True)
    table.add_column("configuration", overflow="fold")
    headings = (
        ("other\nseeds", "tensors\ndevice", "one row\nholding") if further else ("tensors", "device", "trainable")
    )
    for heading in (metric_name, *headings, "test"):
        table.add_column(heading, justify="right", overflow="fold")
    for record in front:
        point = points.get(record.number)
        if point is None or not point.may_stand_on_front:
            continue
        test = point.test_metrics.get(metric_name)
        picked = point.number == selected
        table.add_row(
            f"{point.number}{' <' if picked else ''}",
            escape(point.label),
            f"{point.metric:.4f}",
            *(_further_cells(point) if further else _cells(point)),
            "" if test is None else f"{test:.4f}",
            style="bold" if picked else None,
        )
    return table


def _cells(point: Point) -> tuple[str, str, str]:
    trainable = "" if point.trainable_parameters is None else f"{point.trainable_parameters:,}"
    return _short(point.memory or 0), _short(point.device or 0), trainable


def _further_cells(point: Point) -> tuple[str, str, str]:
    from autotune.report import mean_words

    known = point.inference
    answers = "" if known is None else f"{format_latency(known.latency_seconds)}\n{_short(known.peak.device)}"
    seeds = mean_words(point).replace(" (", "\n(") or "none yet"
    return seeds, f"{_short(point.memory or 0)}\n{_short(point.device or 0)}", answers


def _short(count: int) -> str:
    return format_bytes(count).split(" (")[0]
