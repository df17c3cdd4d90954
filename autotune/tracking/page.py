"""What a person reads first on a study's run in MLflow: what was selected and why, the figures, the front. Pure.

MLflow shows a run's description as markdown (a showdown converter in GitHub's manner, then a sanitizer that leaves no attribute
of an image but its address): tables and images of the run's own artifacts work; widths, scripts and ``data:`` addresses do not.
An image is shown in its own size, too wide for the page; so a PNG is wrapped in an SVG without a size, which fills its column.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from autotune.units import format_bytes

LONGEST_NOTE = 5000
"""Characters of a description; older servers than ours take no more."""
_KEPT_FOR_TEXT, _LEAST_EXPLANATION, _LONGEST_NAME = 1000, 300, 300

_PNG = b"\x89PNG\r\n\x1a\n"
_HEADINGS = {
    "number": "trial",
    "peak_allocated_mb": "tensors MB",
    "peak_reserved_mb": "reserved MB",
    "peak_device_mb": "device MB",
    "trainable_parameters": "trainable",
}
# what markdown, its GitHub manner (names after @, addresses, :smileys:) or HTML would take for more than text
_MARKUP = re.compile(r"[&<>|\\`*_\[\]{}~@:#!\"']|(?<=www)\.")
_TRAINING = urlencode({"workflowType": "machine_learning"})  # else MLflow shows the menu of chat applications
_GAP = "&emsp;"  # between columns, which MLflow sets side by side without any room


def run_page(experiment_id: str, run_id: str, part: str = "") -> str:
    """The address of a run's page, or of a part of it, on any server."""
    return f"#/experiments/{experiment_id}/runs/{run_id}{part}?{_TRAINING}"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One picture of the page. image: its address; larger: where it is shown alone, interactive where there is such a page."""

    title: str
    image: str
    larger: str


@dataclass(frozen=True, kw_only=True)
class Addresses:
    """Where the parts of a study's run lie, relative to whatever server shows them."""

    experiment_id: str
    run_id: str
    view: str

    @property
    def table(self) -> str:
        """The study's trials as a table, with the columns that matter."""
        return f"#/experiments/{self.experiment_id}/runs?{_TRAINING}&{urlencode({'viewStateShareKey': self.view})}"

    def artifact(self, path: str) -> str:
        """The page that shows an artifact of the run."""
        return run_page(self.experiment_id, self.run_id, f"/artifacts/{quote(path)}")

    def content(self, path: str, version: str) -> str:
        """An artifact itself. version: changes with it, so that no browser shows an earlier one."""
        return f"get-artifact?{urlencode({'path': path, 'run_uuid': self.run_id, 'v': version})}"


def title_of(stem: str) -> str:
    """A figure's title from its file's name: ``parallel_coordinates`` is Parallel coordinates."""
    words = re.sub(r"[_\-\s]+", " ", stem).strip()
    return "The front" if words == "front" else words[:1].upper() + words[1:]


def scalable(png: bytes) -> str | None:
    """A PNG as an SVG that takes the width it is given; None of what is no PNG."""
    if not png.startswith(_PNG) or len(png) < 24:
        return None
    width, height = int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")
    data = base64.b64encode(png).decode("ascii")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"><clipPath id="card">'
        f'<rect width="{width}" height="{height}" rx="{width // 100}"/></clipPath>'
        f'<image clip-path="url(#card)" width="{width}" height="{height}" href="data:image/png;base64,{data}"/></svg>'
    )


def plain(text: Any) -> str:
    """Text that stays the text it is: on one line, whatever a person named so."""
    return " ".join(_MARKUP.sub(lambda sign: f"&#{ord(sign[0])};", str(text)).split())


def description(
    table: Sequence[Mapping[str, Any]],
    selected: Mapping[str, Any] | None,
    figures: Sequence[Figure],
    addresses: Addresses,
) -> str:
    """The page's markdown, :data:`LONGEST_NOTE` characters at most.

    What has no room goes in this order: the end of the explanation, rows of the table (they are counted), whole figures.
    """
    # MLflow folds all but the first two lines or so, and lets nobody click on what lies below
    head = " · ".join([_headline(selected, table), *_links(figures, addresses)])
    blocks = [_picture(figure, titled=index > 0) for index, figure in enumerate(figures)]
    while blocks and len("\n".join([head, *blocks])) > LONGEST_NOTE - _KEPT_FOR_TEXT:
        blocks.pop()
    first, others = blocks[:1], blocks[1:]
    room = LONGEST_NOTE - len("\n".join([head, *blocks])) - 2  # two more line breaks
    explanation = plain((selected or {}).get("explanation") or "")
    number = _number(selected)
    rows = _front(table, number, room)
    least = min(len(explanation), _LEAST_EXPLANATION)
    explanation = _shortened(explanation, max(least, room - len("\n".join(rows)) - 2))
    if explanation:
        explanation = f"\n{explanation}"
        rows = _front(table, number, room - len(explanation) - 1)
        first = [explanation, *first]
    return "\n".join([head, *first, *rows, *others])


