"""What a configuration will take of the device, before it is started."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from autotune.memory.allocator_rules import AllocatorRules
from autotune.memory.context import DEFAULT_CONTEXT_BYTES, Surroundings
from autotune.memory.events import Event
from autotune.memory.gpu import GpuKind
from autotune.memory.heap import HeapPlan
from autotune.memory.margin import MarginKind, margin_bytes
from autotune.memory.nvml_meter import SOURCE_ASSUMED
from autotune.memory.pairs import Origin, Pair
from autotune.memory.prediction_store import PredictionStore
from autotune.memory.scaling import LEAST_ROWS, ByRows
from autotune.memory.shared_pairs import SharedPairs
from autotune.memory.trace import TraceResult, Workload, trace, trace_with_events
from autotune.outcome import Candidate, MemoryFigures
from sherl.features import stacks_stored
from sherl.forms import BatchForm
from sherl.spec import TaskSpec, TrainingConfig
from sherl.training import evaluation_rows

WithFeatures = Callable[[Candidate, BatchForm, BatchForm], tuple[BatchForm, BatchForm]]

_METERS: dict[MarginKind, str] = {
    "fast": "prediction (fast heap)",
    "tight": "prediction (tight heap)",
    "cuda": "prediction",
}


def heap_plan_of(predicted: MemoryFigures | None) -> HeapPlan:
    """The heap plan that a prediction was made for; a trial's process passes it to
    :func:`autotune.memory.heap.configure_heap`. Tight where nothing was predicted."""
    return "fast" if predicted is not None and predicted.meter == _METERS["fast"] else "tight"


def origin_for(
    backbone_config: Mapping[str, Any],
    *,
    device: Literal["cpu", "cuda"],
    device_name: str = "",
    driver: str = "",
    threads: int = 0,
) -> Origin:
    """What pairs of such trials are of, and must be of to teach them; see :class:`Predictor` for the arguments."""
    version_here, gpu, driver = Surroundings(version("torch"), device_name, driver).key
    model = str(backbone_config.get("model_type", ""))
    if device == "cpu":
        return Origin(torch=version_here, model=model, threads=threads)
    return Origin(torch=version_here, gpu=gpu, driver=driver, model=model)


class Predictor:
    """Predicts the figures of a study's candidates; each shape is traced once, and remembered on disk too.

    On a CPU ``device = baseline_bytes + allocated + margin`` (:mod:`autotune.memory.margin` states the margin), for a
    trial that calls ``make_resident`` on its backbone and ``configure_heap(heap_plan_of(predicted))``. The fast heap is
    taken where it fits the cap, else the tight one. On a GPU ``device = reserved + context + margin``, with the reserved
    bytes of the trace's replay. No GPU is needed for it.

    Args:
        backbone_config: ``config.to_dict()`` of the pretrained model.
        task: what is learnt.
        train_batch: shapes and types of the largest training batch, labels included, given the batch size.
        eval_batch: the same for evaluation, given how many rows it goes through at once.
        baseline_bytes: private bytes of a trial's process after its imports, before it loads anything.
        cap_bytes: chooses the heap plan; None takes the fast one always.
        device: what the trials run on.
        context_bytes: of a CUDA context (:func:`autotune.memory.context.context_bytes`).
        cache_path: a file of JSON lines, read at the start and appended to; lines that are damaged or of other code are passed over.
        device_name: a single GPU's name, as NVML or a person names it; driver: its version; threads: of a trial on a CPU. What
            finished trials teach is kept for each (:class:`autotune.memory.pairs.Origin`); "" and 0 are not known.
        shared_pairs: what this user's other studies taught, and where this one's trials teach them; None: nothing is shared.
        gpu: what kind of GPU it is; None is :class:`GpuKind` as this environment has it, of the default generation.
        rules: what torch's allocator is told where trials run; None is its default.
        with_features: given a candidate and the forms of its two batches, these with the hidden states that its batches bring
            from a store (:mod:`sherl.features`); None: no batch brings any.
    """

    def __init__(
        self,
        backbone_config: Mapping[str, Any],
        task: TaskSpec,
        *,
        train_batch: Callable[[int], BatchForm],
        eval_batch: Callable[[int], BatchForm],
        baseline_bytes: int,
        cap_bytes: int | None = None,
        device: Literal["cpu", "cuda"] = "cpu",
        context_bytes: int = DEFAULT_CONTEXT_BYTES,
        cache_path: Path | None = None,
        device_name: str = "",
        driver: str = "",
        threads: int = 0,
        shared_pairs: SharedPairs | None = None,
        gpu: GpuKind | None = None,
        rules: AllocatorRules | None = None,
        with_features: WithFeatures | None = None,
    ) -> None:
        self._config, self._task = dict(backbone_config), task
        self._train_batch, self._eval_batch = train_batch, eval_batch
        self._baseline_bytes, self._cap_bytes, self._device = baseline_bytes, cap_bytes, device
        self._context_bytes = context_bytes
        self._gpu = None if device == "cpu" else gpu or GpuKind.of()
        self._rules = rules or AllocatorRules()
        self._origin = origin_for(
            backbone_config, device=device, device_name=device_name, driver=driver, threads=threads
        )
        self._with_features = with_features
        self._store = PredictionStore(cache_path, origin=self._origin, context_bytes=context_bytes, shared=shared_pairs)
        self._lock = threading.Lock()

    @property
    def taught_by_others(self) -> int:
        """How many trials of other studies its margins began with."""
        return self._store.from_others

    def workload(self, candidate: Candidate) -> Workload:
        """What of a candidate decides its memory.

        Raises:
            SpecError: its training settings are out of range.
        """
        training = TrainingConfig.from_dict(candidate.training)
        train_batch, eval_batch = self._train_batch(training.batch_size), self._eval_batch(evaluation_rows(training))
        if self._with_features is not None:
            train_batch, eval_batch = self._with_features(candidate, train_batch, eval_batch)
        return Workload(
            backbone_config=self._config,
            method=candidate.method,
            task=self._task,
            training=dataclasses.replace(training, learning_rate=1e-3),
            train_batch=train_batch,
            eval_batch=eval_batch,
        )

    def trace(self, candidate: Candidate) -> TraceResult:
        """Peak tensor bytes and their parts, on a GPU reserved bytes too; traced or remembered.

        Raises:
            SpecError: method or training settings are out of range or do not suit the backbone.
            UnsupportedBackboneError: the backbone's family cannot carry the method.
        """
        return self._traced(self.workload(candidate))

    def predict(self, candidate: Candidate) -> MemoryFigures:
        """The figures of a trial of this candidate; see :meth:`trace` for what it raises.

        ``device`` is more than any trial of this shape held that ended for want of memory (:meth:`learn_breach`).
        """
        workload = self.workload(candidate)
        floor = self._store.breaches.get(self._key(workload), -1) + 1
        return self._figures(self._traced(workload), floor, ahead=self._ahead(workload))

    def by_rows(
        self, candidate: Candidate, *, span: int | None = None
    ) -> Callable[[int], tuple[MemoryFigures, TraceResult]]:
        """The figures of a candidate at any batch size, from two traces: at its own (at least 2) and at ``span`` rows more,
        None: at twice its own. They are true at those two, and elsewhere as far as nothing goes another way there
        (:mod:`autotune.memory.scaling`): :meth:`predict` says the truth of a size, and need not trace these two again.

        The function raises NotEvenError for a size that the two traces say nothing of.

        Raises:
            NotEvenError: the two do not differ by rows alone; :meth:`predict` each size then.
            ValueError: the span is no row.
            SpecError, UnsupportedBackboneError: see :meth:`trace`.
        """

        def workload(rows: int) -> Workload:
            return self.workload(dataclasses.replace(candidate, training={**candidate.training, "batch_size": rows}))

        few = max(LEAST_ROWS, TrainingConfig.from_dict(candidate.training).batch_size)
        many = few + (few if span is None else span)
        scaled = ByRows(self._events(workload(few)), self._events(workload(many)), few, many)

        def figures(rows: int) -> tuple[MemoryFigures, TraceResult]:
            at_rows = workload(rows)
            traced = (
                self._traced(at_rows)
                if rows < LEAST_ROWS
                else scaled.at(rows, for_gpu=self._gpu is not None, rules=self._rules)
            )
            return self._figures(traced, floor=0, ahead=self._ahead(at_rows)), traced

        return figures

    def _ahead(self, workload: Workload) -> int:
        """Of a GPU: bytes of the batch that is copied there while the one before it is in use, where batches bring hidden states
        from a store. It lies in segments of a stream of its own, which a trace does not show."""
        if self._device == "cpu" or not stacks_stored(workload.train_batch):
            return 0
        return sum(form.nbytes for form in workload.train_batch.values())

    def _figures(self, traced: TraceResult, floor: int, *, ahead: int) -> MemoryFigures:
        if self._device == "cuda":
            assert traced.reserved is not None  # priced for a GPU
            assert traced.blocks is not None
            reserved = traced.reserved + ahead
            device = reserved + self._context_bytes + self._margin("cuda", reserved)
            return MemoryFigures(
                allocated=traced.blocks, reserved=reserved, device=max(device, floor), meter=_METERS["cuda"]
            )
        fast = self._on_cpu("fast", traced.allocated, floor)
        if self._cap_bytes is None or fast.device <= self._cap_bytes:
            return fast
        return self._on_cpu("tight", traced.allocated, floor)

    def calibrate(self, predicted: MemoryFigures, measured: MemoryFigures) -> None:
        """Learn from a finished trial: its prediction and its measured ``device``. Kept on disk beside the traces, and for
        later studies where pairs are shared."""
        pair = self._pair(predicted, measured.device)
        if measured.meter == SOURCE_ASSUMED and measured.reserved is not None:
            pair = dataclasses.replace(pair, assumed_context=measured.device - measured.reserved)
        with self._lock:
            self._store.add_pair(pair, share=True)

    def learn_breach(self, candidate: Candidate, held_bytes: int, *, refused_by_cap: bool = True) -> None:
        """Learn from a trial that ended for want of memory, so that the same shape is not mistaken twice. Kept on disk beside the
        traces.

        held_bytes: what it held of the device when it ended. It needs more than that: the next prediction of this
        shape says so. refused_by_cap: the cap ended it (by its guard, its rehearsal or an allocation refused), so it needs more
        than this predictor's cap too; False where the machine had no memory left. Where what it held was beyond its own
        margin, margins learn too.

        Raises:
            ValueError: it held less than nothing.
            SpecError, UnsupportedBackboneError: see :meth:`trace`.
        """
        if held_bytes < 0:
            raise ValueError(f"A trial holds at least 0 bytes, {held_bytes} were given.")
        predicted = self.predict(candidate)
        key = self._key(self.workload(candidate))
        least = (self._cap_bytes or 0) if refused_by_cap else 0
        with self._lock:
            known = self._store.breaches.get(key, 0)
            self._store.add_breach(key, max(held_bytes, least, known), predicted.device)
            if held_bytes > predicted.device:
                # not shared: a margin that one such trial raised must not refuse the trials of later studies, whose pairs
                # would lower it again
                self._store.add_pair(self._pair(predicted, held_bytes), share=False)

    def _traced(self, workload: Workload) -> TraceResult:
        key = self._trace_key(workload)
        with self._lock:  # two threads that want one shape trace it once
            known = self._store.traces.get(key)
            if known is None:
                known = trace(workload, self._gpu, self._rules)
                self._store.add_trace(key, known)
        return known

    def _events(self, workload: Workload) -> list[Event]:
        key = self._trace_key(workload)
        with self._lock:
            result, events = trace_with_events(workload, self._gpu, self._rules)
            if key not in self._store.traces:
                self._store.add_trace(key, result)
        return events

    def _key(self, workload: Workload) -> str:
        return workload.key if self._gpu is None else f"{workload.key} {self._gpu.key}"

    def _trace_key(self, workload: Workload) -> str:
        told = self._rules.key if self._gpu is not None else ""
        return f"{self._key(workload)} {told}".rstrip()

    def _pair(self, predicted: MemoryFigures, held: int) -> Pair:
        if self._device == "cuda":
            base = predicted.allocated if predicted.reserved is None else predicted.reserved
            return Pair(kind="cuda", base=base, beyond=held - base, origin=self._origin)
        beyond = held - self._baseline_bytes - predicted.allocated
        return Pair(kind=heap_plan_of(predicted), base=predicted.allocated, beyond=beyond, origin=self._origin)

    def _on_cpu(self, plan: HeapPlan, allocated: int, floor: int) -> MemoryFigures:
        device = self._baseline_bytes + allocated + self._margin(plan, allocated)
        return MemoryFigures(allocated=allocated, device=max(device, floor), meter=_METERS[plan])

    def _margin(self, kind: MarginKind, base: int) -> int:
        return margin_bytes(kind, base, self._store.scores.get(kind, ()))
