"""A study's prepared data: tokenised once, read by every trial."""

from __future__ import annotations

from collections.abc import Callable

from autotune.config import StudyConfig
from autotune.study.folder import StudyFolder
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
