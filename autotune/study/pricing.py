"""What each configuration of a space would take of a device: from a model's configuration alone, before anything is had."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from autotune.memory.allocator_rules import AllocatorRules
from autotune.memory.context import DEFAULT_CONTEXT_BYTES
from autotune.memory.gpu import GpuKind
from autotune.memory.predict import Predictor
from autotune.memory.scaling import NotEvenError
from autotune.memory.shared_pairs import SharedPairs
from autotune.memory.trace import TraceResult
from autotune.outcome import Candidate, MemoryFigures
from autotune.plugins import load_plugins
from autotune.space import SearchSpace, shape_key
from autotune.study.largest_batch import MOST_ROWS, Cost, largest_confirmed
from autotune.study.stored_forms import StoredForms
from sherl.errors import SherlError
from sherl.forms import BatchForm, with_rows
from sherl.spec import TaskSpec

_Figures = Callable[[int], tuple[MemoryFigures, TraceResult]]  # by rows

FEW = 8  # so many configurations are priced faster by one process than two can start


@dataclass(frozen=True, kw_only=True)
class PricingJob:
    """What is priced, as plain data that travels to other processes.

    backbone_config: ``config.to_dict()``. row: shapes and types of a batch of one row, labels included. cap: bytes of the device. device_name:
    for people; gpu_kind: what a single GPU of it is called, driver: its version, under which is kept what finished trials taught,
    in pairs_file (None: nothing is read). capability: compute
    capability of the GPU, None where it is not known. baseline_bytes: of a CPU trial's process after its imports. plugins: modules that those processes import first.
    stored: whether trials read hidden states of frozen layers from a store where they can. rules: what the
    GPU's allocator is told.
    """

    backbone_config: Mapping[str, Any]
    task: TaskSpec
    row: BatchForm
    cap: int
    device: Literal["cpu", "cuda"]
    device_name: str = ""
    gpu_kind: str = ""
    driver: str = ""
    pairs_file: Path | None = None
    capability: tuple[int, int] | None = None
    context_bytes: int = DEFAULT_CONTEXT_BYTES
    baseline_bytes: int = 0
    plugins: tuple[str, ...] = ()
    stored: bool = False
    rules: AllocatorRules = field(default_factory=AllocatorRules)


@dataclass(frozen=True, kw_only=True)
class Price:
    """What one configuration takes.

    figures: predicted. parts: bytes at the peak of tensor bytes, by what they are for. largest_batch: the most rows of
    an optimizer step, gone through at once, that keep the device figure within the cap; 0 where not even one does, None
    where it was not asked for. largest_batch_is_bound: whether more were not looked for, so that more may fit. reads: whether it is of a trial that reads stored hidden states. problem: why the configuration cannot be
    had at all; then there are no figures.
    """

    candidate: Candidate
    figures: MemoryFigures | None = None
    parts: dict[str, int] = field(default_factory=dict)
    largest_batch: int | None = None
    largest_batch_is_bound: bool = False
    reads: bool = False
    problem: str = ""

    @property
    def dominant(self) -> tuple[str, float]:
        """The part that takes most, and its share of the tensor bytes."""
        part = max(self.parts, key=lambda name: self.parts[name], default="")
        return part, self.parts[part] / max(1, sum(self.parts.values())) if part else 0.0

    @property
    def largest_words(self) -> str:
        """The largest batch in words; "-" where it is not known."""
        if self.largest_batch is None:
            return "-"
        return f"{self.largest_batch:,} or more" if self.largest_batch_is_bound else str(self.largest_batch)

    def fits(self, cap: int) -> bool:
        """Whether the device figure is within the cap."""
        return self.figures is not None and self.figures.device <= cap

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dictionary; sizes are bytes."""
        part, share = self.dominant
        figures = self.figures
        return {
            "configuration": self.candidate.label,
            "method": self.candidate.method,
            "training": self.candidate.training,
            "allocated_bytes": figures.allocated if figures else None,
            "reserved_bytes": figures.reserved if figures else None,
            "device_bytes": figures.device if figures else None,
            "parts_bytes": self.parts,
            "dominant": part or None,
            "dominant_share": share if part else None,
            "largest_batch": self.largest_batch,
            "largest_batch_is_bound": self.largest_batch_is_bound,
            "reads_stored": self.reads,
            "problem": self.problem or None,
        }


