"""What each configuration of a space would take of a device: from a model's configuration alone, before anything is had."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from autotune.memory.context import DEFAULT_CONTEXT_BYTES
from autotune.memory.gpu import GpuKind
from autotune.memory.predict import Predictor
from autotune.memory.scaling import NotEvenError
from autotune.memory.shared_pairs import SharedPairs
from autotune.outcome import Candidate, MemoryFigures
from autotune.plugins import load_plugins
from autotune.space import SearchSpace, shape_key
from autotune.study.stored_forms import StoredForms
from sherl.errors import SherlError
from sherl.forms import BatchForm, with_rows
from sherl.spec import TaskSpec

MOST_ROWS = 2**16  # a batch of more is not looked for
FEW = 8  # so many configurations are priced faster by one process than two can start


@dataclass(frozen=True, kw_only=True)
class PricingJob:
    """What is priced, as plain data that travels to other processes.

    backbone_config: ``config.to_dict()``. row: shapes and types of a batch of one row, labels included. cap: bytes of the device. device_name:
    for people; gpu_kind: what a single GPU of it is called, driver: its version, under which is kept what finished trials taught,
    in pairs_file (None: nothing is read). capability: compute
    capability of the GPU, None where it is not known. baseline_bytes: of a CPU trial's process after its imports. plugins: modules that those processes import first.
    stored: whether trials read hidden states of frozen layers from a store where they can.
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


@dataclass(frozen=True, kw_only=True)
class Price:
    """What one configuration takes.

    figures: predicted. parts: bytes at the peak of tensor bytes, by what they are for. largest_batch: the most rows of
    an optimizer step, gone through at once, that keep the device figure within the cap; 0 where not even one does, None
    where it was not asked for. reads: whether it is of a trial that reads stored hidden states. problem: why the configuration cannot be
    had at all; then there are no figures.
    """

    candidate: Candidate
    figures: MemoryFigures | None = None
    parts: dict[str, int] = field(default_factory=dict)
    largest_batch: int | None = None
    reads: bool = False
    problem: str = ""

    @property
    def dominant(self) -> tuple[str, float]:
        """The part that takes most, and its share of the tensor bytes."""
        part = max(self.parts, key=lambda name: self.parts[name], default="")
        return part, self.parts[part] / max(1, sum(self.parts.values())) if part else 0.0

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
            gpu=GpuKind.of(job.capability) if job.device == "cuda" else None,
            with_features=self._stored,
        )

    def price(self, candidate: Candidate, *, largest_batch: bool) -> Price:
        """The price of a candidate at its own batch size, and the largest batch that fits where that is asked for."""
        rows = int(candidate.training["batch_size"])
        try:
            reads = self._stored is not None and bool(self._stored.reads(candidate))
            if not largest_batch:
                figures, parts = self._predictor.predict(candidate), self._predictor.trace(candidate).parts
                return Price(candidate=candidate, figures=figures, parts=parts, reads=reads)
            try:
                at = self._predictor.by_rows(candidate)  # exact, and faster than a trace for each size
                figures, traced = at(rows)
                most = largest_within(lambda count: at(count)[0].device, self._cap, start=rows)
            except NotEvenError:
                figures, traced = self._predictor.predict(candidate), self._predictor.trace(candidate)
                most = largest_within(lambda count: self._device(candidate, count), self._cap, start=rows)
        except SherlError as error:
            return Price(candidate=candidate, problem=str(error))
        return Price(candidate=candidate, figures=figures, parts=traced.parts, largest_batch=most, reads=reads)

    def _device(self, candidate: Candidate, rows: int) -> int:
        resized = replace(candidate, training={**candidate.training, "batch_size": rows})
        return self._predictor.predict(resized).device


def largest_within(cost: Callable[[int], int], cap: int, *, start: int, most: int = MOST_ROWS) -> int:
    """The largest count (0 to ``most``) whose cost is within the cap, for a cost that grows about evenly with the count.

    The cost is asked at few places: where the straight line through the two nearest known ones meets the cap. The
    result fits and the next larger count does not.
    """
    known: dict[int, int] = {}

    def fits(count: int) -> bool:
        known[count] = cost(count)
        return known[count] <= cap

    fitting, unfit = 0, most + 1
    guess = min(max(1, start), most)
    while unfit - fitting > 1:
        if fits(guess):
            fitting = guess
        else:
            unfit = guess
        guess = _next_guess(known, cap, fitting, unfit)
    return fitting


def _next_guess(known: Mapping[int, int], cap: int, fitting: int, unfit: int) -> int:
    """Strictly between the bounds, where a straight line says; doubling or halving until two places are known."""
    if len(known) == 1:
        guess = 2 * fitting if fitting else unfit // 2
    else:
        near = sorted(known, key=lambda count: abs(known[count] - cap))[:2]
        low, high = sorted(near)
        slope = (known[high] - known[low]) / (high - low)
        guess = int(low + (cap - known[low]) / slope) if slope > 0 else (fitting + unfit) // 2
        if len(known) > 12:  # the line leads nowhere: the cost is not even
            guess = (fitting + unfit) // 2
    return min(max(guess, fitting + 1), unfit - 1) if unfit - fitting > 1 else fitting


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