def _picture(figure: Figure, *, titled: bool) -> str:
    image = f"\n![{plain(figure.title)}]({figure.image})"
    return f"\n<br>\n\n### [{plain(figure.title)}]({figure.larger})\n{image}" if titled else image


def _shortened(escaped: str, longest: int) -> str:
    """The beginning of a text of :func:`plain`, up to the end of a word, else of a sign."""
    if len(escaped) <= longest:
        return escaped
    kept = escaped[: max(0, longest - 1)]
    words = kept.rpartition(" ")[0]
    return f"{words} …" if words else re.sub(r"&[^;]*$", "", kept) + "…"


def _headline(selected: Mapping[str, Any] | None, table: Sequence[Mapping[str, Any]]) -> str:
    if not selected:
        why = "no member of the front meets the conditions" if table else "no trial has completed"
        return f"**Nothing is selected:** {why}"
    point = selected.get("point")
    if not isinstance(point, Mapping):
        return "**Selected**"
    label = _shortened(plain(point.get("label")), _LONGEST_NAME)
    words = [f"**Selected: trial {plain(point.get('number'))}, {label}**"]
    if isinstance(point.get("metric"), (int, float)):
        name = _shortened(plain(point.get("metric_name") or "metric"), _LONGEST_NAME)
        words.append(f"{name} {point['metric']:.4f}")
    if isinstance(point.get("device_bytes"), int):
        words.append(f"device {format_bytes(point['device_bytes']).partition(' (')[0]}")
    return " · ".join(words)


def _links(figures: Sequence[Figure], addresses: Addresses) -> list[str]:
    links = [f"[{plain(figure.title)}, larger]({figure.larger})" for figure in figures[:1]]
    return [*links, f"[All trials as a table]({addresses.table})"]


def _front(table: Sequence[Mapping[str, Any]], selected: int | None, room: int) -> list[str]:
    """The front as a table, best metric first: lines of ``room`` characters at most, breaks between them included."""
    columns = _columns(table)
    if not columns:
        return []
    head = [
        "",
        "### Members of the front",
        "",
        _row([_heading(column) for column in columns]),
        "|" + " --- |" * len(columns),
    ]
    rows = []
    for row in reversed(table):
        chosen = selected is not None and row.get("number") == selected
        cells = [plain(_shown(column, row.get(column))) for column in columns]
        rows.append(_row([f"**{cell}**" if chosen and cell else cell for cell in cells]))
    for shown in range(len(rows), 0, -1):
        more = ["", f"And {len(rows) - shown} more: front.csv among the artifacts."] if shown < len(rows) else []
        lines = [*head, *rows[:shown], *more]
        if len("\n".join(lines)) <= room:
            return lines
    return ["", f"And {len(rows)} more: front.csv among the artifacts."]


def _columns(table: Sequence[Mapping[str, Any]]) -> list[str]:
    """Those with something to show in a few characters; of the test part the study's metric alone."""
    names = list(dict.fromkeys(key for row in table for key in row))
    known = [
        name
        for name in names
        if name != "reason"
        and any(row.get(name) is not None for row in table)
        and not any(isinstance(row.get(name), (Mapping, list, tuple)) for row in table)
    ]
    return [name for name in known if not name.startswith("test_") or name.removeprefix("test_") in known]


def _heading(column: str) -> str:
    return plain(_HEADINGS.get(column) or column.replace("_mb", " MB").replace("_", " "))


def _shown(column: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if column.endswith("_mb"):
        return f"{value:,.1f}"
    if column == "seconds":
        return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"
    return f"{value:,d}" if isinstance(value, int) else f"{value:.4f}"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(f"{cell}{_GAP}" for cell in cells) + " |"


def _number(selected: Mapping[str, Any] | None) -> int | None:
    point = (selected or {}).get("point")
    number = point.get("number") if isinstance(point, Mapping) else None
    return number if isinstance(number, int) else None


def table_view(study_id: str) -> str:
    """What the table of runs shows when it is opened by :attr:`Addresses.table`, as MLflow keeps a shared view."""
    metrics = ("metric", "peak_device_mb", "peak_allocated_mb", "seconds", "trainable_parameters", "confirmed_mean")
    columns = [
        *(f"metrics.`{name}`" for name in metrics),
        *(f"tags.`{name}`" for name in ("status", "on_front", "plan")),
    ]
    return json.dumps(
        {
            "searchFilter": f"tags.study_id = '{study_id}' and tags.kind = 'trial'",
            "orderByKey": "metrics.`metric`",
            "orderByAsc": False,
            "selectedColumns": columns,
            "columnOrder": columns,
        }
    )
