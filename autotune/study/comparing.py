"""Laying the fronts of several studies over one another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from autotune.errors import StudyError
from autotune.report import Compared, Comparison, ComparisonPaths, compare, points_from, write_comparison
from autotune.study.folder import StudyFolder, find_folder
from autotune.study.reading import metric_of, read_only
from sherl.data import PreparedData

# the settings that choose rows, with what a study has that was prepared before a setting existed; the rest is how a model reads them
_CHOOSE_ROWS: dict[str, object] = {
    "seed": 0, "unit": "row", "train_rows": None, "valid_rows": None, "test_rows": None, "whole_train": False,
}  # fmt: skip
# as they were settled; a column that one of two studies does not name tells nothing. Texts decide the split too
_COLUMNS = ("text", "pair", "label", "image")
# of the settled task: what a metric is taken of, and what tells that it is of another column
_SAME_TASK = ("kind", "class_names", "target_mean", "target_std")


def compare_studies(study_dirs: Sequence[str | Path], out: str | Path) -> tuple[Comparison, ComparisonPaths]:
    """Reads two or more studies, compares their fronts and writes the comparison's files to ``out``.

    Raises:
        StudyError: there are fewer than two, one is named twice, is missing or has no record, or they have different metrics or data.
        OSError: ``out`` cannot be written to.
    """
    folders = [find_folder(study_dir) for study_dir in study_dirs]
    _check_distinct(folders)
    metrics = [metric_of(folder) for folder in folders]
    _check_metrics(folders, metrics)
    opened = [PreparedData.open(folder.prepared) for folder in folders]
    _check_data(folders, [_rows_of(prepared) for prepared in opened])
    names = _names(folders)
    studies = []
    for folder, name in zip(folders, names, strict=True):
        config = folder.settings()
        with read_only(folder) as record:
            points = points_from(record.trials(), metric_name=metrics[0])
        studies.append(Compared(name=name, model=config.model, points=tuple(points), memory_cap=config.memory_cap))
    comparison = compare(studies, metric_name=metrics[0], warnings=_warnings(studies, opened))
    return comparison, write_comparison(out, comparison)


def _check_distinct(folders: Sequence[StudyFolder]) -> None:
    if len(folders) < 2:
        given = ", ".join(str(folder.path) for folder in folders) or "none"
        raise StudyError(
            f"--compare takes two or more studies, {given} was given. Name their folders: autotune report --compare A B"
        )
    seen: set[Path] = set()
    for folder in folders:
        if folder.path.resolve() in seen:
            raise StudyError(f"{folder.path} is named twice: a study is compared with others. Name each folder once.")
        seen.add(folder.path.resolve())


def _check_metrics(folders: Sequence[StudyFolder], metrics: Sequence[str]) -> None:
    if len(set(metrics)) > 1:
        told = ", ".join(f"{folder.path}: {metric}" for folder, metric in zip(folders, metrics, strict=True))
        raise StudyError(
            f"Studies of different metrics cannot be compared ({told}). Compare studies of one metric, or run one of them "
            "again with the other's --metric."
        )


def _rows_of(prepared: PreparedData) -> dict[str, dict[str, Any]]:
    """What says which rows a study was trained and validated on: the files, how they are split, and the task that was settled
    (given, or found by the labels: which of the two is all one)."""
    key, task = prepared.key, asdict(prepared.task)
    data, settled = key.get("data", {}), prepared.summary.get("columns") or {}
    return {
        "content": dict(key.get("content", {})),
        "data": {name: data.get(name, default) for name, default in _CHOOSE_ROWS.items()},
        "columns": {name: settled.get(name) or data.get(name) for name in _COLUMNS},
        "task": {name: task[name] for name in _SAME_TASK},
    }


def _check_data(folders: Sequence[StudyFolder], found: Sequence[dict[str, dict[str, Any]]]) -> None:
    first = found[0]
    for folder, rows in zip(folders[1:], found[1:], strict=True):
        told = "; ".join(
            f"{part}: {words}" for part in rows if (words := _differences(first[part], rows[part], part == "columns"))
        )
        if told:
            raise StudyError(
                f"{folders[0].path} and {folder.path} were not trained and validated on the same rows, so their metrics "
                f"cannot be compared ({told}). Compare studies of the same files, split with the same --seed."
            )


def _differences(one: dict[str, Any], other: dict[str, Any], both_given: bool) -> str:
    """What differs; with ``both_given`` only where neither is None. "" where nothing does."""
    keys = [key for key in {**one, **other} if one.get(key) != other.get(key)]
    if both_given:
        keys = [key for key in keys if None not in (one.get(key), other.get(key))]
    return ", ".join(f"{key} {_short(one.get(key))} and {_short(other.get(key))}" for key in keys)


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:28]}…{text[-28:]}"


def _names(folders: Sequence[StudyFolder]) -> list[str]:
    """The studies' names where they differ, else their folders'."""
    for names in (
        [folder.settings().name or folder.path.name for folder in folders],
        [folder.path.name for folder in folders],
    ):
        if len(set(names)) == len(names):
            return names
    return [str(folder.path) for folder in folders]


def _warnings(studies: Sequence[Compared], opened: Sequence[PreparedData]) -> list[str]:
    warnings = []
    lengths = {study.name: prepared.key.get("max_length") for study, prepared in zip(studies, opened, strict=True)}
    if len(set(map(str, lengths.values()))) > 1:
        told = ", ".join(f"{name} at {length or 'no length'}" for name, length in lengths.items())
        warnings.append(f"The rows are the same but were cut at different numbers of tokens: {told}.")
    sizes = {study.name: tuple(prepared.task.image_size) for study, prepared in zip(studies, opened, strict=True)}
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{name} at {' x '.join(map(str, size)) or 'no size'}" for name, size in sizes.items())
        warnings.append(f"The images are the same but were read at different sizes: {told} pixels.")
    meters = {study.name: {point.meter for point in study.points if point.meter} for study in studies}
    if len({frozenset(found) for found in meters.values() if found}) > 1:
        told = ", ".join(f"{name}: {' and '.join(sorted(found))}" for name, found in meters.items() if found)
        warnings.append(
            f"Memory was measured differently ({told}). Tensor bytes, which are compared, are counted a little differently on a GPU "
            "and without one."
        )
    return warnings
