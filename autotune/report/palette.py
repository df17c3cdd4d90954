"""Colours by what they say, for light and for dark pages. They can be told apart by people who see fewer colours, and no
figure rests on colour alone: marks differ in form, lines in dashes and names, segments in their order."""

from __future__ import annotations

ACCENT, GREY, WARN, INK, MUTED, CAP = "#0b6e99", "#87919a", "#c2571a", "#20262b", "#56606a", "#a4123f"

LIGHT: dict[str, str] = {
    "paper": "#ffffff",
    "ink": INK,
    "muted": MUTED,
    "grid": "#e8ebee",
    "axis": "#b8c0c7",
    "accent": ACCENT,
    "wash": "#e8f2f7",
    "grey": GREY,
    "warn": WARN,
    "cap": CAP,
    "over": "#fbeef2",
    "rest": "#c9d0d6",
    "inside": "#ffffff",
    "inside_pale": "#20262b",
    **{f"rank{step}": color for step, color in enumerate(("#bcc7d0", "#8fb2cb", "#5c95bc", "#2c76a4", "#0b4f78"))},
    **{
        f"series{number}": color
        for number, color in enumerate(
            (
                "#0072b2",
                "#d55e00",
                "#009e73",
                "#cc79a7",
                "#b98300",
                "#56b4e9",
                "#882255",
                "#44aa99",
                "#6b6bc9",
                "#999933",
            )
        )
    },
}
DARK: dict[str, str] = {
    "paper": "#14181c",
    "ink": "#e6eaee",
    "muted": "#a3aeb8",
    "grid": "#272e35",
    "axis": "#4b5661",
    "accent": "#4db5e0",
    "wash": "#18303c",
    "grey": "#7f8a95",
    "warn": "#f08c4f",
    "cap": "#ff7a97",
    "over": "#34202a",
    "rest": "#7b8691",
    "inside": "#14181c",
    "inside_pale": "#14181c",
    **{f"rank{step}": color for step, color in enumerate(("#46525d", "#44708c", "#4a8fb8", "#63b3de", "#b0e0fb"))},
    **{
        f"series{number}": color
        for number, color in enumerate(
            (
                "#4ea3dc",
                "#f0813a",
                "#2fc09a",
                "#e39cc6",
                "#e0ab3a",
                "#8fd0f5",
                "#d0659c",
                "#7fd6c8",
                "#9d9df0",
                "#c8c85a",
            )
        )
    },
}
PALE = frozenset(
    {"series3", "series4", "series5", "series7", "series9", "rest"}
)  # light paper: dark words stand on these
SERIES = tuple(f"series{number}" for number in range(10))
RANKS = tuple(f"rank{step}" for step in range(5))
DASHES: tuple[tuple[float, ...], ...] = ((), (7, 3), (2, 2.5), (9, 3, 2, 3))


def series(index: int) -> tuple[str, tuple[float, ...]]:
    """Colour and dashes of the line of this index: forty differ."""
    return SERIES[index % len(SERIES)], DASHES[index // len(SERIES) % len(DASHES)]
