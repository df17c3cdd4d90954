"""What a trial reads: prepared data, and beside it hidden states from a store where the request names one that is there."""

from __future__ import annotations

from typing import Any

import torch

from autotune.features.ahead import side_stream
from autotune.features.marks import PARTS
from autotune.features.part import FeaturePart
from autotune.features.reader import Reader
from autotune.features.shared import SharedFeatures
from autotune.trial.request import TrialRequest
from sherl.backbones import Backbone, load_backbone
from sherl.data import PreparedData
from sherl.data.part import Part
from sherl.evaluation import Batch
from sherl.forms import enlarged, widest


class TrialData:
    """The prepared data of a request, with or without stored hidden states.

    told: what became of the store, for the outcome; {} where the request names none.
    """

    def __init__(self, request: TrialRequest, device: torch.device) -> None:
        """Raises:
        DataError: the prepared data cannot be read.
        """
        self.prepared = PreparedData.open(request.prepared_dir)
        self._device = device
        self._readers: dict[str, Reader] | None = None
        self._shared: SharedFeatures | None = None
        self.told: dict[str, Any] = {}
        if request.features is None:
            return
        shared, notes = SharedFeatures.from_dict(request.features), list[str]()
        self._readers = shared.readers(PARTS, notes)
        if self._readers is None:
            problem = str(request.features.get("not_stored") or "")
            self.told = {"read": False, "why": " ".join([*([problem] if problem else []), *notes])}
        else:
            self._shared = shared
            self.told = {"read": True, "places": [f"{stack} {n}" for stack, n in shared.places]}

    def load(self, source: str, dtype: torch.dtype) -> Backbone:
        """The backbone without what stored hidden states stand in for."""
        return load_backbone(source, dtype=dtype, without=None if self._shared is None else self._shared.without)

    def part(self, name: str) -> Part:
        """A part, its batches with hidden states where there are some.

        Raises:
            DataError: its files cannot be read.
        """
        part = self.prepared.part(name)
        return part if self._readers is None else FeaturePart(part, self._readers[name], device=self._device)

    def as_trained(self, batch: Batch) -> Batch:
        """A training batch as a run has it: where hidden states are read on a GPU it lies there already, and room for another is taken,
        in which the next one is brought; else as it is."""
        if self._readers is None or self._device.type != "cuda":
            return batch
        side = side_stream(self._device)
        before = side.bring(batch)
        after = side.bring(batch)
        del before  # in a run it is gone before the next step's peak; its room stays taken
        return after

    def largest_evaluation(self, rows: int) -> Batch:
        """A batch of the validation part as large as any of it or of the test part: what fits here can be scored at the end."""
        valid = self.part("valid")
        return enlarged(
            valid.largest_batch(rows), widest(valid.largest_form(rows), self.part("test").largest_form(rows))
        )
