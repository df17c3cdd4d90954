"""The text of a study's page: what it says, that it stays within MLflow's limits, and that names stay names."""

from __future__ import annotations

import base64
import html
import re
import struct
import xml.etree.ElementTree as ElementTree
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.report import front_table, points_from, select
from autotune.tracking.page import LONGEST_NOTE, Addresses, Figure, description, plain, scalable, title_of
from tests.autotune._records import trial

HERE = Addresses(experiment_id="1", run_id="ab" * 16, view="autotune-1")
FRONT = Figure(title="The front", image="get-artifact?path=page/front.svg", larger="#/x/front.html")


def png(width: int, height: int) -> bytes:
    """A white picture, by the format's description."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = (b"\x00" + b"\xff" * width) * height
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def rows_of(text: str) -> list[list[str]]:
    """The cells of the page's table, as a person reads them."""
    lines = [line for line in text.splitlines() if line.startswith("| ") and "---" not in line]
    return [
        [html.unescape(cell).replace("\N{EM SPACE}", "").strip(" *") for cell in line.strip("| ").split(" | ")]
        for line in lines
    ]


def test_it_says_what_was_selected_and_why_then_shows_the_front() -> None:
    records = [trial(0, 0.7, 10**8), trial(1, 0.8, 4 * 10**8, test_metrics={"accuracy": 0.77, "f1": 0.5})]
    points = points_from(records, metric_name="accuracy")
    text = description(front_table(points), select(points).to_dict(), [FRONT], HERE)
    lines = text.splitlines()
    assert lines[0].startswith("**Selected: trial 1, sherl")
    assert (
        "** · accuracy 0.8000 · device 1.00 GB · [The front, larger](#/x/front.html) · [All trials as a table](#/"
        in lines[0]
    )
    assert "highest validation accuracy of 2 members" in lines[2]
    assert lines[4] == "![The front](get-artifact?path=page/front.svg)"
    head, best, other = rows_of(text)
    assert head == [
        "trial",
        "configuration",
        "accuracy",
        "tensors MB",
        "device MB",
        "seconds",
        "trainable",
        "test accuracy",
    ]
    assert best == ["1", records[1].candidate.label, "0.8000", "400.0", "1,000.0", "12", "12,345", "0.7700"]
    assert other[0] == "0"
    assert other[-1] == ""
    assert "| **1**" in text, "the selected one is bold"
    assert "test_f1" not in text


@pytest.mark.parametrize(
    ("table", "words"),
    [([], "no trial has completed"), ([{"number": 1, "accuracy": 0.5}], "no member of the front meets")],
)
def test_it_says_why_nothing_is_selected(table: list[dict[str, Any]], words: str) -> None:
    assert words in description(table, None, [], HERE)


def test_further_figures_follow_the_table_and_lead_to_their_own_pages() -> None:
    figure = Figure(title=title_of("parallel_coordinates"), image="get-artifact?path=page/p.svg", larger="#/p.html")
    text = description([{"number": 1, "accuracy": 0.5}], None, [FRONT, figure], HERE)
    assert text.index("| 1") < text.index("### [Parallel coordinates](#/p.html)") < text.index("page/p.svg")


@given(
    names=st.lists(st.text(max_size=60), max_size=60),
    explanation=st.text(max_size=3000),
)
def test_it_never_grows_beyond_the_limit_and_never_breaks_its_table(names: list[str], explanation: str) -> None:
    table = [{"number": number, "configuration": name, "accuracy": 0.5} for number, name in enumerate(names)]
    text = description(table, {"explanation": explanation}, [FRONT] * 6, HERE)
    assert len(text) <= LONGEST_NOTE
    rows = rows_of(text)
    assert all(len(row) == 3 for row in rows)
    missing = re.search(r"And (\d+) more: front.csv", text)
    if len(explanation) < 300:
        assert len(rows) - bool(rows) + (int(missing[1]) if missing else 0) == len(names)


@pytest.mark.parametrize("members", [3, 24, 40, 400])
@pytest.mark.parametrize("words", [20, 3000])
def test_what_has_no_room_is_cut_between_words_and_rows_and_never_inside_a_link(members: int, words: int) -> None:
    stems = (
        "front",
        "memory_parts",
        "predicted",
        "hypervolume",
        "importance",
        "parallel",
        "epochs",
        "memory_over_time",
    )
    figures = [
        Figure(
            title=title_of(stem),
            image=HERE.content(f"page/{stem}.svg", "abcdef01"),
            larger=HERE.artifact(f"{stem}.html"),
        )
        for stem in stems
    ]
    table = [{"number": number, "accuracy": 0.5} for number in range(members)]
    explanation = " ".join(f"seed{number}:" for number in range(words))
    text = description(table, {"explanation": explanation}, figures, HERE)
    assert len(text) <= LONGEST_NOTE
    assert all(f"![{plain(figure.title)}]({figure.image})" in text for figure in figures)
    assert all(f"]({figure.larger})" in text for figure in figures)
    shown = html.unescape(text.splitlines()[2])
    cut = shown.removesuffix(" …")
    assert explanation.startswith(cut)
    assert cut.split() == explanation.split()[: len(cut.split())], "cut between words"
    assert (shown != explanation) == (words == 3000 or (members == 400 and len(plain(explanation)) > 300))
    rows = [row for row in rows_of(text) if row[0] != "trial"]
    missing = re.search(r"And (\d+) more: front.csv", text)
    assert len(rows) + (int(missing[1]) if missing else 0) == members
    assert rows or members == 400
    assert missing is None or len(cut) <= 300, "rows go only where the explanation is cut as far as it may be"


def test_where_even_pictures_have_no_room_whole_ones_are_left_out() -> None:
    figures = [Figure(title=f"Figure {number}", image="x" * 700, larger="y" * 300) for number in range(8)]
    text = description([{"number": 1, "accuracy": 0.5}], {"explanation": "Because. " * 900}, figures, HERE)
    assert len(text) <= LONGEST_NOTE
    assert 1 <= text.count(f"({'x' * 700})") == text.count("![") < 8
    assert text.count(f"({'y' * 300})") == text.count("![")


@given(text=st.text(max_size=200))
def test_a_name_reads_as_it_was_given_and_holds_no_markup(text: str) -> None:
    escaped = plain(text)
    assert html.unescape(escaped).split() == text.split()
    assert not re.search(r"[<>|`*_\[\]{}~@:!\"'\\]", escaped)
    assert not re.search(r"&(?!#\d+;)", escaped)


def test_a_picture_takes_the_width_of_its_place() -> None:
    source = png(300, 200)
    wrapped = scalable(source)
    assert wrapped is not None
    root = ElementTree.fromstring(wrapped)
    assert root.get("viewBox") == "0 0 300 200"
    assert root.get("width") is root.get("height") is None
    (image,) = root.findall("{http://www.w3.org/2000/svg}image")
    assert base64.b64decode(str(image.get("href")).removeprefix("data:image/png;base64,")) == source


@pytest.mark.parametrize("data", [b"", b"x", b"<svg/>", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_picture_is_not_shown(data: bytes) -> None:
    assert scalable(data) is None


def test_addresses_are_the_servers_own() -> None:
    assert (
        HERE.artifact("a b/#c.html")
        == f"#/experiments/1/runs/{'ab' * 16}/artifacts/a%20b/%23c.html?workflowType=machine_learning"
    )
    assert HERE.content("page/x&y.svg", "12") == f"get-artifact?path=page%2Fx%26y.svg&run_uuid={'ab' * 16}&v=12"
    for address in (HERE.table, HERE.artifact("x"), HERE.content("x", "1")):
        assert "//" not in address
