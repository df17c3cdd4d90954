"""The picture of ``real_methods.py --draw``: four panels, the counterparts of the SHERL paper's figures 4 to 7 on MiniLM."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from real_figures import BACKBONE, FIGURES, LIVE_SEEDS, STANDARD, Bar
from real_record import RealRecord

from autotune.report.palette import ACCENT, GREY, INK, MUTED, WARN

TITLES = {
    4: "How early hidden states are aggregated (fig. 4)",
    5: "What trains in the last block (fig. 5)",
    6: "Where fused states come in (fig. 6)",
    7: "Accuracy and memory, by reduction factor (fig. 7)",
}
LINES = {
    "SHERL": (ACCENT, "o"),
    "LST": (WARN, "s"),
    "UniPT": ("#6b4c9a", "^"),
    "Adapter": (INK, "D"),
    "LoRA": (GREY, "v"),
}
LINES |= {"single": (WARN, "s"), "multi": (ACCENT, "o")}
"""Colour and marker."""
LEAST = 2
"""Settings that a panel compares at least: the standard one alone stands in all four."""


class Scored(NamedTuple):
    """bar: what was run. mean, deviation: of test accuracy over seeds, per cent; megabytes: peak of tensors."""

    bar: Bar
    mean: float
    deviation: float
    megabytes: float


def scored(record: RealRecord, bars: Sequence[Bar]) -> list[Scored]:
    """Those whose every seed has run, and at least one of them to its end."""
    found = []
    for bar in bars:
        rows = record.scored(BACKBONE, bar.method)
        tests = [100 * row["test"] for row in rows if row["status"] == "complete"]
        if tests and len(rows) == len(bar.method.seeds):
            deviation = statistics.stdev(tests) if len(tests) > 1 else 0.0
            peak = next(row["tensors"] for row in rows if row["status"] == "complete")
            found.append(Scored(bar, statistics.mean(tests), deviation, peak / 1e6))
    return found


def told(record: RealRecord) -> list[str]:
    """Sentences on what is left out, as it has no results yet; none where all is there."""
    sentences = []
    for number, bars in sorted(FIGURES.items()):
        there = [one.bar for one in scored(record, bars)]
        missing = [" ".join(filter(None, (bar.line, bar.label))) for bar in bars if bar not in there]
        if len(there) < LEAST:
            have = f"of its {len(bars)} settings {len(there) or 'none'} has all its seeds"
            sentences.append(f"Fig. {number} is left out: {have}.")
        elif missing:
            sentences.append(f"Fig. {number} lacks {', '.join(missing)}.")
    return sentences


def draw(record: RealRecord, paths: Sequence[Path]) -> list[str]:
    """Draw what there is and write it to every path, whose ending gives the format; nothing where there are no results.

    Gives back what was left out, in words.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = [(number, found) for number in sorted(FIGURES) if len(found := scored(record, FIGURES[number])) >= LEAST]
    left_out = told(record)
    if not panels:
        return left_out
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    with mpl.rc_context({"text.parse_math": False, "svg.hashsalt": "autotune", "font.family": "DejaVu Sans"}):
        figure = Figure(figsize=(6.0 * columns, 4.1 * lines + 1.3), dpi=140, facecolor="white")
        FigureCanvasAgg(figure)
        high = figure.get_figheight()
        figure.subplots_adjust(
            left=0.62 / (6.0 * columns),
            right=1 - 0.25 / (6.0 * columns),
            bottom=0.62 / high,
            top=1 - 1.3 / high,
            hspace=0.36,
            wspace=0.16,
        )
        _words(figure, left_out)
        for at, (number, found) in enumerate(panels):
            axes = figure.add_subplot(lines, columns, at + 1)
            _frame(axes, TITLES[number])
            (_bars if number in (4, 5) else _positions if number == 6 else _trade_off)(axes, found)
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    return left_out


