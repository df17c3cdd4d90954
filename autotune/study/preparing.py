"""What a study and a single training begin with: the backbone without weights, and data that is tokenised once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from autotune.config import StudyConfig
from autotune.study.folder import StudyFolder
from autotune.study.listener import Listener
from autotune.study.suits import require_model_suits
from sherl.backbones import Backbone, backbone_from_config, load_config, require_runs, require_weights
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


def describe_data(data: PreparedData, listener: Listener, name: str = "") -> None:
    """Tells rows, task and metric behind the name, and what was noticed of the rows."""
    rows = ", ".join(f"{number} {part}" for part, number in rows_of(data).items())
    listener.phase("prepare", f"{name}{data.task.kind}, rows: {rows}; metric {data.task.metric}")
    for note in data.summary.get("notes", ()):
        listener.note(str(note))


def rows_of(data: PreparedData) -> dict[str, int]:
    """How many rows each part has."""
    return {part: len(data.part(part)) for part in ("train", "valid", "test")}


def backbone_without_weights(config: StudyConfig) -> tuple[Any, Backbone]:
    """The backbone's configuration, and the backbone on torch's meta device.

    Raises:
        SpecError: it or its weights are damaged, it does not suit the data's task, or takes no rows of the length that was
            asked for.
    """
    backbone_config = load_config(config.model)
    with torch.device("meta"):
        backbone = backbone_from_config(backbone_config)
    require_runs(backbone_config)
    require_weights(config.model)
    require_model_suits(backbone, DataSpec.from_dict(config.data), max_length=config.max_length)
    return backbone_config, backbone
