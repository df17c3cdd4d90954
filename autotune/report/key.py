"""The names of a front's members beside the picture: number, configuration, metric and memory."""

from __future__ import annotations

from collections.abc import Sequence

from autotune.report.axes import number
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
    """Best first; the best ones where there are more than fit."""
    if not front:
        return
    rows = list(reversed(front))
    step = 33.0 if len(rows) <= 12 else 24.0
    shown = rows[: int((bottom - top - 30) / step)]
    scene.add(Words(x=left, y=top, text="The front, best first", size=12.5, bold=True))
    scene.add(
        Words(x=right, y=top, text=f"{fit(text.metric, 70, 10.5)} · tensors", size=10.5, role="muted", anchor="end")
    )
    for row, point in enumerate(shown):
        y = top + 24 + row * step
        picked = point.number == selected
        memory = f"{number(float(f'{text.in_unit(point.memory or 0):.3g}'))} {text.unit.name}"
        figures = f"{point.ranked_metric:.4f} · {memory}"
        name, edge = f"#{point.number}", right - width(figures, 11) - 10
        begin = left + width(name, 11.5, bold=True) + 7
        shapes = [Words(x=left, y=y, text=name, size=11.5, role="accent", bold=True)]
        if step > 30:  # figures on a line of their own, so that the name has the whole width
            label = fit(point.label, right - begin, 11, bold=picked)
            shapes.append(Words(x=begin, y=y, text=label, size=11, bold=picked))
            shapes.append(Words(x=begin, y=y + 14, text=figures + _seeds(point), size=10.5, role="muted"))
        else:
            shapes.append(
                Words(x=begin, y=y, text=fit(point.label, edge - begin, 11, bold=picked), size=11, bold=picked)
            )
            shapes.append(Words(x=right, y=y, text=figures, size=11, role="muted", anchor="end"))
        ring = [Circle(x=left - 9, y=y - 4, radius=4.5, stroke="ink", width=1.6)] if picked else []
        scene.add(Mark(shapes=(*shapes, *ring), kind="key", number=point.number, hint=""))
    if len(shown) < len(rows):
        words = f"and {len(rows) - len(shown)} more with less memory: front.csv"
        scene.add(Words(x=left, y=top + 24 + len(shown) * step, text=words, size=10.5, role="muted"))


def _seeds(point: Point) -> str:
    if point.confirmed_mean is None:
        return ""
    spread = "" if point.confirmed_spread is None else f" ± {point.confirmed_spread:.4f}"
    return f" · {len(point.confirmed)} seeds {point.confirmed_mean:.4f}{spread}"
