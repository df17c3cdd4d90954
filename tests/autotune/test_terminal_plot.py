"""The front as characters: every width, every terminal, every odd set of points."""

from __future__ import annotations

import pytest

from autotune.outcome import Status
from autotune.report import can_encode, plot_front
from autotune.report.front import Point
from tests.autotune._records import point
from tests.autotune.test_figures import CASES

FRONT = [point(3, 0.70, 10**8), point(12, 0.80, 2 * 10**8), point(7, 0.86, 8 * 10**8), point(4, 0.72, 7 * 10**8)]


@pytest.mark.parametrize("fine", [True, False])
@pytest.mark.parametrize("columns", [20, 40, 80, 300])
@pytest.mark.parametrize("points", CASES.values(), ids=CASES.keys())
def test_lines_fit_the_terminal(points: list[Point], columns: int, fine: bool) -> None:
    lines = plot_front([points], columns=columns, fine=fine)
    assert all(len(line) <= columns for line in lines)
    assert fine or all(line.isascii() for line in lines)


def test_marks_stand_where_their_figures_say() -> None:
    lines = plot_front([FRONT], columns=80)
    rows = {sign: [(row, line.index(sign)) for row, line in enumerate(lines) if sign in line] for sign in "●·"}
    assert [len(found) for found in rows.values()] == [3, 1]
    heights = [row for row, _ in rows["●"]]
    columns = [column for _, column in rows["●"]]
    assert heights == sorted(heights)  # from above
    assert columns == sorted(columns, reverse=True)  # better costs more
    for number, (row, column) in zip(("7", "12", "3"), rows["●"], strict=True):
        near = lines[row - 1][column - 3 : column + 1] + lines[row][column - 3 : column]
        assert number in near
    assert "validation accuracy over peak of tensor bytes (MB)" in lines[-1]


def test_plain_characters_have_the_same_marks() -> None:
    text = "\n".join(plot_front([FRONT], columns=80, fine=False)[:-1])
    assert text.count("o") == 3
    assert text.count(".") >= 1
    assert "|" in text
    assert "-" in text


def test_several_fronts_are_told_apart_by_letters() -> None:
    other = [point(0, 0.75, 10**8), point(1, 0.9, 9 * 10**8)]
    text = "\n".join(plot_front([FRONT, other], columns=80)[:-1])
    assert text.count("a") == 3
    assert text.count("b") == 2


def test_nothing_to_draw_is_no_plot() -> None:
    assert plot_front([[]], columns=80) == []
    assert plot_front([], columns=80) == []
    assert plot_front([[point(0, None, None, status=Status.FAILED)]], columns=80) == []
    assert plot_front([FRONT], columns=10) == []


@pytest.mark.parametrize(
    ("encoding", "fine"), [("utf-8", True), ("ascii", False), ("latin-1", False), ("no such", False), (None, False)]
)
def test_only_what_the_terminal_can_write(encoding: str | None, fine: bool) -> None:
    assert can_encode(encoding) is fine