class Pricer:
    """Prices configurations one by one; keeps what it traced."""

    def __init__(self, job: PricingJob) -> None:
        self._cap = job.cap

        def batch(rows: int) -> BatchForm:
            return with_rows(job.row, rows)

        self._stored = StoredForms(job.backbone_config, job.task, job.row) if job.stored else None
        self._predictor = Predictor(
            job.backbone_config,
            job.task,
            train_batch=batch,
            eval_batch=batch,
            baseline_bytes=job.baseline_bytes,
            cap_bytes=job.cap,
            device=job.device,
            context_bytes=job.context_bytes,
            device_name=job.gpu_kind,
            driver=job.driver,
            shared_pairs=None if job.pairs_file is None else SharedPairs(job.pairs_file),
            gpu=GpuKind.of(job.capability, name=job.gpu_kind) if job.device == "cuda" else None,
            rules=job.rules,
            with_features=self._stored,
        )

    def price(self, candidate: Candidate, *, largest_batch: bool) -> Price:
        """The price of a candidate at its own batch size, and the largest batch that fits where that is asked for."""
        try:
            reads = self._stored is not None and bool(self._stored.reads(candidate))
            # first, since what these trace need not be traced again
            lines = _Lines(self._predictor, candidate) if largest_batch else None
            figures, parts = self._predictor.predict(candidate), self._predictor.trace(candidate).parts
            most = None if lines is None else self._largest_batch(candidate, lines)
            bound = most is not None and most == most_rows(candidate)
        except SherlError as error:
            return Price(candidate=candidate, problem=str(error))
        return Price(
            candidate=candidate,
            figures=figures,
            parts=parts,
            largest_batch=most,
            largest_batch_is_bound=bound,
            reads=reads,
        )

    def _largest_batch(self, candidate: Candidate, lines: _Lines) -> int:
        start, most = int(candidate.training["batch_size"]), most_rows(candidate)
        return largest_confirmed(
            lambda rows: self._device(candidate, rows), lines.near, self._cap, start=start, most=most
        )

    def _device(self, candidate: Candidate, rows: int) -> int:
        return self._predictor.predict(_resized(candidate, rows)).device


class _Lines:
    """What a candidate takes of the device by its rows, about: from two traces of its own size and of twice that, and where
    that was off from two of nearly the size that was found."""

    def __init__(self, predictor: Predictor, candidate: Candidate) -> None:
        self._predictor, self._candidate = predictor, candidate
        self._at: _Figures | None = None
        with contextlib.suppress(NotEvenError):  # `near` says so, where it is asked
            self._at = predictor.by_rows(candidate)

    def near(self, rows: int) -> Cost:
        """The device bytes by rows, most exact near this many.

        Raises:
            NotEvenError: traces there do not differ by rows alone. The cost raises it too, of sizes that they say nothing of.
        """
        at = self._at
        if at is None or rows != int(self._candidate.training["batch_size"]):
            at = self._predictor.by_rows(_resized(self._candidate, rows), span=max(1, rows // 8))
        return lambda count: at(count)[0].device


def most_rows(candidate: Candidate) -> int:
    """The largest batch that is looked for: :data:`MOST_ROWS`, or what the candidate has where that is more."""
    return max(MOST_ROWS, int(candidate.training["batch_size"]))


def _resized(candidate: Candidate, rows: int) -> Candidate:
    return replace(candidate, training={**candidate.training, "batch_size": rows})


def shapes_at(space: SearchSpace, batch_size: int) -> list[Candidate]:
    """Every configuration of the space that differs in memory at this batch size, without accumulation."""
    first: dict[str, Candidate] = {}
    for shape in space.shapes():
        candidate = replace(shape, training={**shape.training, "batch_size": batch_size, "accumulation": 1})
        first.setdefault(shape_key(candidate), candidate)
    return list(first.values())


def price_all(
    job: PricingJob, candidates: Sequence[Candidate], *, processes: int, largest_batch: bool = True
) -> Iterator[Price]:
    """Prices in the order of the candidates, as they come; several processes share the work where there is enough."""
    if processes < 2 or len(candidates) <= FEW:
        pricer = Pricer(job)
        for candidate in candidates:
            yield pricer.price(candidate, largest_batch=largest_batch)
        return
    # started anew rather than forked: torch has threads here
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_begin, initargs=(job,)) as pool:
        yield from pool.map(_price, candidates, [largest_batch] * len(candidates))


_pricer: Pricer | None = None


def _begin(job: PricingJob) -> None:
    global _pricer
    import torch

    torch.set_num_threads(1)
    load_plugins(job.plugins)
    _pricer = Pricer(job)


def _price(candidate: Candidate, largest_batch: bool) -> Price:
    assert _pricer is not None
    return _pricer.price(candidate, largest_batch=largest_batch)
