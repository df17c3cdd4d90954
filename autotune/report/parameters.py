"""Which parameters matter, and how they go together: importance by a forest of trees, and parallel coordinates."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from autotune.outcome import TrialRecord
from autotune.report.axes import numbers, wide_range
from autotune.report.figures import Chart, nothing
from autotune.report.front import Point
from autotune.report.importance import LEAST_TRIALS, Importance, importance_of
from autotune.report.lettering import clean, fit, width
from autotune.report.palette import RANKS
from autotune.report.reach import far_below_points
from autotune.report.scene import Line, Mark, Scene, Shape, Words, box, hint_lines
from autotune.units import format_bytes

PARALLEL, IMPORTANCE = "parallel", "importance"
MOST_AXES = 10


@dataclass(frozen=True)
class Axis:
    """One upright axis: places of values from 0 (below) to 1, ticks, and what to say of a value. None has no place."""

    name: str
    place: Callable[[Any], float]
    ticks: list[tuple[float, str]]
    absent: bool = False


def varied(params: Sequence[Mapping[str, Any]]) -> list[str]:
    """Parameters that more than one value was tried of, or that only some trials have; in the order of the space."""
    names = list(dict.fromkeys(name for one in params for name in one))
    return [name for name in names if len({_key(one.get(name, _ABSENT)) for one in params}) > 1]


def joined(records: Sequence[TrialRecord]) -> list[dict[str, Any]]:
    """Each trial's parameters, those of one name that belong to different methods (``lora.learning_rate`` and
    ``full.learning_rate``) under that name alone where no trial has two of them: they are one thing that varied."""
    sharing: dict[str, set[str]] = {}
    for record in records:
        for name in record.candidate.params:
            sharing.setdefault(name.rpartition(".")[2], set()).add(name)
    together = {
        name
        for last, names in sharing.items()
        if len(names) > 1 and all(sum(name in record.candidate.params for name in names) < 2 for record in records)
        for name in names
    }
    return [
        {
            name.rpartition(".")[2] if name in together else name: value
            for name, value in record.candidate.params.items()
        }
        for record in records
    ]


_ABSENT = object()


def _key(value: object) -> str:
    return "absent" if value is _ABSENT else f"{type(value).__name__} {value!r}"


def axis_of(name: str, values: Sequence[Any], *, absent: bool, limit: float = -math.inf) -> Axis:
    """An axis for what was tried of a parameter: by size where all are numbers, else a place for each value.

    absent: some trials do not have the parameter; their place is below the axis' begin. limit: numbers under it are far off, and
    all of them have the place at the begin.
    """
    floor = 0.12 if absent else 0.0
    if values and all(_is_number(value) for value in values):
        kept = [value for value in values if value >= limit] or list(values)  # where all are far off, none is
        far = len(kept) < len(values)
        low, high = float(min(kept)), float(max(kept))
        log = wide_range(kept)
        floor = 0.12 if far else floor

        def share(value: float) -> float:
            if low == high:
                return 0.5
            if log:
                return (math.log(value) - math.log(low)) / (math.log(high) - math.log(low))
            return (value - low) / (high - low)

        def place(value: float) -> float:
            return 0.0 if far and value < limit else floor + (1 - floor) * share(value)

        distinct = sorted(set(kept))
        apart = all(share(above) - share(below) > 0.07 for below, above in pairwise(distinct))
        shown = (
            distinct
            if len(distinct) <= 6 and apart
            else [low, math.sqrt(low) * math.sqrt(high) if log else (low + high) / 2, high]
        )
        words = numbers([float(f"{value:.3g}") for value in shown], log=True) if log else numbers(shown, within=0.002)
        ticks = [(0.0, "far below")] if far else []
        ticks += [(place(value), word) for value, word in zip(shown, words, strict=True)]
        return Axis(name, place, ticks, absent)
    named = list(dict.fromkeys(clean(value) for value in values))
    step = (1 - floor) / max(1, len(named) - 1)
    places = {word: (floor + index * step if len(named) > 1 else (1 + floor) / 2) for index, word in enumerate(named)}
    ticks = [(height, word) for word, height in places.items()]
    ticks = ticks if len(ticks) <= 14 else ticks[:: math.ceil(len(ticks) / 14)]
    return Axis(name, lambda value: places[clean(value)], ticks, absent)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def importances(records: Sequence[TrialRecord], points: Sequence[Point]) -> tuple[Importance | None, Importance | None]:
    """Of the metric and of the memory; None where too few complete trials or no difference let it be told."""
    able = {point.number: point for point in points if point.may_stand_on_front}
    rows = [record for record in records if record.number in able]
    params = joined(rows)
    metrics = [able[record.number].ranked_metric for record in rows]
    memories = [math.log(max(1.0, able[record.number].ranked_memory)) for record in rows]
    return importance_of(params, metrics), importance_of(params, memories)


def importance_chart(points: Sequence[Point], found: tuple[Importance | None, Importance | None]) -> Chart:
    """Two sets of bars: what of the metric's and of the memory's differences is lost when a parameter is shuffled."""
    title = "Parameter importance"
    caption = (
        "How much worse a forest of trees predicts trials it has not seen when one parameter's values are shuffled among "
        "them, each as a part of what all lose. Thin lines are the standard deviation over shuffles; parameters that depend on "
        "each other share their importance."
    )
    metric = clean(next((point.metric_name for point in points), "metric"))
    able = sum(point.may_stand_on_front for point in points)
    if able < LEAST_TRIALS:
        why = f"Too few trials: {able} complete, {LEAST_TRIALS} are needed before importance says anything."
        return nothing(IMPORTANCE, title, caption, why)
    if not any(one and one.shares for one in found):
        return nothing(IMPORTANCE, title, caption, "No parameter varied, or all trials have the same figures.")
    rows = max(len(one.shares) if one else 0 for one in found)
    rows = min(rows, 12)
    scene = Scene(1000, 150 + 30 * rows, title)
    scene.add(Words(x=28, y=34, text=title, size=17, bold=True))
    for one, what, left in (
        (found[0], f"for validation {metric}", 28.0),
        (found[1], "for peak of tensor bytes", 520.0),
    ):
        scene.add(Words(x=left, y=68, text=fit(what, 300, 13), size=13, bold=True))
        if one is None or one.explained <= 0:
            reason = (
                "All trials have the same value."
                if one is None
                else "The forest predicts unseen trials no better than their mean:"
            )
            scene.add(Words(x=left, y=98, text=reason, size=12, role="muted"))
            if one is not None:
                words = f"these {able} trials do not tell which parameter matters."
                scene.add(Words(x=left, y=116, text=words, size=12, role="muted"))
            continue
        words = f"{one.explained:.0%} of the variance of unseen trials is explained"
        scene.add(Words(x=left, y=87, text=words, size=11.5, role="muted"))
        _bars(scene, one, left, rows)
    return Chart(name=IMPORTANCE, title=title, caption=caption, scene=scene)


def _bars(scene: Scene, one: Importance, left: float, rows: int) -> None:
    begin, end = left + 170, left + 405
    most = max([0.01, *(share + spread for share, spread in one.shares.values())])
    for row, (name, (share, spread)) in enumerate(list(one.shares.items())[:rows]):
        y = 112 + 30 * row
        right = begin + (end - begin) * max(0.0, share) / most
        shapes: list[Shape] = [box(begin, y, max(right, begin + 1), y + 18, fill="accent")]
        low, high = (begin + (end - begin) * max(0.0, share + sign * spread) / most for sign in (-1, 1))
        if high > low:
            shapes.append(Line(points=((low, y + 9), (high, y + 9)), stroke="ink", width=1.4))
        words = f"{max(0.0, share):.0%}"
        shapes += [
            Words(x=begin - 8, y=y + 13, text=fit(name, 160, 11.5), size=11.5, anchor="end"),
            Words(x=max(right, high) + 7, y=y + 13, text=words, size=11, role="muted"),
        ]
        said = hint_lines(clean(name)[:200], f"{share:.1%} ± {spread:.1%} of what shuffling loses")
        scene.add(Mark(shapes=tuple(shapes), kind="importance", hint=said, x=share))


def parallel_chart(
    records: Sequence[TrialRecord], points: Sequence[Point], found: tuple[Importance | None, Importance | None]
) -> Chart:
    """A line for each trial with a finite metric through its parameters, its memory and its metric."""
    title = "Parallel coordinates"
    by_number = {p.number: p for p in points if p.metric is not None and math.isfinite(p.metric) and p.memory}
    rows = [record for record in records if record.number in by_number]
    caption = (
        "A line for each trial through its parameters to its memory and its metric: the stronger in colour and the thicker, the "
        "better the metric; those of the front are drawn last and full. A – below an axis: the trial does not have that parameter. "
        "Parameters of one name of different methods share an axis; a metric that is far below the others stands at the axis' begin."
    )
    if not rows:
        return nothing(PARALLEL, title, caption, "No trial has a finite metric and a measured peak yet.")
    params = joined(rows)
    names, left_out = _chosen(varied(params), found)
    metric = by_number[rows[0].number].metric_name
    axes = [
        axis_of(
            name,
            [one[name] for one in params if name in one],
            absent=any(name not in one for one in params),
        )
        for name in names
    ]
    axes.append(axis_of("tensors (MB)", [(by_number[r.number].memory or 0) / 1e6 for r in rows], absent=False))
    metrics = [by_number[r.number].ranked_metric for r in rows]
    axes.append(axis_of(f"validation {clean(metric)}", metrics, absent=False, limit=far_below_points(points)))
    scene = Scene(max(760.0, 150.0 * len(axes) + 60), 560, title)
    scene.add(Words(x=28, y=34, text=title, size=17, bold=True))
    step = (scene.width - 160) / (len(axes) - 1)
    xs = [70 + step * index for index in range(len(axes))]
    given = {record.number: one for record, one in zip(rows, params, strict=True)}
    order = sorted(rows, key=lambda row: (by_number[row.number].on_front, by_number[row.number].ranked_metric))
    ranks = {p.number: i for i, p in enumerate(sorted(by_number.values(), key=lambda p: p.ranked_metric))}
    for record in order:
        point = by_number[record.number]
        values = [given[record.number].get(name, _ABSENT) for name in names]
        values += [(point.memory or 0) / 1e6, point.ranked_metric]
        heights = [axis.place(v) if v is not _ABSENT else None for axis, v in zip(axes, values, strict=True)]
        rank = ranks[point.number] / max(1, len(ranks) - 1) if len(ranks) > 1 else 1.0
        scene.add(_line(point, record, list(zip(xs, map(_y, heights), strict=True)), rank))
    for x, axis in zip(xs, axes, strict=True):
        _upright(scene, x, axis, step)
    more = (
        f" {left_out} more parameters varied; the figure shows the {len(names)} that matter most or that most trials have."
        if left_out
        else ""
    )
    return Chart(name=PARALLEL, title=title, caption=caption + more, scene=scene)


def _chosen(names: list[str], found: tuple[Importance | None, Importance | None]) -> tuple[list[str], int]:
    """At most :data:`MOST_AXES` of the names, in their order: the most important ones where that is known."""
    if len(names) <= MOST_AXES:
        return names, 0
    weight = dict.fromkeys(names, 0.0)
    for one in found:
        if one is not None:
            for name, (share, _) in one.shares.items():
                weight[name] = max(weight.get(name, 0.0), share)
    kept = set(sorted(names, key=lambda name: -weight[name])[:MOST_AXES])
    return [name for name in names if name in kept], len(names) - MOST_AXES


_TOP, _BOTTOM = 108.0, 500.0


def _y(height: float | None) -> float:
    return _BOTTOM + 18 if height is None else _BOTTOM - height * (_BOTTOM - _TOP)


def _line(point: Point, record: TrialRecord, places: Sequence[tuple[float, float]], rank: float) -> Mark:
    role = RANKS[min(len(RANKS) - 1, int(rank * len(RANKS)))]
    params: Mapping[str, Any] = record.candidate.params
    said = hint_lines(
        f"#{point.number} {clean(point.label)[:200]}",
        f"validation {clean(point.metric_name)}: {point.ranked_metric:.4f}",
        f"peak of tensor bytes: {format_bytes(point.memory or 0)}",
        *(f"{clean(name)}: {clean(params[name])[:60]}" for name in list(params)[:24]),
    )
    line = Line(
        points=tuple(places), stroke=role, width=1.1 + 1.6 * rank, opacity=1.0 if point.on_front else 0.35 + 0.35 * rank
    )
    return Mark(
        shapes=(line,), kind="parallel front" if point.on_front else "parallel", hint=said, number=point.number,
        y=point.metric,
    )  # fmt: skip


def _upright(scene: Scene, x: float, axis: Axis, step: float) -> None:
    scene.add(Line(points=((x, _TOP), (x, _BOTTOM)), stroke="muted", width=1.4))
    name = axis.name.split(".")  # a parameter of a method has the method's name before it
    first, second = (".".join(name[:-1]), name[-1]) if len(name) > 1 else ("", axis.name)
    scene.add(Words(x=x, y=72, text=fit(first, step - 10, 10.5), size=10.5, role="muted", anchor="middle"))
    scene.add(Words(x=x, y=88, text=fit(second, step - 10, 11.5, bold=True), size=11.5, bold=True, anchor="middle"))
    for place, words in axis.ticks:
        y = _y(place)
        scene.add(Line(points=((x - 4, y), (x + 4, y)), stroke="muted", width=1.2))
        text = fit(words, step - 22, 10.5)
        scene.add(box(x + 5, y - 7, x + 9 + width(text, 10.5), y + 7, fill="paper", opacity=0.8))
        scene.add(Words(x=x + 7, y=y + 4, text=text, size=10.5))
    if axis.absent:
        scene.add(Words(x=x, y=_BOTTOM + 34, text="–", size=14, role="muted", anchor="middle"))
