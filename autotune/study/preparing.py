"""A study's prepared data: tokenised once, read by every trial."""

from __future__ import annotations

from collections.abc import Callable

from autotune.config import StudyConfig
from autotune.study.folder import StudyFolder
from autotune.study.listener import StudyListener
from sherl.data import DataSpec, PreparedData, prepare

LONGEST = 128
"""Tokens at which texts are cut unless a person says otherwise; images have no such limit."""


def prepared_data(
    folder: StudyFolder, config: StudyConfig, max_tokens: int | None, progress: Callable[[str, int, int], None]
) -> PreparedData:
    """The folder's own prepared data where it is whole; the sources are read only once. max_tokens: of the backbone.
    progress: hears what is being done, and how many of how many are.

    Raises:
        DataError, SpecError: the data or its settings have problems.
    """
    if (folder.prepared / "meta.json").exists():
        return PreparedData.open(folder.prepared)
    return prepare(
        DataSpec.from_dict(config.data),
        backbone_source=config.model,
        directory=folder.prepared,
        max_length=config.max_length or min(LONGEST, max_tokens or LONGEST),
        progress=progress,
    )


def describe_data(data: PreparedData, listener: StudyListener) -> None:
    """Tells rows, task and metric, and what was noticed of the rows."""
    summary = data.summary
    rows = ", ".join(f"{len(data.part(name))} {name}" for name in ("train", "valid", "test"))
    listener.phase(
        "prepare",
        f"{summary.get('name') or summary.get('source')}: {data.task.kind}, rows: {rows}; metric {data.task.metric}",
    )
    for note in summary.get("notes", ()):
        listener.note(str(note))