def _words(figure: Any, left_out: Sequence[str]) -> None:
    high, wide = figure.get_figheight(), figure.get_figwidth()
    head = "SHERL on MiniLM, movie reviews"
    under = (
        f"Test accuracy, mean and deviation of seeds {', '.join(map(str, STANDARD.seeds))}; learning rate by validation. "
        f"Fig. 7's LoRA and Adapter: rate of the main table, seeds {' and '.join(map(str, LIVE_SEEDS))}, "
        "where a setting is not the main table's. " + " ".join(left_out)
    )
    figure.text(0.15 / wide, 1 - 0.32 / high, head, fontsize=14, fontweight="bold", color=INK)
    shown = "\n".join(textwrap.wrap(under, int(wide * 15.5))[:3])
    figure.text(0.15 / wide, 1 - 0.44 / high, shown, fontsize=8.2, color=MUTED, va="top", linespacing=1.35)


def _frame(axes: Any, title: str) -> None:
    axes.set_title(title, fontsize=10.5, color=INK, loc="left")
    axes.set_ylabel("test accuracy, %", color=INK, fontsize=9)
    axes.grid(True, axis="y", color="#e8ebee", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#b8c0c7")
    axes.tick_params(colors=MUTED, labelsize=8.5)


def _bars(axes: Any, found: Sequence[Scored]) -> None:
    """Points, not bars from zero: differences are small, and a bar cut off at its foot would lie about them."""
    for x, one in enumerate(found):
        colour = ACCENT if one.bar.method == STANDARD else GREY
        _point(axes, x, one, colour, "o")
        axes.annotate(
            f"{one.mean:.1f}",
            (x, one.mean),
            xytext=(8, 0),
            textcoords="offset points",
            fontsize=8,
            color=INK,
            va="center",
        )
    axes.set_xticks(range(len(found)), [_in_lines(one) for one in found])
    axes.set_xlim(-0.5, len(found) - 0.3)


def _in_lines(one: Scored) -> str:
    return f"{one.bar.label.replace(' ', chr(10), 1)}\n{one.megabytes:.0f} MB"


def _positions(axes: Any, found: Sequence[Scored]) -> None:
    starts = [int(one.bar.label) for one in found]
    for line in dict.fromkeys(one.bar.line for one in found):
        own = [one for one in found if one.bar.line == line]
        shift = 0.05 if line == "multi" else -0.05  # so that error bars stay apart
        xs = [-int(one.bar.label) + shift for one in own]
        _line(axes, xs, own, line, f"{line} insertion")
    ticks = sorted({-start for start in starts})
    axes.set_xticks(ticks, [f"-{tick}" for tick in ticks])
    axes.set_xlabel("block in front of which insertion starts", fontsize=9, color=INK)
    axes.legend(fontsize=8, frameon=False, labelcolor=INK)


def _trade_off(axes: Any, found: Sequence[Scored]) -> None:
    for line in dict.fromkeys(one.bar.line for one in found):
        own = sorted((one for one in found if one.bar.line == line), key=lambda one: one.megabytes)
        xs = [one.megabytes for one in own]
        _line(axes, xs, own, line, line)
        for x, one in zip(xs, own, strict=True):
            axes.annotate(
                one.bar.label,
                (x, one.mean),
                xytext=(4, 5),
                textcoords="offset points",
                fontsize=7,
                color=LINES[line][0],
            )
    axes.set_xlabel("peak of tensors, MB; numbers: reduction factor, width or rank", fontsize=9, color=INK)
    axes.legend(fontsize=8, frameon=False, labelcolor=INK)


def _line(axes: Any, xs: Sequence[float], own: Sequence[Scored], line: str, label: str) -> None:
    colour, marker = LINES[line]
    axes.plot(xs, [one.mean for one in own], color=colour, lw=1.6, marker=marker, ms=5, label=label, zorder=3)
    for x, one in zip(xs, own, strict=True):
        axes.errorbar(x, one.mean, yerr=one.deviation, color=colour, lw=1, capsize=2.5, alpha=0.7, zorder=2)


def _point(axes: Any, x: float, one: Scored, colour: str, marker: str) -> None:
    axes.errorbar(
        x, one.mean, yerr=one.deviation, color=colour, marker=marker, ms=8, lw=1.4, capsize=4, mec="white", zorder=3
    )
