"""Predicted against measured: the errors of each case, their summary, and the targets that they are held to.

Of ``device`` two figures are graded. The *estimate* (predicted reserved bytes + context) is held against what was measured,
as a mean error; the *prediction* is the estimate plus the margin, and is what a cap is compared with: a case that took more
than that is an under-estimate beyond the margin. An error is (predicted - measured) / measured: below 0 too little.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from accuracy_cases import Case
from accuracy_runs import Measured

from autotune.outcome import MemoryFigures

Verdict = Literal["reached", "missed", "not measured"]

LEAST_CASES, LEAST_KINDS, CAPS = 60, 5, 5
ALLOCATED_ERROR, DEVICE_MEAN_ERROR, LEAST_USE, MOST_SECONDS = 0.005, 0.02, 0.9, 480.0


@dataclass(frozen=True, kw_only=True)
class Graded:
    """A case with its prediction and its measurement. estimate: of the device without the margin, None on a CPU. room_bytes: of the
    device, that the run might take."""

    case: Case
    predicted: MemoryFigures
    measured: Measured
    estimate: int | None = None
    room_bytes: int | None = None

    @property
    def rightly_refused(self) -> bool:
        """Whether it was predicted not to fit this device, and did not."""
        return (
            self.measured.status == "out of memory"
            and self.room_bytes is not None
            and self.predicted.device > self.room_bytes
        )

    def error(self, figure: str) -> float | None:
        """Of ``allocated``, ``reserved``, ``device`` (the estimate) or ``prediction`` (with the margin); None where it was not
        measured."""
        predicted = {
            "allocated": self.predicted.allocated,
            "reserved": self.predicted.reserved,
            "device": self.estimate,
            "prediction": None if self.estimate is None else self.predicted.device,
        }[figure]
        measured = getattr(self.measured, "device" if figure == "prediction" else figure)
        if not self.measured.ran or predicted is None or not measured:
            return None
        return float((predicted - measured) / measured)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the result file."""
        figures = ("allocated", "reserved", "device", "prediction")
        return {
            "case": self.case.label,
            "kind": self.case.backbone.kind,
            **self.case.to_dict(),
            "predicted": {**asdict(self.predicted), "estimate": self.estimate},
            "measured": asdict(self.measured),
            "rightly_refused": self.rightly_refused,
            "errors": {figure: self.error(figure) for figure in figures},
        }


@dataclass(frozen=True, kw_only=True)
class CapRun:
    """A configuration that was predicted to fit a cap, run under it."""

    cap_bytes: int
    case: Case
    predicted: MemoryFigures
    measured: Measured

    @property
    def exceeded(self) -> bool:
        """Whether more than the cap was seen from outside."""
        return self.measured.device is not None and self.measured.device > self.cap_bytes

    @property
    def use(self) -> float | None:
        """Measured share of the cap; None where the run did not end well."""
        return self.measured.device / self.cap_bytes if self.measured.ran and self.measured.device else None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the result file."""
        return {
            "cap": self.cap_bytes,
            "case": self.case.label,
            "predicted": asdict(self.predicted),
            "measured": asdict(self.measured),
            "exceeded": self.exceeded,
            "use": self.use,
        }


def summary(rows: Sequence[Graded]) -> dict[str, dict[str, Any]]:
    """Of each figure that was measured: how many, mean and worst error without sign, share and size of under-estimates."""
    result = {}
    for figure in ("allocated", "reserved", "device", "prediction"):
        errors = [error for row in rows if (error := row.error(figure)) is not None]
        if not errors:
            continue
        under = [-error for error in errors if error < 0]
        result[figure] = {
            "cases": len(errors),
            "mean_error": statistics.fmean(abs(error) for error in errors),
            "worst_error": max(errors, key=abs),
            "under_share": len(under) / len(errors),
            "under_mean": statistics.fmean(under) if under else 0.0,
            "under_worst": max(under, default=0.0),
        }
    return result


def best_uses(runs: Sequence[CapRun]) -> dict[int, float | None]:
    """Of each cap, the share of it that the configuration with the largest prediction took."""
    best: dict[int, CapRun] = {}
    for run in runs:
        known = best.get(run.cap_bytes)
        if known is None or run.predicted.device > known.predicted.device:
            best[run.cap_bytes] = run
    return {cap: run.use for cap, run in sorted(best.items())}


def targets(rows: Sequence[Graded], runs: Sequence[CapRun], *, on_gpu: bool, seconds: float) -> list[dict[str, Any]]:
    """Each target with what was found and whether it is reached. What needs a GPU is not measured without one."""
    figures = summary(rows)
    graded = [row for row in rows if row.measured.ran]
    kinds = sorted({row.case.backbone.kind for row in graded})
    precisions = sorted({row.case.precision for row in graded})
    refused = [row for row in rows if row.rightly_refused]
    failed = [row.case.label for row in rows if not (row.measured.ran or row.rightly_refused)]
    early = [run.case.label for run in runs if not run.measured.ran]
    caps = {run.cap_bytes for run in runs}
    uses = best_uses(runs)
    allocated = figures.get("allocated", {}).get("worst_error")
    # figures of some cases would say nothing of the others
    seen = {name: line for name, line in figures.items() if line["cases"] == len(graded)}
    device = seen.get("device", {}).get("mean_error")
    beyond = seen.get("prediction", {}).get("under_share")

    def gpu(found: Any, met: Callable[[], bool]) -> tuple[Any, Verdict]:
        """What only a GPU can show; met: asked where something was found."""
        if not on_gpu or found is None:
            return found, "missed" if on_gpu else "not measured"
        return found, _verdict(met())

    lines: dict[str, tuple[Any, Verdict]] = {
        f"at least {LEAST_CASES} configurations graded": (len(graded), _verdict(len(graded) >= LEAST_CASES)),
        f"at least {LEAST_KINDS} kinds of backbones": (kinds, _verdict(len(kinds) >= LEAST_KINDS)),
        "fp32 and bf16": (precisions, _verdict(precisions == ["bf16", "fp32"])),
        "every configuration ran": (
            failed or (f"all but {len(refused)} that were predicted not to fit" if refused else "all"),
            _verdict(bool(rows) and not failed),
        ),
        "allocated within 0.5 %, each": (
            allocated,
            _verdict(allocated is not None and abs(allocated) <= ALLOCATED_ERROR),
        ),
        "device within 2 %, mean": gpu(device, lambda: device <= DEVICE_MEAN_ERROR),
        "no under-estimate beyond the margin": gpu(beyond, lambda: beyond == 0),
        f"no cap of {CAPS} exceeded": gpu(
            sum(run.exceeded for run in runs) if runs else None,
            lambda: (
                len(caps) >= CAPS
                and not any(run.exceeded or run.measured.status == "ended by the guard" for run in runs)
                and all(run.measured.device is not None for run in runs)  # what nobody saw is no proof
            ),
        ),
        "what was predicted to fit a cap ran through": gpu((early or "all") if runs else None, lambda: not early),
        "the best configuration takes 90 % of each cap": gpu(
            uses or None,
            lambda: len(uses) >= CAPS and all(use is not None and use >= LEAST_USE for use in uses.values()),
        ),
        f"under {MOST_SECONDS / 60:g} minutes": (round(seconds, 1), _verdict(seconds < MOST_SECONDS)),
    }
    return [{"target": name, "found": found, "verdict": verdict} for name, (found, verdict) in lines.items()]


def _verdict(met: bool) -> Verdict:
    return "reached" if met else "missed"
