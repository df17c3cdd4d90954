"""Batches that bring hidden states of frozen layers from a store, by their shapes alone: for prices before there is a store."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from autotune.features.build import place_forms
from autotune.outcome import Candidate
from sherl.backbones import backbone_from_config, config_from_dict
from sherl.features import SHAPE_ALONE, Place, feature_name
from sherl.forms import BatchForm, TensorForm, blank_batch, hollowed, with_rows
from sherl.methods import method_from_dict
from sherl.precision import weights_dtype
from sherl.sharing import needs_of, stacks_to_store
from sherl.spec import TaskSpec, TrainingConfig


class StoredForms:
    """What batches of each configuration look like where all that it could read is stored."""

    def __init__(self, backbone_config: Mapping[str, Any], task: TaskSpec, row: BatchForm) -> None:
        """backbone_config: ``config.to_dict()``. row: of a batch of one row, labels included; all rows are alike."""
        self._config = config_from_dict(backbone_config)
        self._task, self._row = task, row
        with torch.device("meta"):
            self._backbone = backbone_from_config(self._config)
        self._needs: dict[str, frozenset[Place]] = {}
        self._forms: dict[torch.dtype, dict[Place, TensorForm]] = {}

    def reads(self, candidate: Candidate) -> frozenset[Place]:
        """The hidden states that a trial of this candidate would read; none where it computes all of them itself.

        Raises:
            SpecError: the settings do not suit the backbone.
            UnsupportedBackboneError: the family cannot carry the method.
        """
        method = candidate.realised.method
        key = json.dumps(method, sort_keys=True)
        if key not in self._needs:
            self._needs[key] = needs_of(method_from_dict(dict(method)), self._task, self._backbone)
        return self._needs[key]

    def __call__(
        self, candidate: Candidate, train: BatchForm, evaluation: BatchForm
    ) -> tuple[dict[str, TensorForm], dict[str, TensorForm]]:
        """The forms of a candidate's two batches with what it reads beside them; raises as :meth:`reads`."""
        needs = self.reads(candidate)
        if not needs:
            return dict(train), dict(evaluation)
        of_row = self._of_row(candidate)
        beside = {feature_name(place): of_row[place] for place in sorted(needs)}
        made = [
            {**hollowed(form, SHAPE_ALONE), **with_rows(beside, form["labels"].shape[0])}
            for form in (train, evaluation)
        ]
        return made[0], made[1]

    def _of_row(self, candidate: Candidate) -> dict[Place, TensorForm]:
        """Of every place of the stacks that are stored for this task, in the candidate's precision."""
        dtype = weights_dtype(TrainingConfig.from_dict(candidate.realised.training).precision)
        if dtype not in self._forms:
            with FakeTensorMode():
                backbone = backbone_from_config(self._config, dtype=dtype)
                stacks = stacks_to_store(self._task, backbone)
                places = [Place(name, n) for name in stacks for n in range(len(backbone.stacks[name]) + 1)]
                self._forms[dtype] = place_forms(backbone, blank_batch(self._row), places)
        return self._forms[dtype]
