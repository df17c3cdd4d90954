"""What a study found, in sentences, and its trials as rows of a page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from autotune.outcome import TrialRecord
from autotune.report.figures import Refused, cap_of
from autotune.report.front import Point, pareto_front
from autotune.report.lettering import clean
from autotune.report.page import Row
from autotune.report.parameters import varied
from autotune.units import count_words, format_bytes


def findings(points: Sequence[Point], settings: Mapping[str, Any], refused: Sequence[Refused]) -> list[str]:
    """What the study found: how many trials, the ends of the front, whether anything went over the cap."""
    front, cap = pareto_front(points), cap_of(settings)
    if not points:
        return ["No trial has finished yet."]
    if not front:
        return [
            f"Of {count_words(len(points), 'trial')}, none is complete with a finite metric and a measured peak: there is no front yet."
        ]
    least, most = front[0], front[-1]
    metric = clean(most.metric_name)
    if len(front) == 1:
        sentences = [
            f"One of {count_words(len(points), 'trial')} beats or equals all others: #{most.number}, {metric} {most.ranked_metric:.4f} with "
            f"{_size(most)} of tensors."
        ]
    else:
        sentences = [
            f"{len(front)} of {count_words(len(points), 'trial')} are on the front, from {metric} {least.ranked_metric:.4f} with {_size(least)} of "
            f"tensors to {most.ranked_metric:.4f} with {_size(most)}."
        ]
    devices = [point.device for point in points if point.device is not None]
    if cap is not None and devices:
        over = sum(device > cap for device in devices)
        sentences.append(
            f"No trial's device peak was over the cap of {format_bytes(cap)}; the highest was {format_bytes(max(devices))}."
            if not over
            else f"{count_words(over, 'trial')} went over the cap of {format_bytes(cap)}; the highest device peak was {format_bytes(max(devices))}."
        )
    if refused:
        sentences.append(f"{len(refused)} configuration{'s were' if len(refused) > 1 else ' was'} refused before the start, since none of their memory plans fits the cap.")  # fmt: skip
    confirmed = sum(bool(point.confirmed) for point in front)
    if confirmed:
        sentences.append(f"{confirmed} of the front's members {'were' if confirmed > 1 else 'was'} trained again on other seeds.")  # fmt: skip
    else:
        sentences.append("Unconfirmed: every figure is of one seed.")
    return sentences


def _size(point: Point) -> str:
    return format_bytes(round(point.ranked_memory))


def trial_table(
    records: Sequence[TrialRecord], points: Sequence[Point], selected: int | None
) -> tuple[list[tuple[str, bool]], list[Row]]:
    """Headings and a row for each trial, the front first, then by metric."""
    by_number = {record.number: record for record in records}
    names = varied([record.candidate.params for record in records])
    tested = sorted({name for point in points for name in point.test_metrics})
    confirmed = any(point.confirmed for point in points)
    metric = next((point.metric_name for point in points), "metric")
    headings = [("trial", True), ("configuration", False), ("status", False), (metric, True)]
    headings += [("other seeds", True)] if confirmed else []
    headings += [(f"test {name}", True) for name in tested]
    headings += [("tensors MB", True), ("device MB", True), ("predicted device MB", True), ("trainable", True)]
    headings += [("seconds", True), ("parameters", False), ("reason", False)]
    ordered = sorted(points, key=lambda point: (not point.on_front, -_rank(point.metric), point.number))
    rows = []
    for point in ordered:
        record = by_number[point.number]
        cells: list[str | tuple[float | int | None, str]] = [(point.number, f"#{point.number}"), point.label[:500]]
        cells += [
            point.status.value.replace("_", " ") + (", front" if point.on_front else ""),
            _cell(point.metric, ".4f"),
        ]
        if confirmed:
            spread = "" if point.confirmed_spread is None else f" ± {point.confirmed_spread:.4f}"
            cells.append(_cell(point.confirmed_mean, ".4f", spread))
        cells += [_cell(point.test_metrics.get(name), ".4f") for name in tested]
        cells += [_cell(_mb(count), ",.1f") for count in (point.memory, point.device, point.predicted_device)]
        cells += [_cell(point.trainable_parameters, ",d"), _cell(point.seconds, ".1f")]
        cells += [_parameters(record, names), point.reason[:400]]
        css = " ".join(word for word, true in (("front", point.on_front), ("picked", point.number == selected)) if true)
        rows.append(Row(cells=cells, trial=point.number, css=css))
    return headings, rows


def _rank(metric: float | None) -> float:
    return metric if metric is not None and math.isfinite(metric) else -math.inf


def _mb(count: int | None) -> float | None:
    return None if count is None else count / 1e6


def _cell(value: float | int | None, layout: str, more: str = "") -> tuple[float | int | None, str]:
    if value is None or not math.isfinite(value):
        return None, "–"
    return value, format(value, layout) + more


def _parameters(record: TrialRecord, names: Sequence[str]) -> str:
    params = record.candidate.params
    shown = [(name.rpartition(".")[2], params[name]) for name in names if name in params]
    words = [f"{name}={f'{value:.4g}' if isinstance(value, float) else clean(value)[:60]}" for name, value in shown]
    return ", ".join(words)[:600]
