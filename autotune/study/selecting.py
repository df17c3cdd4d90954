"""Which member of the front a study has selected, and selecting another."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from autotune.errors import SelectionError, StudyError
from autotune.files import write_text
from autotune.report import Point, Preference, Selection, points_from, select
from autotune.study.folder import StudyFolder, find_folder
from autotune.study.reading import metric_of, read_only


def kept_rule(folder: StudyFolder) -> dict[str, Any]:
    """The rule that a person last gave (an earlier version kept fewer conditions); {} where none was given.

    Raises:
        StudyError: the file of the selection is damaged.
    """
    return dict((folder.read_selection() or {}).get("rule", {}))


def current_selection(folder: StudyFolder, points: Sequence[Point], *, save: bool) -> Selection | None:
    """The selection by the kept rule, else the highest metric; None where nothing meets it.

    Raises:
        StudyError: the file of the selection is damaged.
    """
    rule = kept_rule(folder)
    try:
        selection = select(points, **rule)
    except SelectionError:
        return None
    if save:
        write_selection(folder, selection, rule)
    return selection


def unmet_rule(folder: StudyFolder, points: Sequence[Point]) -> str | None:
    """Why no member of the front meets the kept rule any more; None where one does, and where nothing was ever selected.

    Raises:
        StudyError: the file of the selection is damaged.
    """
    if folder.read_selection() is None:
        return None
    try:
        select(points, **kept_rule(folder))
    except SelectionError as error:
        return _unmet(error)
    return None


def _unmet(error: SelectionError) -> str:
    return f"No member of the front meets the rule of the last `autotune select` any more. {error}"


def selected_now(folder: StudyFolder, points: Sequence[Point]) -> tuple[Selection, int]:
    """The selection by the kept rule among the points as they are now, and the number of the trial that was selected when
    the rule was given: trials and confirmations since then may have changed the choice.

    Raises:
        StudyError: nothing was selected yet, or the file of the selection is damaged.
        SelectionError: no member meets the rule any more.
    """
    kept = folder.read_selection()
    if kept is None:
        raise StudyError("Nothing is selected yet: run `autotune select` first, or give --trial NUMBER.")
    try:
        before = int(kept["point"]["number"])
    except (KeyError, TypeError, ValueError) as error:
        raise StudyError(
            f"{folder.selection_file} is damaged: it names no trial. Run `autotune select` again, which writes it anew, or give "
            "--trial NUMBER."
        ) from error
    try:
        return select(points, **kept_rule(folder)), before
    except SelectionError as error:
        raise SelectionError(f"{_unmet(error)} Or give --trial NUMBER (trial {before} was selected before).") from error


def select_from_study(
    study_dir: str | Path | None = None,
    *,
    memory_cap: int | None = None,
    inference_memory_cap: int | None = None,
    min_metric: float | None = None,
    max_latency: float | None = None,
    prefer: Preference = "metric",
    warn: Callable[[str], None] | None = None,
) -> Selection:
    """Picks a member of the front and keeps the choice for ``export``. Never reads a test score.

    warn: hears why the choice could not be kept; None: that is an error.

    Raises:
        StudyError: there is no such study, it has no record, or the choice cannot be kept and nobody hears of it.
        ConfigError: a condition makes no sense.
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
    try:
        write_selection(folder, selection, rule)
    except OSError as error:
        why = (
            f"not kept: {folder.selection_file} cannot be written ({error.strerror or error}). `autotune export --trial "
            f"{selection.point.number}` exports the choice all the same."
        )
        if warn is None:
            raise StudyError(f"The choice, trial {selection.point.number}, is {why}") from error
        warn(why)
    return selection


def write_selection(folder: StudyFolder, selection: Selection, rule: dict[str, Any]) -> None:
    """Keeps a selection and the rule that it was made by."""
    text = json.dumps({**selection.to_dict(), "rule": rule}, indent=2, ensure_ascii=False)
    write_text(folder.selection_file, text)
