"""A point of the front in the words that tables and explanations share."""

from __future__ import annotations

from autotune.report.front import Point
from autotune.units import format_bytes, format_latency


def seeds_words(point: Point) -> str:
    """On how many other seeds a mean stands: ``3 seeds``; ``2 of 3 seeds`` where one ended badly."""
    good, tried = len(point.confirmed), max(point.confirmed_of, len(point.confirmed))
    return f"{good if good == tried else f'{good} of {tried}'} seed{'' if tried == 1 else 's'}"


def mean_words(point: Point, layout: str = ".4f") -> str:
    """``0.8120 ± 0.0060 (3 seeds)``; without the spread where there is one seed; "" where it is unconfirmed."""
    if point.confirmed_mean is None:
        return f"– ({seeds_words(point)})" if point.confirmed_of else ""
    spread = "" if point.confirmed_spread is None else f" ± {format(point.confirmed_spread, layout)}"
    return f"{format(point.confirmed_mean, layout)}{spread} ({seeds_words(point)})"


def metric_words(point: Point) -> str:
    """The metric in a sentence, always with how far it can be trusted."""
    if point.confirmed_mean is not None:
        spread = "" if point.confirmed_spread is None else f" ± {point.confirmed_spread:.2g}"
        return f"{point.metric_name} {point.confirmed_mean:.4g}{spread} over {_other(point)}"
    if point.confirmed_of:
        return f"{point.metric_name} {point.ranked_metric:.4g}, but {_other(point)} ended well"
    return f"{point.metric_name} {point.ranked_metric:.4g}, unconfirmed"


def _other(point: Point) -> str:
    return seeds_words(point).replace(" seed", " other seed")


def point_words(point: Point) -> str:
    """A point's configuration and figures in a sentence."""
    device = f"device peak {format_bytes(point.device)}" if point.device is not None else "device peak not measured"
    figures = [metric_words(point), device]
    if point.inference is not None:
        held = format_bytes(point.inference.peak.device)
        figures.append(f"answers one row in {format_latency(point.inference.latency_seconds)}, holding {held}")
    return f"{point.label} ({'; '.join(figures)})"
