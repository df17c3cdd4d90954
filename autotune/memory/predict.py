"""What a configuration will take of the device, before it is started."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from autotune.memory.heap import HeapPlan
from autotune.memory.margin import MarginKind, margin_bytes, score
from autotune.memory.nvml_meter import DEFAULT_CONTEXT_BYTES
from autotune.memory.trace import Shape, TraceResult, Workload, trace
from autotune.outcome import Candidate, MemoryFigures
from sherl.spec import TaskSpec, TrainingConfig
from sherl.training import micro_batch_rows

_METERS: dict[MarginKind, str] = {
    "fast": "prediction (fast heap)",
    "tight": "prediction (tight heap)",
    "cuda": "prediction",
}


def heap_plan_of(predicted: MemoryFigures | None) -> HeapPlan:
    """The heap plan that a prediction was made for; a trial's process passes it to
    :func:`autotune.memory.heap.configure_heap`. Tight where nothing was predicted."""
    return "fast" if predicted is not None and predicted.meter == _METERS["fast"] else "tight"


class Predictor:
    """Predicts the figures of a study's candidates; each shape is traced once, and remembered on disk too.

    On a CPU ``device = baseline_bytes + allocated + margin`` (:mod:`autotune.memory.margin` states the margin), for a
    trial that calls ``make_resident`` on its backbone and ``configure_heap(heap_plan_of(predicted))``. The fast heap is
    taken where it fits the cap, else the tight one. On a GPU ``device = allocated + allocator's allowance + context``.

    Args:
        backbone_config: ``config.to_dict()`` of the pretrained model.
        task: what is learnt.
        train_shape: rows and tokens of the largest training batch, given the batch size.
        eval_shape: the same for evaluation, given the rows of a micro-batch.
        baseline_bytes: private bytes of a trial's process after its imports, before it loads anything.
        cap_bytes: chooses the heap plan; None takes the fast one always.
        device: what the trials run on.
        has_token_types: whether batches hold ``token_type_ids``.
        context_bytes: of a CUDA context.
        cache_path: a file of JSON lines, read at the start and appended to; lines that are damaged or of other code are passed over.
    """

    def __init__(
        self,
        backbone_config: Mapping[str, Any],
        task: TaskSpec,
        *,
        train_shape: Callable[[int], Shape],
        eval_shape: Callable[[int], Shape],
        baseline_bytes: int,
        cap_bytes: int | None = None,
        device: Literal["cpu", "cuda"] = "cpu",
        has_token_types: bool = True,
        context_bytes: int = DEFAULT_CONTEXT_BYTES,
        cache_path: Path | None = None,
    ) -> None:
        self._config, self._task = dict(backbone_config), task
        self._train_shape, self._eval_shape = train_shape, eval_shape
        self._baseline_bytes, self._cap_bytes, self._device = baseline_bytes, cap_bytes, device
        self._has_token_types, self._context_bytes = has_token_types, context_bytes
        self._store = _Store(cache_path)
        self._lock = threading.Lock()

    def workload(self, candidate: Candidate) -> Workload:
        """What of a candidate decides its memory.

        Raises:
            SpecError: its training settings are out of range.
        """
        training = TrainingConfig.from_dict(candidate.training)
        return Workload(
            backbone_config=self._config,
            method=candidate.method,
            task=self._task,
            training=dataclasses.replace(training, learning_rate=1e-3),
            train_shape=self._train_shape(training.batch_size),
            eval_shape=self._eval_shape(micro_batch_rows(training)),
            has_token_types=self._has_token_types,
        )

    def trace(self, candidate: Candidate) -> TraceResult:
        """Peak tensor bytes and their parts, traced or remembered.

        Raises:
            SpecError: method or training settings are out of range or do not suit the backbone.
            UnsupportedBackboneError: the backbone's family cannot carry the method.
        """
        workload = self.workload(candidate)
        key = workload.key
        with self._lock:  # two threads that want one shape trace it once
            known = self._store.traces.get(key)
            if known is None:
                known = trace(workload)
                self._store.add_trace(key, known)
        return known

    def predict(self, candidate: Candidate) -> MemoryFigures:
        """The figures of a trial of this candidate; see :meth:`trace` for what it raises."""
        allocated = self.trace(candidate).allocated
        if self._device == "cuda":
            reserved = allocated + self._margin("cuda", allocated)
            device = reserved + self._context_bytes
            return MemoryFigures(allocated=allocated, reserved=reserved, device=device, meter=_METERS["cuda"])
        fast = self._on_cpu("fast", allocated)
        if self._cap_bytes is None or fast.device <= self._cap_bytes:
            return fast
        return self._on_cpu("tight", allocated)

    def calibrate(self, predicted: MemoryFigures, measured: MemoryFigures) -> None:
        """Learn from a finished trial: its prediction and its measured ``device``. Kept on disk beside the traces."""
        kind: MarginKind = "cuda" if self._device == "cuda" else heap_plan_of(predicted)
        outside = self._context_bytes if kind == "cuda" else self._baseline_bytes
        with self._lock:
            self._store.add_score(
                kind, score(kind, predicted.allocated, measured.device - outside - predicted.allocated)
            )

    def _on_cpu(self, plan: HeapPlan, allocated: int) -> MemoryFigures:
        device = self._baseline_bytes + allocated + self._margin(plan, allocated)
        return MemoryFigures(allocated=allocated, device=device, meter=_METERS[plan])

    def _margin(self, kind: MarginKind, allocated: int) -> int:
        return margin_bytes(kind, allocated, self._store.scores.get(kind, ()))


class _Store:
    """Traces and scores in memory, and in a file of JSON lines where a path is given."""

    def __init__(self, path: Path | None) -> None:
        self.traces: dict[str, TraceResult] = {}
        self.scores: dict[MarginKind, list[float]] = {}
        self._path = path
        if path is not None and path.exists():
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                # a line cut short by a crash is no reason to stop; what it held is traced again
                with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
                    self._take(json.loads(line))

    def add_trace(self, key: str, result: TraceResult) -> None:
        self.traces[key] = result
        self._append({"trace": key, "allocated": result.allocated, "parts": result.parts})

    def add_score(self, kind: MarginKind, value: float) -> None:
        self.scores.setdefault(kind, []).append(value)
        self._append({"score": value, "kind": kind})

    def _take(self, line: dict[str, Any]) -> None:
        if "trace" in line:
            parts = {str(part): int(count) for part, count in line["parts"].items()}
            self.traces[str(line["trace"])] = TraceResult(allocated=int(line["allocated"]), parts=parts)
        elif "score" in line and line["kind"] in _METERS:
            self.scores.setdefault(line["kind"], []).append(float(line["score"]))

    def _append(self, line: dict[str, Any]) -> None:
        """One line in one write, which the system does whole. It begins with a line break, in case a crash cut the last line."""
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, b"\n" + json.dumps(line).encode() + b"\n")
        finally:
            os.close(descriptor)
