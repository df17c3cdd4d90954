"""A scene as SVG: by classes in a page, whose colours follow light and dark, or with its colours in it as a file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape

from autotune.report.lettering import clean
from autotune.report.palette import LIGHT
from autotune.report.scene import Circle, Mark, Scene, Shape, Words

FONT = "'DejaVu Sans', Verdana, 'Segoe UI', sans-serif"


def to_svg(scene: Scene, palette: Mapping[str, str] | None = None) -> str:
    """The element; with ``palette`` a file of its own on paper of that colour, else colours are classes of the page."""
    body = "".join(_item(item, palette) for item in scene.items)
    size = f'viewBox="0 0 {_n(scene.width)} {_n(scene.height)}"'
    title = f"<title>{_text(scene.title)}</title>"
    if palette is None:
        return f'<svg {size} role="img" aria-label="{_text(scene.title)}">{body}</svg>'
    paper = f'<rect width="{_n(scene.width)}" height="{_n(scene.height)}" fill="{palette["paper"]}"/>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} width="{_n(scene.width)}" height="{_n(scene.height)}" '
        f'font-family="{escape(FONT)}">{title}{paper}{body}</svg>\n'
    )


def svg_file(scene: Scene) -> str:
    """The scene as the text of a file, in light colours."""
    return to_svg(scene, LIGHT)


def _item(item: Shape | Mark, palette: Mapping[str, str] | None) -> str:
    if not isinstance(item, Mark):
        return _shape(item, palette)
    inside = "".join(_shape(shape, palette) for shape in item.shapes)
    number = "" if item.number is None else f' data-trial="{item.number}"'
    hint = f"<title>{chr(10).join(_text(line) for line in item.hint.splitlines())}</title>" if item.hint else ""
    return f'<g class="mark {escape(item.kind)}"{number}>{hint}{inside}</g>'


def _shape(shape: Shape, palette: Mapping[str, str] | None) -> str:
    if isinstance(shape, Words):
        turned = f' transform="rotate({_n(-shape.turn)} {_n(shape.x)} {_n(shape.y)})"' if shape.turn else ""
        anchor = "" if shape.anchor == "start" else f' text-anchor="{shape.anchor}"'
        bold = ' font-weight="bold"' if shape.bold else ""
        paint = _paint(shape.role, None, palette)
        place = f'x="{_n(shape.x)}" y="{_n(shape.y)}" font-size="{_n(shape.size)}"'
        return f"<text {place}{anchor}{bold}{turned}{paint}>{_text(shape.text)}</text>"
    line = "" if shape.stroke is None else f' stroke-width="{_n(shape.width)}"'
    line += "" if shape.opacity >= 1 else f' opacity="{_n(shape.opacity)}"'
    paint = _paint(shape.fill, shape.stroke, palette)
    if isinstance(shape, Circle):
        return f'<circle cx="{_n(shape.x)}" cy="{_n(shape.y)}" r="{_n(shape.radius)}"{line}{paint}/>'
    dash = f' stroke-dasharray="{" ".join(map(_n, shape.dash))}"' if shape.dash else ""
    return f'<path d="{_path(shape.points)}"{line}{dash}{paint}/>'


def _path(points: Iterable[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{_n(x)} {_n(y)}" for x, y in points)


def _paint(fill: str | None, stroke: str | None, palette: Mapping[str, str] | None) -> str:
    if palette is None:
        classes = f"f-{fill or 'none'}" + (f" s-{stroke}" if stroke else "")
        return f' class="{classes}"'
    return f' fill="{palette[fill] if fill else "none"}"' + (f' stroke="{palette[stroke]}"' if stroke else "")


def _n(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _text(text: str) -> str:
    return escape(clean(text))


def page_colors(palette: Mapping[str, str]) -> str:
    """The palette as a style sheet's variables."""
    return "".join(f"--{role}:{color};" for role, color in palette.items())


def paint_classes() -> str:
    """A rule for each colour of a fill and of a stroke."""
    rules = [f".f-{role}{{fill:var(--{role})}}.s-{role}{{stroke:var(--{role})}}" for role in LIGHT]
    return "".join([*rules, ".f-none{fill:none}"])


__all__ = ["page_colors", "paint_classes", "svg_file", "to_svg"]
