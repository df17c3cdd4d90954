"""Which hidden states a study's trials read from a store, and the phase in which they are put there."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Self

from autotune.config import StudyConfig
from autotune.features.errand import Errand, Stored, Wanted
from autotune.features.marks import PARTS
from autotune.features.reader import Reader
from autotune.features.shared import SharedFeatures, with_features
from autotune.memory.context import context_on
from autotune.memory.device import DeviceInfo
from autotune.memory.meter import METERS
from autotune.outcome import Candidate
from autotune.space import SearchSpace
from autotune.study.filling import run_worker
from autotune.study.listener import StudyListener
from autotune.units import count_words, format_bytes, format_duration
from sherl.backbones import Backbone
from sherl.cache import cache_directory
from sherl.data import PreparedData
from sherl.errors import SherlError
from sherl.features import Place
from sherl.forms import BatchForm, blank_batch, widest
from sherl.methods import method_from_dict
from sherl.sharing import needs_of, why_not, without_for

FOLDER = "features"
DRAWS, MOST_METHODS = 512, 128
"""Configurations that are drawn to see what a space's trials would read, until so many different methods have been seen: each
takes some ten milliseconds to look at."""
SHARE_OF_TIME = 0.5
"""Of a study's time budget, what storing may take at most; it is ended then."""
SLOW = {"cpu": 2e10, "cuda": 5e12}
"""Operations a second that any machine of this kind manages: by these a study's frozen computing takes at most so long."""
WORKER_SECONDS = 10.0
"""What it takes at least to start the process that measures; a study that computes less is not worth the question."""


class StudyFeatures:
    """What there is to read, by precision, held open until the ``with`` ends so that nothing is evicted.

    Asked for each candidate: :meth:`of` for its request, :meth:`forms` for its prediction.
    """

    def __init__(self, backbone: Backbone, data: PreparedData) -> None:
        """backbone: without weights."""
        self._backbone, self._data = backbone, data
        self._stored: dict[str, tuple[str, Stored, dict[str, Reader]]] = {}
        self._shared: dict[str, SharedFeatures | None] = {}
        self._held = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._held.close()
        self._stored.clear()
        self._shared.clear()

    def add(self, precision: str, root: str, stored: Stored, readers: Mapping[str, Reader]) -> None:
        """What lies in a store, open for reading."""
        for reader in readers.values():
            self._held.enter_context(reader)
        self._stored[precision] = (root, stored, dict(readers))
        self._shared.clear()

    def of(self, candidate: Candidate) -> SharedFeatures | None:
        """What a trial of this candidate reads; None where it computes everything itself."""
        realised = candidate.realised
        precision = str(realised.training.get("precision", "fp32"))
        if precision not in self._stored:
            return None
        key = json.dumps([realised.method, precision], sort_keys=True)
        if key not in self._shared:
            self._shared[key] = self._found(realised.method, precision)
        return self._shared[key]

    def lost(self, candidate: Candidate) -> bool:
        """Whether what this candidate reads cannot be opened here any more; then nothing of its precision is read from now on."""
        shared = self.of(candidate)
        if shared is None:
            return False
        opened = shared.readers(PARTS, [])
        if opened is None:
            del self._stored[str(candidate.realised.training.get("precision", "fp32"))]
            self._shared.clear()
            return True
        for reader in opened.values():
            reader.close()
        return False

    def _found(self, method: Mapping[str, Any], precision: str) -> SharedFeatures | None:
        root, stored, _ = self._stored[precision]
        config, task = method_from_dict(dict(method)), self._data.task
        try:
            needs = needs_of(config, task, self._backbone)
        except SherlError:
            return None  # the prediction will say what is wrong with it
        if not needs or not needs.issubset(stored.places) or tuple(sorted(needs)) in stored.slower:
            return None
        stacks = {place.stack for place in needs}
        without = without_for(config, task, self._backbone, stacks)
        return SharedFeatures(root=root, key=stored.key, places=tuple(sorted(needs)), without=without)

    def forms(self, candidate: Candidate, train: BatchForm, evaluation: BatchForm) -> tuple[BatchForm, BatchForm]:
        """The forms of a trial's largest batches with what it reads beside them."""
        shared = self.of(candidate)
        if shared is None:
            return train, evaluation
        _, _, readers = self._stored[str(candidate.realised.training.get("precision", "fp32"))]
        rows = [form["labels"].shape[0] for form in (train, evaluation)]
        of_train, *of_others = (
            {place: readers[part].layout(place) for place in shared.places} for part in ("train", "valid", "test")
        )
        larger = [with_features(evaluation, layouts, rows[1]) for layouts in of_others]
        return with_features(train, of_train, rows[0]), widest(*larger)


