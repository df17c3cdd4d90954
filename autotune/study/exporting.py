"""From a trial of a study to a folder that ``sherl.load`` reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from autotune.deploy import example_input, export
from autotune.errors import StudyError
from autotune.outcome import Status
from autotune.study.folder import find_folder
from autotune.study.reading import outcome_of, read_only
from autotune.units import format_bytes
from sherl.data import PreparedData


@dataclass(frozen=True, kw_only=True)
class Exported:
    """Where an export lies, in words."""

    directory: Path
    explanation: str


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
