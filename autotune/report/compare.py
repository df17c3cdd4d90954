"""Fronts of several studies laid over one another: who is better at which memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from autotune.report.front import Point, hypervolume, pareto_front
from autotune.report.reach import reference_point
from autotune.units import format_bytes

FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One study among those compared: a name that no other has, its model, its trials, its cap in bytes."""

    name: str
    model: str
    points: tuple[Point, ...]
    memory_cap: int | None = None

    @property
    def front(self) -> list[Point]:
        """Members from least to most memory."""
        return pareto_front(self.points)


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """From ``least`` bytes of tensors up to the next stretch, the best metric and the studies that reach it."""

    least: int
    metric: float
    studies: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What lies beside one another.

    metric_name: of all studies. reference: (metric, bytes) that every hypervolume is measured from; None without any front.
    hypervolumes: by study, in metric times bytes. better: who reaches the best metric at which memory.
    """

    metric_name: str
    studies: tuple[Compared, ...]
    reference: tuple[float, float] | None
    hypervolumes: dict[str, float]
    better: tuple[Stretch, ...]
    warnings: tuple[str, ...] = ()

    @property
    def sentences(self) -> list[str]:
        """Who is better where, in words."""
        words = []
        runs = [list(run) for _, run in groupby(self.better, key=lambda stretch: stretch.studies)]
        for index, run in enumerate(runs):
            until = runs[index + 1][0].least if index + 1 < len(runs) else None
            span = f"From {format_bytes(run[0].least)} of tensors" + (f" to {format_bytes(until)}" if until else " on")
            who = " and ".join(run[0].studies) + (" are level" if len(run[0].studies) > 1 else " is best")
            reached = f"{run[0].metric:.4f}" + (f" to {run[-1].metric:.4f}" if len(run) > 1 else "")
            words.append(f"{span}, {who}: {self.metric_name} {reached}.")
        return words or ["No study has a front yet."]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dictionary."""
        return {
            "format_version": FORMAT_VERSION,
            "metric": self.metric_name,
            "reference": None
            if self.reference is None
            else {"metric": self.reference[0], "allocated_bytes": self.reference[1]},
            "studies": [
                {
                    "name": study.name,
                    "model": study.model,
                    "memory_cap_bytes": study.memory_cap,
                    "trials": len(study.points),
                    "hypervolume": self.hypervolumes[study.name],
                    "front": [point.to_dict() for point in study.front],
                }
                for study in self.studies
            ],
            "better": [
                {"from_allocated_bytes": s.least, "metric": s.metric, "studies": list(s.studies)} for s in self.better
            ],
            "warnings": list(self.warnings),
        }


def compare(studies: Sequence[Compared], *, metric_name: str, warnings: Sequence[str] = ()) -> Comparison:
    """Lay the fronts of studies of the same metric and data over one another.

    The hypervolumes have one reference, from the fronts of all: see :func:`~autotune.report.reach.reference_point`.
    """
    reference = reference_point([study.points for study in studies])
    return Comparison(
        metric_name=metric_name,
        studies=tuple(studies),
        reference=reference,
        hypervolumes={study.name: hypervolume(study.points, reference) if reference else 0.0 for study in studies},
        better=tuple(_better(studies)),
        warnings=tuple(warnings),
    )


def _better(studies: Sequence[Compared]) -> list[Stretch]:
    fronts = {study.name: study.front for study in studies}
    memories = sorted({int(point.ranked_memory) for front in fronts.values() for point in front})
    stretches: list[Stretch] = []
    for memory in memories:
        reached = {
            name: max((p.ranked_metric for p in front if p.ranked_memory <= memory), default=None)
            for name, front in fronts.items()
        }
        known = {name: metric for name, metric in reached.items() if metric is not None}
        best = max(known.values())
        found = Stretch(
            least=memory, metric=best, studies=tuple(name for name, metric in known.items() if metric == best)
        )
        if not stretches or (stretches[-1].metric, stretches[-1].studies) != (found.metric, found.studies):
            stretches.append(found)
    return stretches
