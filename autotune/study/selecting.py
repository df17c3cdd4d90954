"""Which member of the front a study has selected, and selecting another."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autotune.errors import SelectionError
from autotune.files import write_text
from autotune.report import Point, Preference, Selection, points_from, select
from autotune.study.folder import StudyFolder, find_folder
from autotune.study.reading import metric_of, read_only


def current_selection(folder: StudyFolder, points: Sequence[Point], *, save: bool) -> Selection | None:
    """The selection by the rule that a person last gave (an earlier version kept fewer conditions), else the highest metric;
    None where nothing meets it."""
    rule = (folder.read_selection() or {}).get("rule", {})
    try:
        selection = select(points, **rule)
    except SelectionError:
        return None
    if save:
        write_selection(folder, selection, rule)
    return selection


def select_from_study(
    study_dir: str | Path | None = None,
    *,
    memory_cap: int | None = None,
    inference_memory_cap: int | None = None,
    min_metric: float | None = None,
    max_latency: float | None = None,
    prefer: Preference = "metric",
) -> Selection:
    """Picks a member of the front and keeps the choice for ``export``. Never reads a test score.

    Raises:
        StudyError: there is no such study, or it has no record.
        SelectionError: no member meets the conditions; an earlier selection is then kept.
    """
    folder = find_folder(study_dir)
    with read_only(folder) as record:
        points = points_from(record.trials(), metric_name=metric_of(folder))
    rule: dict[str, Any] = {
        "memory_cap": memory_cap,
        "inference_memory_cap": inference_memory_cap,
        "min_metric": min_metric,
        "max_latency": max_latency,
        "prefer": prefer,
    }
    selection = select(points, **rule)
    write_selection(folder, selection, rule)
    return selection


def write_selection(folder: StudyFolder, selection: Selection, rule: dict[str, Any]) -> None:
    """Keeps a selection and the rule that it was made by."""
    text = json.dumps({**selection.to_dict(), "rule": rule}, indent=2, ensure_ascii=False)
    write_text(folder.selection_file, text)
