"""The front drawn with matplotlib, without its global state: a plot on the left, the front's names on the right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autotune.report.figures import (
    ACCENT,
    GREY,
    INK,
    MARKERS,
    WARN,
    FigureText,
    Layers,
    figure_text,
    layers,
    memory_range,
    metric_range,
    stepped,
)
from autotune.report.front import Point

MUTED = "#56606a"
_ROWS_OF_KEY = 18
_LONGEST_NAME = 44
_OFFSETS = ((-6, 6, "right", "bottom"), (7, -7, "left", "top"), (-6, -7, "right", "top"), (7, 6, "left", "bottom"))


def write_pictures(
    paths: Sequence[Path], points: Sequence[Point], settings: Mapping[str, Any], *, selected: int | None = None
) -> None:
    """Draw the front once and write it to every path; the ending (png, svg, pdf) gives the format."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    text, layered = figure_text(points, settings), layers(points)
    # a name with a $ is no formula; the salt makes an SVG the same file every time
    with mpl.rc_context({"text.parse_math": False, "svg.hashsalt": "autotune", "font.family": "DejaVu Sans"}):
        figure = Figure(figsize=(11.5, 6.2), dpi=140, facecolor="white")
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0.075, 0.13, 0.545, 0.69))
        _frame(figure, axes, points, layered, text)
        _marks(axes, points, layered, text, selected)
        _badges(figure, axes, layered, text)
        _key(figure, layered, text, selected)
        for path in paths:
            figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _frame(figure: Any, axes: Any, points: Sequence[Point], layered: Layers, text: FigureText) -> None:
    figure.text(0.03, 0.945, _drawable(text.title, 90), fontsize=14, fontweight="bold", color=INK)
    figure.text(0.03, 0.903, _drawable(text.subtitle, 170), fontsize=8.8, color=MUTED)
    figure.text(0.03, 0.871, _drawable(text.counts, 170), fontsize=8.8, color=MUTED)
    axes.set_xlabel(text.x_label, color=INK)
    axes.set_ylabel(_drawable(text.y_label, 60), color=INK)
    if text.log_x:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_formatter(lambda _value, _: "")
    axes.set_xlim(*memory_range(points, text))
    axes.set_ylim(*metric_range(layered))
    axes.grid(True, color="#e8ebee", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#b8c0c7")
    axes.tick_params(colors=MUTED, labelsize=9)
    if not points or not (layered.drawn or layered.without_metric):
        axes.text(0.5, 0.5, "no trial to show yet", transform=axes.transAxes, ha="center", color=GREY, fontsize=13)


def _marks(axes: Any, points: Sequence[Point], layered: Layers, text: FigureText, selected: int | None) -> None:
    def place(some: Sequence[Point]) -> tuple[list[float], list[float]]:
        return [text.in_unit(p.memory or 0) for p in some], [float(p.metric or 0.0) for p in some]

    if layered.dominated:
        axes.scatter(*place(layered.dominated), s=34, color=GREY, alpha=0.75, lw=0, label="beaten by another", zorder=2)
    for status, (marker, _, words) in MARKERS.items():
        some = [point for point in layered.ended if point.status is status]
        if some:
            axes.scatter(*place(some), s=38, marker=marker, color=WARN, alpha=0.8, lw=0, label=words, zorder=2)
    if layered.without_metric:
        xs = [text.in_unit(point.memory or 0) for point in layered.without_metric]
        along_the_axis = axes.get_xaxis_transform()  # x in data, y as a share of the height
        axes.vlines(xs, 0.0, 0.03, color=WARN, lw=1.6, label="no metric", transform=along_the_axis, zorder=4)
    if layered.front:
        xs, ys = stepped(layered.front, text, memory_range(points, text)[1])
        axes.plot(xs, ys, color=ACCENT, lw=1.8, zorder=3)
        axes.fill_between(xs, ys, axes.get_ylim()[0], color=ACCENT, alpha=0.06, lw=0, zorder=1)
        axes.scatter(
            *place(layered.front), s=64, color=ACCENT, edgecolor="white", lw=1.4, label="on the front", zorder=5
        )
    chosen = [point for point in layered.front if point.number == selected]
    if chosen:
        axes.scatter(*place(chosen), s=210, facecolor="none", edgecolor=INK, lw=1.6, label="selected", zorder=6)
    if axes.get_legend_handles_labels()[0]:
        axes.figure.legend(
            loc="lower right", bbox_to_anchor=(0.985, 0.03), fontsize=8.5, frameon=False, ncols=2, labelcolor=INK
        )


def _badges(figure: Any, axes: Any, layered: Layers, text: FigureText) -> None:
    """Numbers beside the front's points, where there is room that no other point or number takes."""
    renderer = figure.canvas.get_renderer()
    frame = axes.get_window_extent(renderer)
    taken = [
        tuple(axes.transData.transform((text.in_unit(point.memory or 0), float(point.metric or 0.0))))
        for point in layered.drawn
    ]
    boxes: list[Any] = []
    for point in layered.front:
        place = (text.in_unit(point.memory or 0), float(point.metric or 0.0))
        for dx, dy, across, along in _OFFSETS:
            badge = axes.annotate(
                f"#{point.number}",
                place,
                xytext=(dx, dy),
                textcoords="offset points",
                ha=across,
                va=along,
                fontsize=9,
                fontweight="bold",
                color=ACCENT,
                zorder=7,
            )
            box = badge.get_window_extent(renderer)
            inside = frame.x0 < box.x0 and box.x1 < frame.x1 and frame.y0 < box.y0 and box.y1 < frame.y1
            free = not any(box.overlaps(other) for other in boxes) and not any(box.contains(*mark) for mark in taken)
            if inside and free:
                boxes.append(box)
                break
            badge.remove()


def _key(figure: Any, layered: Layers, text: FigureText, selected: int | None) -> None:
    """The front's members, best first: number, name, metric and memory. The best ones where there are too many."""
    front = list(reversed(layered.front))
    left, metric_at, memory_at, top = 0.645, 0.93, 0.985, 0.805
    if not front:
        return
    numbers = {"fontsize": 8, "ha": "right", "family": "DejaVu Sans Mono"}
    figure.text(left, top, "The front", fontsize=10, fontweight="bold", color=INK)
    figure.text(metric_at, top, "metric", color=MUTED, **numbers)
    figure.text(memory_at, top, text.unit, color=MUTED, **numbers)
    shown = front[:_ROWS_OF_KEY]
    step = min(0.05, 0.54 / len(shown))
    for row, point in enumerate(shown):
        y = top - 0.05 - row * step
        weight = "bold" if point.number == selected else "normal"
        memory = text.in_unit(point.memory or 0)
        figure.text(left, y, f"#{point.number}", fontsize=8.5, color=ACCENT, fontweight="bold")
        _name(figure, point.label, left + 0.042, y, metric_at - 0.062, weight)
        figure.text(metric_at, y, f"{point.metric:.4f}", color=INK, fontweight=weight, **numbers)
        figure.text(
            memory_at, y, f"{memory:.3g}" if memory < 100 else f"{memory:.0f}", color=INK, fontweight=weight, **numbers
        )
    if len(shown) < len(front):
        words = f"and {len(front) - len(shown)} more with less memory: front.csv"
        figure.text(left, top - 0.05 - len(shown) * step, words, fontsize=8, color=MUTED)


def _name(figure: Any, label: str, left: float, y: float, right: float, weight: str) -> None:
    """A configuration's name, smaller and then shorter until it ends before ``right``."""
    name = figure.text(left, y, _drawable(label, _LONGEST_NAME), fontsize=8.3, color=INK, fontweight=weight)
    room = (right - left) * figure.bbox.width
    for size, longest in (
        (8.3, _LONGEST_NAME),
        (7.2, _LONGEST_NAME),
        *((6.4, cut) for cut in range(_LONGEST_NAME, 8, -4)),
    ):
        name.set_fontsize(size)
        name.set_text(_drawable(label, longest))
        if name.get_window_extent(figure.canvas.get_renderer()).width <= room:
            return


def _drawable(words: str, longest: int) -> str:
    """The words on one line, shortened, each sign that the font cannot draw as a question mark."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    font = get_font(findfont(FontProperties(family="DejaVu Sans")))
    known = "".join(sign if font.get_char_index(ord(sign)) else "?" for sign in " ".join(words.split()))
    return known if len(known) <= longest else known[: longest - 1] + "…"
