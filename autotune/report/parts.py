"""Where the memory of the front's members goes: stacked bars of tensor bytes, and of the device up to the cap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autotune.outcome import TrialRecord
from autotune.report.axes import Panel, Scale, number
from autotune.report.figures import Chart, MemoryUnit, cap_of, nothing
from autotune.report.front import Point, pareto_front
from autotune.report.legend import Entry, draw_legend
from autotune.report.lettering import clean, fit, width
from autotune.report.palette import PALE, SERIES
from autotune.report.scene import Line, Mark, Scene, Shape, Words, box, hint_lines
from autotune.units import format_bytes

NAME, TITLE = "memory_parts", "Where the memory goes"
MOST_BARS = 16
TENSORS, CACHED, OUTSIDE = "tensors", "cached by the allocator", "outside tensors"
# what the meter of a GPU tells instead of what tensors are for
_OF_A_GPU = {"allocator", "outside it"}


@dataclass(frozen=True)
class Bar:
    """One member of the front: bytes by part of its tensors (empty: not known), and of the device."""

    point: Point
    tensors: dict[str, int]
    device: dict[str, int]


def bars(records: Sequence[TrialRecord], points: Sequence[Point]) -> list[Bar]:
    """The front's members with a known peak, from least to most memory."""
    by_number = {record.number: record for record in records}
    found = []
    for point in pareto_front(points):
        outcome = by_number[point.number].outcome
        if outcome is None or outcome.peak is None:
            continue
        peak, told = outcome.peak, outcome.details.get("peak_parts")
        parts = {clean(name): int(count) for name, count in _items(told) if count > 0}
        of_device = {TENSORS: peak.allocated}
        if peak.reserved is not None and peak.reserved > peak.allocated:
            of_device[CACHED] = peak.reserved - peak.allocated
        rest = peak.device - max(peak.allocated, peak.reserved or 0)
        if rest > 0:
            of_device[OUTSIDE] = rest
        found.append(Bar(point, {} if _OF_A_GPU & set(parts) else parts, of_device))
    return found


def _names(records: Sequence[TrialRecord], shown: Sequence[Bar]) -> list[str]:
    """The parts that some bar has, in the order in which they were recorded."""
    there = {name for bar in shown for name in bar.tensors}
    told = [record.outcome.details.get("peak_parts") for record in records if record.outcome]
    return [name for name in dict.fromkeys(clean(name) for parts in told for name, _ in _items(parts)) if name in there]


def _items(told: object) -> list[tuple[str, int]]:
    if not isinstance(told, Mapping):
        return []
    return [(str(name), count) for name, count in told.items() if isinstance(count, int)]


def parts_chart(records: Sequence[TrialRecord], points: Sequence[Point], settings: Mapping[str, Any]) -> Chart:
    """A bar for each member of the front: on the left what its tensors are for, on the right all that it holds."""
    found = bars(records, points)
    caption = (
        "A bar for each member of the front at its peak. Left: what its tensors are for, in the legend's order. Right: the "
        "device, of which tensors are a part; what is outside them is libraries, the context and what allocators hold back. "
        "The cap compares the whole bar on the right."
    )
    if not found:
        return nothing(NAME, TITLE, caption, "The front has no member with a measured peak yet.")
    shown = (
        found
        if len(found) <= MOST_BARS
        else [found[round(i * (len(found) - 1) / (MOST_BARS - 1))] for i in range(MOST_BARS)]
    )
    detailed = any(bar.tensors for bar in shown)
    height = 38.0 if len(shown) <= 8 else 27.0
    scene = Scene(1120, 158 + height * len(shown) + 92, TITLE)
    scene.add(Words(x=28, y=34, text=TITLE, size=17, bold=True))
    names = _names(records, shown)
    colors = {name: SERIES[index % len(SERIES)] for index, name in enumerate(names)}
    colors |= {TENSORS: "accent", CACHED: "series5", OUTSIDE: "rest"}
    fewer = "" if detailed else " On a GPU only the allocator is asked, so what tensors are for is not known."
    fewer += (
        f" {len(shown)} of {len(found)} members are shown, from the least to the most memory."
        if len(shown) < len(found)
        else ""
    )
    top, bottom = 84.0, 84.0 + height * len(shown)
    if detailed:
        ends = (265.0, 655.0)
        _stack(
            scene, shown, [bar.tensors for bar in shown], colors, ends, (top, bottom), "tensor bytes at the peak", None
        )
    ends = (700.0, 1080.0) if detailed else (265.0, 1080.0)
    cap = cap_of(settings)
    _stack(scene, shown, [bar.device for bar in shown], colors, ends, (top, bottom), "device at the peak", cap)
    for row, bar in enumerate(shown):
        y = top + height * (row + 0.5) + 4
        name = f"#{bar.point.number}"
        scene.add(Words(x=28, y=y, text=name, size=11.5, role="accent", bold=True))
        begin = 28 + width(name, 11.5, bold=True) + 7
        scene.add(Words(x=begin, y=y, text=fit(bar.point.label, 257 - begin, 11), size=11))
    shares = {name for bar in shown for name in bar.device}
    legend = [
        Entry("box", colors[name], name) for name in [*names, *(n for n in (TENSORS, CACHED, OUTSIDE) if n in shares)]
    ]
    scene.height = draw_legend(scene, legend, left=28, right=1090, y=bottom + 78) + 22
    return Chart(name=NAME, title=TITLE, caption=caption + fewer, scene=scene)


