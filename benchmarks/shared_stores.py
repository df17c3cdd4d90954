"""Seconds a training step on stored hidden states and without them, and seconds of storing: parts of ``shared_features.py``."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autotune.features.build import build, row_layouts
from autotune.features.part import FeaturePart
from autotune.features.reader import Reader
from autotune.features.store import FeatureStore
from sherl.backbones import Backbone, load_backbone
from sherl.data import Part
from sherl.data.batching import training_plan
from sherl.features import Place
from sherl.methods import MethodConfig, method_from_dict
from sherl.model import build_model
from sherl.optimizer import make_optimizer
from sherl.sharing import needs_of, without_for
from sherl.spec import TaskSpec, TrainingConfig
from sherl.training import train_step

WARM_UP = 3
"""Steps of each way whose time is not counted; by their losses it is seen that all ways compute the same."""
SAME = 1e-5
"""What losses of these first steps may be apart, relative; later ones may be further, as training makes more of what rounding left."""
SEED = 0


def store_places(
    root: Path, backbone: Backbone, part: Part, places: Iterable[tuple[str, int]], batch_size: int
) -> FeatureStore:
    """A store in a folder with these places of a part."""
    store = FeatureStore.open(root, {"backbone": backbone.fingerprint, "rows": len(part)})
    layouts = row_layouts(backbone, part, places)
    with store.writer(part.name, layouts) as writer:
        build(backbone, part, writer, batch_size=batch_size)
    return store


def measure_steps(
    folder: Path,
    task: TaskSpec,
    part: Part,
    methods: dict[str, dict[str, Any]],
    *,
    steps: int,
    batch_size: int,
    scratch: Path,
) -> Iterable[tuple[str, dict[str, Any]]]:
    """For each method its name and the median seconds of a step of three ways, over the same batches in turn.

    ``whole``: the whole backbone, tokens or pixels read from the data. ``reading``: a backbone without its early blocks, the batch
    made by :class:`autotune.features.FeaturePart`. ``own``: the same step on a batch that lies in memory with its hidden
    states.

    Raises:
        RuntimeError: losses of ``reading`` and ``own`` are not the same, or the first of ``whole`` are others.
    """
    configs = {name: method_from_dict(dict(method)) for name, method in methods.items()}
    backbone = load_backbone(str(folder))
    needs = {name: needs_of(config, task, backbone) for name, config in configs.items()}
    with tempfile.TemporaryDirectory(dir=scratch) as temporary:
        every = sorted(frozenset[Place]().union(*needs.values()))
        store = store_places(Path(temporary), backbone, part, every, batch_size)
        del backbone
        for name, config in configs.items():
            reader = store.reader(part.name, sorted(needs[name]))
            if reader is None:
                raise RuntimeError(f"What was just stored cannot be read: {' '.join(store.notes)}")
            with reader:
                row = _steps(folder, task, part, reader, config, steps, batch_size)
            yield name, {**row, "places": len(needs[name])}


class _Way:
    """A model that learns, and the seconds of its steps."""

    def __init__(
        self, backbone: Backbone, config: MethodConfig, task: TaskSpec, training: TrainingConfig, steps: int
    ) -> None:
        self.model = build_model(backbone, config, task, seed=SEED)
        self.training = training
        self.optimizer, self.scheduler = make_optimizer(self.model, training, total_steps=steps)
        self.seconds: list[float] = []
        self.losses: list[float] = []

    def step(self, batch: Callable[[], dict[str, Tensor]]) -> None:
        torch.manual_seed(SEED + len(self.losses))  # all ways drop the same
        began = time.perf_counter()
        loss = train_step(self.model, batch(), self.optimizer, self.scheduler, self.training)
        self.seconds.append(time.perf_counter() - began)
        self.losses.append(float(loss))


def _steps(
    folder: Path, task: TaskSpec, part: Part, reader: Reader, config: MethodConfig, steps: int, batch_size: int
) -> dict[str, Any]:
    training = TrainingConfig(learning_rate=1e-3, batch_size=batch_size, epochs=1, seed=SEED)
    whole = load_backbone(str(folder))
    without = without_for(config, task, whole, {place.stack for place in reader.places})
    lights = [load_backbone(str(folder), without=without) for _ in range(2)]
    ways = {
        name: _Way(backbone, config, task, training, steps + WARM_UP)
        for name, backbone in zip(("whole", "reading", "own"), (whole, *lights), strict=True)
    }
    with_features = FeaturePart(part, reader)
    plan = [
        rows
        for epoch in range(1 + (steps + WARM_UP) * batch_size // len(part))
        for rows in training_plan(part.lengths, batch_size, seed=SEED, epoch=epoch)
    ]
    for number, rows in enumerate(plan[: steps + WARM_UP]):
        ready = with_features.batch(rows)
        sources: dict[str, Callable[[], dict[str, Tensor]]] = {
            "whole": lambda rows=rows: part.batch(rows),
            "reading": lambda rows=rows: with_features.batch(rows),
            "own": lambda ready=ready: ready,
        }
        for turn in range(3):  # no way is always the first, or always behind the same one
            name = list(ways)[(number + turn) % 3]
            ways[name].step(sources[name])
    _check(ways)
    median = {name: statistics.median(way.seconds[WARM_UP:]) for name, way in ways.items()}
    return {
        **median,
        "steps": steps,
        "batch_size": batch_size,
        "loss_difference": _apart(ways["whole"], ways["reading"]),
    }


def _check(ways: dict[str, _Way]) -> None:
    if ways["reading"].losses != ways["own"].losses:
        raise RuntimeError("A step that reads and the same step on a batch in memory came to different losses.")
    if _apart(ways["whole"], ways["reading"]) > SAME:
        raise RuntimeError(
            "Losses of the first steps with and without the store are apart: "
            f"{ways['reading'].losses[:WARM_UP]} with, {ways['whole'].losses[:WARM_UP]} without."
        )


def _apart(one: _Way, other: _Way) -> float:
    return max(
        abs(mine - theirs) / abs(theirs)
        for mine, theirs in zip(one.losses[:WARM_UP], other.losses[:WARM_UP], strict=True)
    )


def measure_building(folder: Path, part: Part, *, batch_size: int, repeats: int, scratch: Path) -> dict[str, Any]:
    """Seconds of storing h_0 ... h_N of all stacks, files finished and synced, and of the plain forward over the same batches.

    In turn; the fastest of the repeats of each, as other work only adds to it. bytes: of the store's files.
    """
    backbone = load_backbone(str(folder))
    places = [Place(name, n) for name, span in backbone.stacks.items() for n in range(len(span) + 1)]
    forward, building, held = [], [], 0
    with torch.no_grad():
        backbone.encode(part.largest_batch(batch_size))  # the first run of all is slower
    for turn in range(2 * repeats):
        # which one is first changes, so that neither has always the warmer machine
        if turn % 2 == (turn // 2) % 2:
            began = time.perf_counter()
            with torch.no_grad():
                for batch, _ in part.eval_batches(batch_size):
                    backbone.encode(batch)
            forward.append(time.perf_counter() - began)
            continue
        with tempfile.TemporaryDirectory(dir=scratch) as temporary:
            began = time.perf_counter()
            store = store_places(Path(temporary), backbone, part, places, batch_size)
            building.append(time.perf_counter() - began)
            held = store.usage().bytes
    return {
        "rows": len(part),
        "places": len(places),
        "batch_size": batch_size,
        "forward_seconds": min(forward),
        "building_seconds": min(building),
        "all_forward_seconds": forward,
        "all_building_seconds": building,
        "bytes": held,
    }
