"""What a study has to show: its result, and its report as files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotune.config import StudyConfig
from autotune.outcome import Confirmation, Status, TrialRecord
from autotune.report import Point, ReportPaths, Selection, front_table, points_from, write_report
from autotune.search import StudyRecord
from autotune.search.rows import identity
from autotune.space import shape_key
from autotune.study.folder import StudyFolder, find_folder, study_dir_option
from autotune.study.reading import metric_of, read_only
from autotune.study.selecting import current_selection, unmet_rule
from autotune.study.showing import Front, send_waiting, store_words
from autotune.units import count_words, format_bytes


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
    selection = current_selection(folder, points, save=save_selection)
    refusals = {shape_key(row.candidate): row for row in record.refusals()}
    paths = write_report(
        folder.report,
        records,
        {**report_settings(config), "metric": metric_name},
        selection=selection,
        refusals=refusals.values(),
        ended=record.seconds_until_end(),
    )
    refused = len(refusals)
    result = StudyResult(
        folder=folder.path,
        metric_name=metric_name,
        records=tuple(records),
        points=tuple(points),
        selection=selection,
        closing=_closing(folder, config, records, points, selection, paths, refused),
        refused=refused,
        interrupted=interrupted,
    )
    return result, paths


def _closing(
    folder: StudyFolder,
    config: StudyConfig,
    records: Sequence[TrialRecord],
    points: Sequence[Point],
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
    where = study_dir_option(folder)
    lines = [
        f"Trials: {words}; {count_words(refused, 'configuration')} refused before the start. Cap {format_bytes(config.memory_cap)}"
        + (f", measured by {', '.join(meters)}." if meters else ".")
    ]
    lines += [
        f"Trial {r.number} {r.outcome.status}: {r.outcome.reason}" for r in records if _went_wrong(r) and r.outcome
    ]
    lines += [
        f"Trial {r.number} on seed {one.seed} {one.outcome.status}: {one.outcome.reason}"
        for r in records
        for one in r.confirmations
        if one.outcome.status is not Status.COMPLETE and not _interrupted(one)
    ]
    if selection is not None:
        lines.append(f"Selected: {selection.explanation}")
    elif (unmet := unmet_rule(folder, points)) is not None:
        lines.append(f"Selected: nothing. {unmet}")
    lines.append(f"Report: {paths.report_html}; MLflow: {store_words(folder, config)}")
    ended = {identity(record.candidate) for record in records if record.outcome and not _interrupted(record)}
    if any(_interrupted(record) and identity(record.candidate) not in ended for record in records):
        lines.append(f"Go on with what was interrupted: autotune resume{where}")
    if (unconfirmed := _unconfirmed(points, config.confirm)) is not None:
        lines.append(f"{unconfirmed}: autotune confirm{where}")
    if selection is not None:
        lines.append(
            f"Next: autotune select{where} --memory-cap {_less(config.memory_cap)} (or another condition), "
            f"then autotune export{where} DIR"
        )
    return "\n".join(lines)


def _less(cap: int) -> str:
    """Three quarters of a cap, as a person would type it: ``6GB``, ``750MB``."""
    megabytes = cap * 3 // 4 // 10**6
    return f"{megabytes / 1000:g}GB" if megabytes >= 1000 else f"{megabytes}MB"


def _unconfirmed(points: Sequence[Point], seeds: int) -> str | None:
    """What is left to confirm, in words; None where nothing is."""
    front = [point for point in points if point.on_front]
    missing = sum(point.confirmed_of < max(1, seeds) for point in front)
    if not missing:
        return None
    if not any(point.confirmed_of for point in front):
        return "Unconfirmed: each metric of the front is of one seed. Train its members on others"
    return f"{missing} of {len(front)} members of the front are not confirmed on {seeds} other seeds. Go on"


def _interrupted(record: TrialRecord | Confirmation) -> bool:
    return record.outcome is not None and record.outcome.status is Status.INTERRUPTED


def _went_wrong(record: TrialRecord) -> bool:
    ends = (Status.COMPLETE, Status.STOPPED, Status.INTERRUPTED)
    return record.outcome is not None and record.outcome.status not in ends


def report_study(study_dir: str | Path | None = None, *, on_note: Callable[[str], None] | None = None) -> StudyResult:
    """Writes figures and tables anew and gives the study's result. on_note: told what MLflow does not take, and why.

    Raises:
        StudyError: there is no such study, or it has no record.
    """
    folder = find_folder(study_dir)
    with read_only(folder) as record:
        result, paths = summarise(folder, record, save_selection=False)
    selected = None if result.selection is None else result.selection.to_dict()
    # and what could not be sent while the study ran
    send_waiting(
        folder,
        front=Front(paths=paths.all(), titles=paths.titles(), table=front_table(result.points), selected=selected),
        on_note=on_note,
    )
    return result
