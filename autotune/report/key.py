"""The names of a front's members beside the picture: number, configuration, metric and memory."""

from __future__ import annotations

from collections.abc import Sequence

from autotune.report.axes import number, numbers
from autotune.report.figures import FigureText
from autotune.report.front import Point
from autotune.report.lettering import fit, width
from autotune.report.scene import Circle, Mark, Scene, Words


def draw_key(
    scene: Scene,
    front: Sequence[Point],
    text: FigureText,
    selected: int | None,
    *,
    left: float,
    right: float,
    top: float,
    bottom: float,
) -> None:
    """Best first; the best ones and the selected one where there are more than fit."""
    if not front:
        return
    rows = list(reversed(front))
    step = 33.0 if len(rows) <= 12 else 24.0
    shown = rows[: int((bottom - top - 30) / step)]
    if left_out := [point for point in rows[len(shown) :] if point.number == selected]:
        shown = [*shown[:-1], *left_out]
    metrics = dict(zip((point.number for point in shown), in_a_row([p.ranked_metric for p in shown]), strict=True))
    scene.add(Words(x=left, y=top, text="The front, best first", size=12.5, bold=True))
    scene.add(
        Words(x=right, y=top, text=f"{fit(text.metric, 70, 10.5)} · tensors", size=10.5, role="muted", anchor="end")
    )
    for row, point in enumerate(shown):
        y = top + 24 + row * step
        picked = point.number == selected
        memory = f"{number(float(f'{text.in_unit(point.memory or 0):.3g}'))} {text.unit.name}"
        figures = f"{metrics[point.number]} · {memory}"
        name, edge = f"#{point.number}", right - width(figures, 11) - 10
        begin = left + width(name, 11.5, bold=True) + 7
        shapes = [Words(x=left, y=y, text=name, size=11.5, role="accent", bold=True)]
        if step > 30:  # figures on a line of their own, so that the name has the whole width
            label = fit(point.label, right - begin, 11, bold=picked)
            shapes.append(Words(x=begin, y=y, text=label, size=11, bold=picked))
            line = fit(figures + _seeds(point), right - begin, 10.5)
            shapes.append(Words(x=begin, y=y + 14, text=line, size=10.5, role="muted"))
        else:
            shapes.append(
                Words(x=begin, y=y, text=fit(point.label, edge - begin, 11, bold=picked), size=11, bold=picked)
            )
            shapes.append(Words(x=right, y=y, text=figures, size=11, role="muted", anchor="end"))
        ring = [Circle(x=left - 9, y=y - 4, radius=4.5, stroke="ink", width=1.6)] if picked else []
        scene.add(Mark(shapes=(*shapes, *ring), kind="key", number=point.number, hint=""))
    if len(shown) < len(rows):
        words = f"and {len(rows) - len(shown)} more: front.csv"
        scene.add(Words(x=left, y=top + 24 + len(shown) * step, text=words, size=10.5, role="muted"))


def _seeds(point: Point) -> str:
    if point.confirmed_mean is None:
        return ""
    spread = "" if point.confirmed_spread is None else f" ± {_short(point.confirmed_spread)}"
    return f" · {len(point.confirmed)} seeds {_short(point.confirmed_mean)}{spread}"


def in_a_row(metrics: Sequence[float]) -> list[str]:
    """Metrics that stand under one another: four decimals, more where they are closer, fewer where they are large."""
    largest = max((abs(metric) for metric in metrics), default=0.0)
    if largest >= _LARGE:
        return numbers(metrics, within=0.05)
    return numbers(metrics, least=4, within=0.5)


def _short(value: float) -> str:
    return f"{value:.4f}" if abs(value) < _LARGE else numbers([value], within=1e-4)[0]


_LARGE = 1e5
"""From here on decimals say nothing and have no room."""