def store_features(
    config: StudyConfig,
    backbone: Backbone,
    data: PreparedData,
    space: SearchSpace,
    device: DeviceInfo,
    threads: int,
    listener: StudyListener,
    run: Callable[[Errand, Callable[[dict[str, Any]], None]], Stored | str] | None = None,
    *,
    deadline: float | None = None,
) -> StudyFeatures:
    """The phase: ask what the space's trials would read, let a process of its own decide and store it, open it.

    Whatever goes wrong is said, and the study goes on without.

    Args:
        backbone: without weights.
        device, threads: that the storing process computes with, under the same cap as a trial.
        run: starts that process; for tests.
        deadline: of the study, in the clock of ``time.monotonic``; half of what is left then is for storing.
    """
    made = StudyFeatures(backbone, data)
    if config.features == "off":
        return made
    wanted, told = _wanted(config, backbone, data, space)
    for text in told:
        listener.note(text)
    mode = config.features if config.features in ("auto", "on") else "on"
    if mode == "auto" and wanted:
        most = _most_seconds(backbone, data, wanted, device.kind)
        if most < WORKER_SECONDS:
            listener.note(
                f"no hidden states are stored: all frozen computing of this study takes no more than {format_duration(most)}"
            )
            return made
    root = cache_directory() / FOLDER if config.features in ("auto", "on") else Path(config.features)
    for precision, sorts in wanted.items():
        errand = Errand(
            source=config.model,
            prepared=str(data.directory.resolve()),
            root=str(root.expanduser().resolve()),
            precision=precision,  # type: ignore[arg-type]  # the space checked it
            device=device.kind,
            threads=threads,
            mode=mode,
            wanted=sorts,
            budget=config.features_budget,
            allocator_bytes=_allocator_bytes(config, device),
            plugins=config.plugins,
        )
        listener.phase("features", f"hidden states of {count_words(len(sorts), 'sort')} of trials, in {errand.root}")
        seconds = None if deadline is None else SHARE_OF_TIME * max(0.0, deadline - time.monotonic())
        work = run or partial(run_worker, cap=config.memory_cap, meter=METERS.get(device.meter)(), seconds=seconds)
        stored = work(errand, lambda message: _tell(message, listener))
        if isinstance(stored, str):
            listener.warning(f"no hidden states are stored, every trial computes its own: {stored}")
            continue
        if not stored.places:
            listener.note(f"no hidden states are stored: {stored.reason}")
            continue
        notes: list[str] = []
        whole = SharedFeatures(root=errand.root, key=stored.key, places=stored.places, without=None)
        readers = whole.readers(PARTS, notes)
        for note in notes:
            listener.warning(note)
        if readers is None:
            listener.warning("what was stored cannot be read: every trial computes its own hidden states")
            continue
        made.add(precision, errand.root, stored, readers)
        some = "" if stored.verdict == "all" else "; some trials compute their own"
        listener.note(
            f"stored: {stored.reason} ({format_bytes(stored.bytes)} on disk, ready after {format_duration(stored.seconds)}){some}"
        )
    return made


def _wanted(
    config: StudyConfig, backbone: Backbone, data: PreparedData, space: SearchSpace
) -> tuple[dict[str, tuple[Wanted, ...]], list[str]]:
    """By precision, the sorts of trials that would read a store, by a sample of the space; and why others would not."""
    chance = random.Random(config.seed)
    known: dict[str, tuple[str | None, tuple[Place, ...]]] = {}
    passes: dict[str, Counter[tuple[Place, ...]]] = {}
    without: dict[str, str] = {}
    draws = 0
    while draws < DRAWS and len(known) < MOST_METHODS:
        draws += 1
        drawn = space.random(chance).realised
        key = json.dumps(drawn.method, sort_keys=True)
        if key not in known:
            method = method_from_dict(dict(drawn.method))
            try:
                reason = why_not(method, data.task, backbone)
                needs = () if reason is not None else tuple(sorted(needs_of(method, data.task, backbone)))
            except SherlError:
                reason, needs = None, ()  # refused where it is planned
            known[key] = reason, needs
        reason, needs = known[key]
        if reason is not None:
            without.setdefault(drawn.method["name"], reason)
        elif needs:
            precision = str(drawn.training.get("precision", "fp32"))
            epochs = float(drawn.training.get("epochs", 1))
            passes.setdefault(precision, Counter())[needs] += epochs * config.trials  # type: ignore[assignment]
    wanted = {
        precision: tuple(Wanted(places=places, passes=count / draws) for places, count in counted.items())
        for precision, counted in passes.items()
    }
    return wanted, [f"without stored hidden states: {reason}" for reason in _reasons(without)]


def _reasons(by_method: dict[str, str]) -> list[str]:
    """Each reason once, with all methods that it holds for."""
    alike: dict[str, list[str]] = {}
    for name, reason in by_method.items():
        alike.setdefault(reason.removeprefix(f"method {name} "), []).append(name)
    return [
        by_method[names[0]] if len(names) == 1 else f"methods {', '.join(names)}, each of which {reason}"
        for reason, names in alike.items()
    ]


def _most_seconds(
    backbone: Backbone, data: PreparedData, wanted: Mapping[str, tuple[Wanted, ...]], device: str
) -> float:
    """What all frozen passes of a study take on a slow machine of this kind: two operations for each weight and position."""
    weights = sum(parameter.numel() for block in backbone.blocks for parameter in block.parameters())
    positions = 0
    for name in ("train", "valid"):
        part = data.part(name)
        longest = int(backbone.keep(blank_batch(part.largest_form(1))).shape[1])
        positions += int(part.lengths.sum()) if "input_ids" in part.largest_form(1) else longest * len(part)
    passes = sum(one.passes for sorts in wanted.values() for one in sorts)
    return 2 * weights * positions * passes / SLOW[device]


def _allocator_bytes(config: StudyConfig, device: DeviceInfo) -> int | None:
    if device.kind == "cpu":
        return None
    return max(1, config.memory_cap - context_on(device))


def _tell(message: Mapping[str, Any], listener: StudyListener) -> None:
    if "note" in message:
        listener.note(str(message["note"]))
    if "rows" in message:
        listener.progress("rows' hidden states stored", *message["rows"])
