"""A scene as PNG, drawn with matplotlib without its global state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autotune.report.lettering import clean, drawable
from autotune.report.palette import LIGHT
from autotune.report.scene import Circle, Line, Mark, Scene, Shape, Words

_UNITS_PER_INCH = 100
_POINTS_PER_UNIT = 72 / _UNITS_PER_INCH


def write_png(path: Path, scene: Scene, *, scale: float = 1.4) -> None:
    """Draw the scene on white paper, ``scale`` pixels a unit.

    Raises:
        OSError: the file cannot be written.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # a name with a $ is no formula
    with mpl.rc_context({"text.parse_math": False, "font.family": "DejaVu Sans", "path.simplify": False}):
        size = (scene.width / _UNITS_PER_INCH, scene.height / _UNITS_PER_INCH)
        figure = Figure(figsize=size, dpi=_UNITS_PER_INCH * scale, facecolor=LIGHT["paper"])
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, scene.width), ylim=(scene.height, 0))
        axes.set_axis_off()
        shapes = [shape for item in scene.items for shape in (item.shapes if isinstance(item, Mark) else (item,))]
        for order, shape in enumerate(shapes):
            artist = _artist(shape)
            artist.set_zorder(order)
            axes.add_artist(artist)
        figure.savefig(path, format="png", metadata={"Title": drawable(clean(scene.title))[:200], "Software": None})


def _artist(shape: Shape) -> Any:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Circle as Disc
    from matplotlib.patches import Polygon
    from matplotlib.text import Text

    if isinstance(shape, Words):
        return Text(
            shape.x,
            shape.y,
            drawable(clean(shape.text)),
            fontsize=shape.size * _POINTS_PER_UNIT,
            color=LIGHT[shape.role],
            ha={"start": "left", "middle": "center", "end": "right"}[shape.anchor],
            va="baseline",
            fontweight="bold" if shape.bold else "normal",
            rotation=shape.turn,
            rotation_mode="anchor",
        )
    width = shape.width * _POINTS_PER_UNIT
    fill = LIGHT[shape.fill] if shape.fill else "none"
    edge = LIGHT[shape.stroke] if shape.stroke else "none"
    if isinstance(shape, Circle):
        line = width if shape.stroke else 0
        return Disc((shape.x, shape.y), shape.radius, fc=fill, ec=edge, lw=line, alpha=shape.opacity)
    if shape.fill:
        line = width if shape.stroke else 0
        return Polygon(shape.points, closed=True, fc=fill, ec=edge, lw=line, alpha=shape.opacity)
    return _open_line(shape, Line2D, width)


def _open_line(shape: Line, kind: Any, width: float) -> Any:
    xs, ys = [x for x, _ in shape.points], [y for _, y in shape.points]
    style: Any = (0, tuple(part / max(shape.width, 1e-9) for part in shape.dash)) if shape.dash else "-"
    color = LIGHT[shape.stroke] if shape.stroke else "none"
    return kind(xs, ys, color=color, lw=width, ls=style, alpha=shape.opacity, solid_capstyle="butt")
