"""Runs of ``real_methods.py`` whose frozen blocks are computed once: their hidden states come from a store.

Scores equal those of :func:`real_runs.run_case` to rounding; seconds do not, so these runs have keys of their own. Memory is still
that of a live step on the whole backbone, measured once for each configuration.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from real_data import RealData
from real_runs import material, peak_of, run_case, train_and_score, training_of
from real_settings import Case

from autotune.errors import StoreError
from autotune.features.build import build, row_layouts
from autotune.features.part import FeaturePart
from autotune.features.reader import Reader
from autotune.features.shared import FEATURES_VERSION
from autotune.features.store import FeatureStore
from sherl.backbones import Backbone, Without, load_backbone
from sherl.cache import cache_directory
from sherl.data.part import Part
from sherl.features import Place
from sherl.methods import MethodConfig, method_from_dict
from sherl.model import TaskModel, build_model
from sherl.sharing import needs_of, stacks_to_store, why_not, without_for

ROWS_OF_A_PASS = 32
PARTS = ("train", "valid", "test")


@dataclass
class Shared:
    """A backbone with its data, and what runs on them have in common.

    checked: places whose values were compared with their checksums by this process. peaks: by the method's settings.
    """

    source: str
    data: RealData
    whole: Backbone
    store: FeatureStore
    light: dict[Without, Backbone] = field(default_factory=dict)
    checked: set[tuple[str, Place]] = field(default_factory=set)
    peaks: dict[str, int] = field(default_factory=dict)

    def backbone(self, without: Without | None) -> Backbone:
        """Whole, or without what a run does not need; each is loaded once."""
        if without is None:
            return self.whole
        if without not in self.light:
            self.light[without] = load_backbone(self.source, without=without)
        return self.light[without]

    def part(self, name: str, places: frozenset[Place]) -> FeaturePart:
        """A part whose batches bring these hidden states; what is not there is computed first.

        Raises:
            StoreError: the store cannot be written or read.
        """
        rows: Part = getattr(self.data, name)
        fresh = {place for place in places if (name, place) not in self.checked}
        for place in sorted(fresh):
            reader = self.store.reader(name, [place], verify=True)  # what is damaged is taken out of use, and made anew
            if reader is not None:
                reader.close()
        missing = [place for place in sorted(places) if not self.store.has(name, place)]
        if missing:
            layouts = row_layouts(self.whole, rows, missing)
            with self.store.writer(name, layouts) as writer:
                build(self.whole, rows, writer, batch_size=ROWS_OF_A_PASS)
        opened: Reader | None = self.store.reader(name, sorted(places))
        if opened is None:
            raise StoreError(f"Features of {name} cannot be read: {' '.join(self.store.notes[-2:])}")
        self.checked |= {(name, place) for place in places}
        return FeaturePart(rows, opened)

    def peak(self, case: Case, config: MethodConfig) -> int:
        """Of a live step on the whole backbone."""
        settings = json.dumps(case.method.method, sort_keys=True)
        if settings not in self.peaks:
            with _model(self.whole, config, self.data, seed=0) as model:
                self.peaks[settings] = peak_of(model, self.data, training_of(case))
        return self.peaks[settings]


def run_with_features(case: Case, *, deadline: float) -> dict[str, Any]:
    """As :func:`real_runs.run_case`; ``features``: whether hidden states came from the store, ``live_because``: if not, why.

    Raises:
        OutOfTime: the deadline passed between two epochs.
    """
    folder, data = material(case.backbone.model, case.backbone.data)
    shared = _shared(folder, case.backbone.model, case.backbone.data)
    config = method_from_dict(dict(case.method.method))
    reason = why_not(config, data.task, shared.whole)
    if reason is None:
        places = needs_of(config, data.task, shared.whole)
        try:
            parts = {name: shared.part(name, places) for name in PARTS}
        except StoreError as error:
            reason = str(error)
    if reason is not None:
        return {**run_case(case, deadline=deadline), "features": False, "live_because": reason}
    tensors = shared.peak(case, config)
    without = without_for(config, data.task, shared.whole, stacks_to_store(data.task, shared.whole))
    with _model(shared.backbone(without), config, data, seed=case.seed) as model:
        row = train_and_score(case, model, replace(data, **parts), tensors=tensors, deadline=deadline)
    return {**row, "features": True}


@lru_cache(maxsize=1)
def _shared(folder: Path, model: str, data_name: str) -> Shared:
    _, data = material(model, data_name)
    whole = load_backbone(str(folder))
    key = {
        "purpose": "benchmark on real models",
        "features": FEATURES_VERSION,
        "backbone": whole.fingerprint,
        "precision": "fp32",
        "task": data.task.kind,
        "versions": {name: metadata.version(name) for name in ("torch", "transformers")},
        "rows": {name: _digest(getattr(data, name)) for name in PARTS},
    }
    store = FeatureStore.open(cache_directory() / "benchmarks" / "features", key)
    return Shared(str(folder), data, whole, store)


def _digest(part: Part) -> str:
    """Of all that the backbone is given of a part."""
    made = hashlib.sha256()
    for batch, _ in part.eval_batches(256):
        for name in sorted(set(batch) - {"labels"}):
            made.update(f"{name} {batch[name].dtype} {tuple(batch[name].shape)}".encode())
            made.update(batch[name].contiguous().numpy().data)
    return made.hexdigest()


@contextmanager
def _model(backbone: Backbone, config: MethodConfig, data: RealData, *, seed: int) -> Iterator[TaskModel]:
    """The method on a backbone that is given back as it was."""
    model = build_model(backbone, config, data.task, seed=seed)
    try:
        yield model
    finally:
        model.tuned.remove()
