"""A study as it lies on the disk, and what is made of it: report, selection, export."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotune.config import StudyConfig
from autotune.deploy import example_input, export
from autotune.errors import SelectionError, StudyError
from autotune.files import write_text
from autotune.outcome import Outcome, Status, TrialRecord
from autotune.report import Point, Preference, ReportPaths, Selection, points_from, select, write_report
from autotune.search import StudyRecord
from autotune.search.rows import identity
from autotune.space import shape_key
from autotune.study.folder import StudyFolder, find_folder
from autotune.tracking import Tracker
from autotune.units import format_bytes
from sherl.data import PreparedData


@dataclass(frozen=True, kw_only=True)
class StudyResult:
    """What a study has to show: its front, from least to most memory, and the member that was selected."""

    folder: Path
    metric_name: str
    records: tuple[TrialRecord, ...]
    points: tuple[Point, ...]
    selection: Selection | None
    closing: str
    refused: int
    interrupted: bool = False

    @property
    def selected(self) -> int | None:
        """The number of the selected trial."""
        return None if self.selection is None else self.selection.point.number

    @property
    def front(self) -> list[TrialRecord]:
        """The front's members, from least to most memory."""
        members = sorted(
            (point for point in self.points if point.on_front), key=lambda point: (point.memory or 0, point.number)
        )
        by_number = {record.number: record for record in self.records}
        return [by_number[point.number] for point in members]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dictionary for scripts."""
        return {
            "study_dir": str(self.folder),
            "metric": self.metric_name,
            "selected": self.selected,
            "refused": self.refused,
            "front": [point.to_dict() for point in self.points if point.on_front],
            "trials": [point.to_dict() for point in self.points],
        }


@dataclass(frozen=True, kw_only=True)
class Exported:
    """Where an export lies, in words."""

    directory: Path
    explanation: str


def outcome_of(record: TrialRecord) -> Outcome:
    """The outcome of a trial that has ended.

    Raises:
        StudyError: it still runs.
    """
    if record.outcome is None:
        raise StudyError(
            f"Trial {record.number} still runs: wait for it, or `autotune resume` where its driver is gone."
        )
    return record.outcome


def metric_of(folder: StudyFolder) -> str:
    """The metric that the study maximises, as the prepared data names it."""
    return PreparedData.open(folder.prepared).task.metric


def read_only(folder: StudyFolder) -> StudyRecord:
    """The record for reading."""
    if not folder.record_file.exists():
        raise StudyError(
            f"{folder.path} has no record yet: its run ended before the search. Start it with `autotune resume "
            f"--study-dir {folder.path}`."
        )
    return StudyRecord.open(folder.record_file)


def has_trials(folder: StudyFolder) -> bool:
    """Whether the study's record holds a trial."""
    if not folder.record_file.exists():
        return False
    with StudyRecord.open(folder.record_file) as record:
        return bool(record.trials())


def report_settings(config: StudyConfig) -> dict[str, Any]:
    """What figures and tables say of a study."""
    return {"name": config.name, "model": config.model, "memory_cap": config.memory_cap, "seed": config.seed}


def summarise(
    folder: StudyFolder, record: StudyRecord, *, save_selection: bool, interrupted: bool = False
) -> tuple[StudyResult, ReportPaths]:
    """Writes the report's files and gives the study's result; the selection is kept unless a person has made one."""
    config = folder.settings()
    metric_name = metric_of(folder)
    records = record.trials()
    points = points_from(records, metric_name=metric_name)
    selection = _selection(folder, points, save=save_selection)
    paths = write_report(
        folder.report, records, {**report_settings(config), "metric": metric_name}, selection=selection
    )
    refused = len({shape_key(row.candidate) for row in record.refusals()})
    result = StudyResult(
        folder=folder.path,
        metric_name=metric_name,
        records=tuple(records),
        points=tuple(points),
        selection=selection,
        closing=_closing(folder, config, records, selection, paths, refused),
        refused=refused,
        interrupted=interrupted,
    )
    return result, paths


def _selection(folder: StudyFolder, points: Sequence[Point], *, save: bool) -> Selection | None:
    """The selection by the rule that a person last gave, else the highest metric; None where nothing meets it."""
    rule = (folder.read_selection() or {}).get("rule", {})
    try:
        selection = select(points, **rule)
    except SelectionError:
        return None
    if save:
        _write_selection(folder, selection, rule)
    return selection


def _write_selection(folder: StudyFolder, selection: Selection, rule: dict[str, Any]) -> None:
    text = json.dumps({**selection.to_dict(), "rule": rule}, indent=2, ensure_ascii=False)
    write_text(folder.selection_file, text)


