"""Models, data and methods of ``shared_features.py``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pretrained import pretrained
from real_data import DATA

from sherl.data import Part
from sherl.data.batching import Indices
from sherl.spec import TaskSpec

MODELS: dict[str, tuple[str, str]] = {
    "minilm": ("minilm", "movie reviews"),
    "mpnet": ("mpnet", "movie reviews"),
    "dinov2": ("dinov2-small", "clothes, 56 px"),
}
"""By the name on the command line: of :mod:`pretrained`, of :mod:`real_data`."""

METHODS: dict[str, dict[str, Any]] = {
    "SHERL, single at -1": {"name": "sherl", "start_layer": -1},
    "SHERL, multi at -2, late LoRA": {
        "name": "sherl",
        "insertion": "multi",
        "start_layer": -2,
        "late_route": {"name": "lora", "rank": 8},
    },
    "UniPT": {"name": "unipt"},
    "LST": {"name": "ladder", "reduction_factor": 8},
    "linear probe": {"name": "linear_probe"},
}


def material(name: str, rows: int) -> tuple[Path, TaskSpec, Part]:
    """A model's folder, its task, and the first ``rows`` rows of its training part."""
    model, data = MODELS[name]
    folder = pretrained(model)
    found = DATA[data](folder)
    return folder, found.task, SomeRows(found.train, rows)


class SomeRows(Part):
    """The first rows of a training part."""

    def __init__(self, part: Part, rows: int) -> None:
        """Raises:
        ValueError: ``rows`` is below 1.
        """
        if rows < 1:
            raise ValueError(f"At least one row is needed, {rows} was given.")
        self._part = part
        self.name = "train"
        self.labels = part.labels[:rows]
        self.lengths = np.asarray(part.lengths)[:rows]

    def batch(self, rows: Sequence[int] | Indices) -> Any:
        """The batch of these rows, in this order."""
        return self._part.batch(rows)

    def hollow_batch(self, rows: Sequence[int] | Indices) -> Any:
        """The same as its part gives it."""
        return self._part.hollow_batch(rows)
