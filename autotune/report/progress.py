"""How the front grew: the area that it covers after each trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from autotune.report.axes import Panel, number, scale
from autotune.report.figures import Chart, nothing
from autotune.report.front import Point, hypervolume, pareto_front
from autotune.report.lettering import clean, wrap
from autotune.report.reach import reference_point, reference_words
from autotune.report.scene import Line, Mark, Scene, Words, glyph, hint_lines
from autotune.units import format_duration

NAME, TITLE = "hypervolume", "The front over time"


def growth(
    points: Sequence[Point], reference: tuple[float, float], ended: Mapping[int, float]
) -> list[tuple[float, float, Point]]:
    """(when, hypervolume so far, the trial that ended) in the order of the ends, which are seconds or else numbers."""
    known = all(point.number in ended for point in points)
    order = sorted(points, key=lambda point: (ended[point.number] if known else point.number, point.number))
    rows: list[tuple[float, float, Point]] = []
    seen: list[Point] = []
    for point in order:
        seen = pareto_front([*seen, point])  # what is beaten covers nothing
        at = ended[point.number] if known else float(point.number + 1)
        rows.append((at, hypervolume(seen, reference), point))
    return rows


def hypervolume_chart(points: Sequence[Point], ended: Mapping[int, float]) -> Chart:
    """The hypervolume after each trial, as a share of what it is in the end.

    ended: seconds from the study's begin to each trial's end, in which breaks do not count; where one is not known, trials are counted instead.
    """
    reference = reference_point([points])
    caption = "The area under the front after each trial, as a share of what it is in the end; a flat end says that more trials add little."
    if reference is None:
        return nothing(NAME, TITLE, caption, "No trial is complete with a finite metric and a measured peak.")
    rows = growth(points, reference, ended)
    final = rows[-1][1]
    if final <= 0:
        why = "Every complete trial that is not far off has the same metric: a front of one height covers no area above it."
        return nothing(NAME, TITLE, caption, why)
    seconds = all(point.number in ended for point in points)
    unit, per = _time_unit(rows[-1][0]) if seconds else ("trials that ended", 1.0)
    values = [(at / per, area / final, point) for at, area, point in rows]
    scene = Scene(1000, 480, TITLE)
    panel = Panel(
        x=scale([0.0, *(at for at, _, _ in values)], 82, 965, room=0.02), y=scale([0.0, 1.0], 400, 84, room=0.05)
    )
    stated = f"Reference point: {reference_words(clean(points[0].metric_name), reference)}."
    scene.add(Words(x=28, y=34, text=TITLE, size=17, bold=True))
    for row, words in enumerate(wrap(stated, 940, 12, lines=2)):
        scene.add(Words(x=28, y=54 + 17 * row, text=words, size=12, role="muted"))
    x_label = f"time since the study began, without breaks ({unit})" if seconds else unit
    x_ticks = None if seconds else [(tick, number(tick)) for tick in panel.x.ticks(10) if tick == int(tick)]
    shares = [(step / 4, f"{25 * step} %") for step in range(5)]
    panel.frame(scene, x_label=x_label, y_label="share of the final hypervolume", x_ticks=x_ticks, y_ticks=shares)
    corners = [panel.place(0.0, 0.0)]
    for at, share, _ in values:
        corners += [(panel.x.at(at), corners[-1][1]), panel.place(at, share)]
    scene.add(Line(points=tuple(corners), stroke="accent", width=2.2))
    before = 0.0
    for at, share, point in values:
        x, y = panel.place(at, share)
        grew = share > before
        when = f"after {format_duration(at * per)}" if seconds else f"trial {point.number} ended"
        said = hint_lines(
            f"#{point.number} {clean(point.label)[:200]}", when, f"{share:.1%} of the final hypervolume",
            f"hypervolume {share * final:.4g} {clean(point.metric_name)} x bytes",
        )  # fmt: skip
        shapes = glyph(
            "circle", x, y, 4.6 if grew else 2.8, "accent" if grew else "grey", rim="paper" if grew else None
        )
        scene.add(Mark(shapes=shapes, kind="grew" if grew else "same", hint=said, number=point.number, x=at, y=share))
        before = share
    return Chart(name=NAME, title=TITLE, caption=f"{caption} {stated}", scene=scene)


def _time_unit(longest: float) -> tuple[str, float]:
    for name, seconds in (("hours", 3600.0), ("minutes", 60.0)):
        if longest >= 2 * seconds:
            return name, seconds
    return "seconds", 1.0