def _closing(
    folder: StudyFolder,
    config: StudyConfig,
    records: Sequence[TrialRecord],
    selection: Selection | None,
    paths: ReportPaths,
    refused: int,
) -> str:
    counts: dict[Status, int] = {}
    for record in records:
        if record.outcome is not None:
            counts[record.outcome.status] = counts.get(record.outcome.status, 0) + 1
    words = ", ".join(f"{count} {status}" for status, count in sorted(counts.items())) or "no trial ended"
    meters = sorted({record.outcome.peak.meter for record in records if record.outcome and record.outcome.peak})
    where = f" --study-dir {folder.path}" if folder.path.parent != Path("studies") else ""
    lines = [
        f"Trials: {words}; {refused} configuration{'' if refused == 1 else 's'} refused before their start. Cap {format_bytes(config.memory_cap)}"
        + (f", measured by {', '.join(meters)}." if meters else ".")
    ]
    lines += [
        f"Trial {r.number} {r.outcome.status}: {r.outcome.reason}" for r in records if _went_wrong(r) and r.outcome
    ]
    if selection is not None:
        lines.append(f"Selected: {selection.explanation}")
    lines.append(
        f"Figures and tables: {paths.front_html.parent}; MLflow: {config.mlflow_uri or folder.path / 'mlflow.db'}"
    )
    ended = {identity(record.candidate) for record in records if record.outcome and not _interrupted(record)}
    if any(_interrupted(record) and identity(record.candidate) not in ended for record in records):
        lines.append(f"Go on with what was interrupted: autotune resume{where}")
    if selection is not None:
        lines.append(
            f"Next: autotune select{where} --memory-cap {config.memory_cap * 3 // 4 // 10**6}MB (or another condition), "
            f"then autotune export{where} DIR"
        )
    return "\n".join(lines)


def _interrupted(record: TrialRecord) -> bool:
    return record.outcome is not None and record.outcome.status is Status.INTERRUPTED


def _went_wrong(record: TrialRecord) -> bool:
    ends = (Status.COMPLETE, Status.STOPPED, Status.INTERRUPTED)
    return record.outcome is not None and record.outcome.status not in ends


def report_study(study_dir: str | Path | None = None) -> StudyResult:
    """Writes figures and tables anew and gives the study's result.

    Raises:
        StudyError: there is no such study, or it has no record.
    """
    folder = find_folder(study_dir)
    with read_only(folder) as record:
        result = summarise(folder, record, save_selection=False)[0]
    config = folder.settings()
    tracker = Tracker.open(config.mlflow_uri, study_dir=folder.path, study_name=config.name)
    try:
        tracker.deliver_pending()  # what could not be sent while the study ran
    finally:
        tracker.close()
    return result


def select_from_study(
    study_dir: str | Path | None = None,
    *,
    memory_cap: int | None = None,
    min_metric: float | None = None,
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
    rule = {"memory_cap": memory_cap, "min_metric": min_metric, "prefer": prefer}
    selection = select(points, **rule)  # type: ignore[arg-type]  # a dictionary of three sorts of values
    _write_selection(folder, selection, rule)
    return selection


def export_from_study(study_dir: str | Path | None, directory: Path, *, trial: int | None = None) -> Exported:
    """Writes the selected trial, or the one asked for, as a folder that ``sherl.load`` reads.

    Raises:
        StudyError: there is no such study or trial, or the trial kept no weights.
    """
    folder = find_folder(study_dir)
    config = folder.settings()
    selection = folder.read_selection()
    if trial is None:
        if selection is None:
            raise StudyError("Nothing is selected yet: run `autotune select` first, or give --trial NUMBER.")
        trial = int(selection["point"]["number"])
    with read_only(folder) as record:
        chosen = record.trial(trial)
    outcome = outcome_of(chosen)
    if outcome.status is not Status.COMPLETE or outcome.checkpoint is None:
        raise StudyError(
            f"Trial {trial} ended as {outcome.status} and kept no weights. `autotune report` lists those that did."
        )
    data = PreparedData.open(folder.prepared)
    selected = selection is not None and int(selection["point"]["number"]) == trial
    written = export(
        chosen,
        study_settings={**config.to_dict(), "metric": data.task.metric},
        checkpoint_dir=folder.trial(trial) / "checkpoint",
        target=directory,
        info={
            "data": data.summary,
            "meter": None if outcome.peak is None else outcome.peak.meter,
            "selection": selection["explanation"] if selection is not None and selected else None,
        },
    )
    example = example_input(data.task.to_dict())
    words = " ".join(f'"{word}"' for word in ([example] if isinstance(example, str) else example))
    return Exported(
        directory=written.directory,
        explanation=(
            f"Trial {trial} ({chosen.candidate.label}) is in {written.directory}: {', '.join(written.files)}, "
            f"{format_bytes(written.size_bytes)}.\n"
            f'Try it: autotune predict {written.directory} {words}, or in Python: sherl.load("{written.directory}")'
        ),
    )
