"""The front and the trials as CSV, JSON and rows for a terminal."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from autotune.outcome import TrialRecord
from autotune.report.front import Point, pareto_front
from autotune.report.select import Selection
from autotune.report.words import mean_words

FORMAT_VERSION = 1


def table_rows(points: Iterable[Point]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of text for a terminal's table, in the order of ``points``; e.g. of :func:`pareto_front`.

    Memory is in MB (1e6 bytes). What is known of no point has no column: a test score, the mean over other seeds, and what
    answering takes (milliseconds for one row, its device MB).
    """
    points = list(points)
    confirmed = any(point.confirmed_of for point in points)
    answered = any(point.inference is not None for point in points)
    tested = sorted({name for point in points for name in point.test_metrics})
    metric = next((point.metric_name for point in points), "metric")
    headings = ["trial", "configuration", metric, *(["other seeds"] if confirmed else [])]
    headings += [*(f"test {name}" for name in tested), "tensor MB", "device MB"]
    headings += [*(["one row ms", "answering MB"] if answered else []), "trainable", "seconds", "status"]
    rows = [
        [
            f"{point.number}{' *' if point.on_front else ''}",
            point.label,
            _number(point.metric, ".4f"),
            *([mean_words(point) or "–"] if confirmed else []),
            *(_number(point.test_metrics.get(name), ".4f") for name in tested),
            _number(_megabytes(point.memory), ",.1f"),
            _number(_megabytes(point.device), ",.0f"),
            *(_answering(point) if answered else []),
            _number(point.trainable_parameters, ",d"),
            _number(point.seconds, ".1f"),
            point.status.value.replace("_", " "),
        ]
        for point in points
    ]
    return headings, rows


def _answering(point: Point) -> list[str]:
    known = point.inference
    if known is None:
        return ["–", "–"]
    return [_number(known.latency_seconds * 1e3, ",.2f"), _number(known.peak.device / 1e6, ",.0f")]


def _number(value: float | int | None, layout: str) -> str:
    return "–" if value is None else format(value, layout)


def _megabytes(count: int | None) -> float | None:
    return None if count is None else count / 1e6


def front_table(points: Iterable[Point]) -> list[dict[str, Any]]:
    """The front's members by memory, JSON-able; what the tracker logs as a table."""
    rows = []
    for point in pareto_front(points):
        row: dict[str, Any] = {
            "number": point.number,
            "configuration": point.label,
            point.metric_name: point.metric,
            "peak_allocated_mb": _megabytes(point.memory),
            "peak_reserved_mb": _megabytes(point.reserved),
            "peak_device_mb": _megabytes(point.device),
            "confirmed_mean": point.confirmed_mean,
            "confirmed_spread": point.confirmed_spread,
            "confirmed_seeds": len(point.confirmed) or None,
            "latency_ms": None if point.inference is None else point.inference.latency_seconds * 1e3,
            "answering_device_mb": None if point.inference is None else point.inference.peak.device / 1e6,
            "seconds": round(point.seconds, 2),
            "trainable_parameters": point.trainable_parameters,
        }
        rows.append(row | {f"test_{name}": value for name, value in point.to_dict()["test_metrics"].items()})
    return rows


def trial_rows(records: Iterable[TrialRecord], points: Iterable[Point]) -> list[dict[str, Any]]:
    """One flat row a finished trial: its figures, then its parameters as the search space names them."""
    by_number = {record.number: record for record in records}
    rows = []
    for point in points:
        record = by_number[point.number]
        row = point.to_dict()
        tests, inference = row.pop("test_metrics"), row.pop("inference")
        row |= {f"inference_{name}": value for name, value in _flat(inference or {}).items()}
        row |= {f"test_{name}": value for name, value in tests.items()}
        row["seed"] = record.seed
        rows.append(row | {f"param_{key}": value for key, value in record.candidate.params.items()})
    return rows


def _flat(figures: Mapping[str, Any]) -> dict[str, Any]:
    peak = {f"peak_{name}": value for name, value in figures.get("peak", {}).items()}
    return peak | {name: value for name, value in figures.items() if name != "peak"}


def front_summary(
    points: Sequence[Point],
    records: Iterable[TrialRecord],
    settings: Mapping[str, Any],
    selection: Selection | None = None,
) -> dict[str, Any]:
    """The front with the configurations of its members, and what a comparison of studies needs; JSON-able."""
    by_number = {record.number: record for record in records}
    front = pareto_front(points)
    ended: dict[str, int] = {}
    for point in points:
        ended[point.status.value] = ended.get(point.status.value, 0) + 1
    return {
        "format_version": FORMAT_VERSION,
        "study": settings.get("name"),
        "model": settings.get("model"),
        "metric": settings.get("metric"),
        "memory_cap_bytes": settings.get("memory_cap"),
        "meters": sorted({point.meter for point in points if point.meter}),
        "trials": ended,
        "selection": selection.to_dict() if selection else None,
        "front": [
            point.to_dict()
            | {"candidate": asdict(by_number[point.number].candidate), "seed": by_number[point.number].seed}
            for point in front
        ],
    }


def csv_text(rows: Sequence[Mapping[str, Any]], *, like: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV, with the columns of ``like`` also where a row lacks one."""
    columns = list(dict.fromkeys(key for row in like for key in row)) or ["number"]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