def _stack(
    scene: Scene,
    shown: Sequence[Bar],
    parts: Sequence[Mapping[str, int]],
    colors: Mapping[str, str],
    ends: tuple[float, float],
    rows: tuple[float, float],
    label: str,
    cap: int | None,
) -> None:
    most = max(sum(part.values()) for part in parts)
    near = cap is not None and cap <= 4 * most
    unit = MemoryUnit.of([most, cap if near else None])
    limit = max(most, cap if near and cap else 0) or 1
    x = Scale(low=0.0, high=unit.of_bytes(limit) * 1.13, begin=ends[0], end=ends[1])
    panel = Panel(x=x, y=Scale(low=0.0, high=1.0, begin=rows[1], end=rows[0]))
    far = "" if near or cap is None else f"; cap {format_bytes(cap).split(' (')[0]}, off the right end"
    panel.frame(scene, x_label=f"{label} ({unit.name}){far}", y_ticks=[])
    high = (rows[1] - rows[0]) / len(shown)
    for row, (bar, part) in enumerate(zip(shown, parts, strict=True)):
        begin, top, bottom = 0, rows[0] + high * (row + 0.16), rows[0] + high * (row + 0.84)
        for name, count in part.items():
            left, right = x.at(unit.of_bytes(begin)), x.at(unit.of_bytes(begin + count))
            begin += count
            share = count / (sum(part.values()) or 1)
            said = hint_lines(
                f"#{bar.point.number} {clean(bar.point.label)[:200]}",
                f"{name}: {format_bytes(count)}, {share:.0%} of {label}",
            )
            gap = 1.0 if right - left > 3 else 0.0
            shapes: list[Shape] = [box(left, top, right - gap, bottom, fill=colors[name])]
            if width(name, 10) + 8 < right - left:
                role = "inside_pale" if colors[name] in PALE else "inside"
                middle = (left + right) / 2
                shapes.append(
                    Words(x=middle, y=(top + bottom) / 2 + 3.5, text=name, size=10, role=role, anchor="middle")
                )
            kind = f"part {'device' if 'device' in label else 'tensors'}"
            scene.add(Mark(shapes=tuple(shapes), kind=kind, hint=said, number=bar.point.number, x=unit.of_bytes(count)))
        if part:
            total = f"{number(float(f'{unit.of_bytes(begin):.3g}'))} {unit.name}"
            end = x.at(unit.of_bytes(begin)) + 6
            scene.add(Words(x=end, y=(top + bottom) / 2 + 3.5, text=total, size=10, role="muted"))
    if near and cap:
        at = x.at(unit.of_bytes(cap))
        line = Line(points=((at, rows[0] - 4), (at, rows[1])), stroke="cap", width=2, dash=(7, 4))
        words = Words(x=at, y=rows[0] - 8, text=f"cap {format_bytes(cap).split(' (')[0]}", size=11, role="cap", anchor="middle", bold=True)  # fmt: skip
        scene.add(Mark(shapes=(line, words), kind="cap", hint=f"memory cap {format_bytes(cap)}", x=unit.of_bytes(cap)))
