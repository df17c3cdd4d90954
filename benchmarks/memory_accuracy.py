"""How good the memory predictions are: predicted against measured, on a GPU if there is one, else on the CPU.

    python benchmarks/memory_accuracy.py [--json FILE] [--jobs N] [--only TEXT]

On a GPU: real-size models with random weights, each configuration in a fresh process that does the rehearsal and some
training on batches of changing lengths; measured are torch's allocated and reserved bytes and NVML's figure of the process.
The predictor is given the GPU's generation (from NVML) and a context measured beforehand on other configurations. Then five
caps: of each line of configurations the largest batch size that is predicted to fit runs under the cap, with the
allocator's fraction set and a guard that reads NVML 20 times a second.

``python benchmarks/stand_in_gpu.py --gpu NAME -- python benchmarks/memory_accuracy.py`` does so without a GPU, with torch's own
allocator and no kernels; the result says which of its figures are torch's then.

Without a GPU: the same configurations at a small size, traced and then really run in this process; only ``allocated`` is
graded, and each target that needs a GPU is stated as not measured.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from accuracy_cases import TOKENS, Case, cases
from accuracy_child import rehearsed_allocated
from accuracy_grades import CapRun, Graded, best_uses, summary, targets
from accuracy_predictions import LINES, Predicted, Setting, fitting, predict
from accuracy_runs import Measured, Stand, run
from conditions import write_result
from stand_in_notes import is_stand_in, notes

from autotune.errors import DeviceError
from autotune.memory.context import DEFAULT_CONTEXT_BYTES
from autotune.memory.gpu import GpuKind
from autotune.memory.nvml import NvmlDevice
from autotune.outcome import MemoryFigures
from sherl.errors import SherlError

GB = 10**9
CAPS = tuple(int(gigabytes * GB) for gigabytes in (2.5, 3.5, 5, 7, 10))
USABLE_SHARE = 0.9  # of the GPU's free memory
# the context is measured on these: other shapes than those that are graded
PROBES = (
    Case(
        model="bert-base",
        size="real",
        method={"name": "full"},
        training={"learning_rate": 1e-4, "batch_size": 12, "precision": "fp32"},
        tokens=TOKENS["real"] // 2,
    ),
    Case(
        model="deberta-v3-base",
        size="real",
        method={"name": "sherl"},
        training={"learning_rate": 1e-4, "batch_size": 12, "precision": "bf16"},
        tokens=TOKENS["real"] // 2,
    ),
    Case(
        model="t5-base",
        size="real",
        method={"name": "lora", "rank": 4},
        training={"learning_rate": 1e-4, "batch_size": 12, "precision": "bf16"},
        tokens=TOKENS["real"] // 2,
    ),
)
Run = Callable[..., Measured]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=None, help="where the result goes")
    parser.add_argument("--jobs", type=int, default=None, help="processes at once on the GPU")
    parser.add_argument("--only", default="", help="only cases whose label has this text; no caps then")
    arguments = parser.parse_args()
    began = time.perf_counter()
    on_gpu = torch.cuda.is_available()
    chosen = [case for case in cases("real" if on_gpu else "small") if arguments.only in case.label]
    if not chosen:
        parser.error(f"no case has {arguments.only!r} in its label, e.g. {cases('small')[0].label!r}")
    runs: list[CapRun] = []
    if on_gpu:
        gpu = Gpu(NvmlDevice.open(), jobs=arguments.jobs or max(1, min(8, (os.cpu_count() or 2) // 2)))
        rows, runs = gpu.grade(chosen, () if arguments.only else CAPS)
        machine = gpu.found
    else:
        print("No GPU that torch can use is here: allocated is graded on the CPU, at small sizes.")
        rows, machine = [], {"device": "cpu"}
        for row in grade_on_cpu(chosen):
            rows.append(row)
            print(shown(row), flush=True)
    result = report(rows, runs, on_gpu=on_gpu, seconds=time.perf_counter() - began)
    print(words(result))
    name = "memory_accuracy_stand_in" if "stand_in" in machine else "memory_accuracy" + ("" if on_gpu else "_cpu")
    print(f"written to {write_result(name, {'settings': machine, **result}, arguments.json)}")


def grade_on_cpu(
    chosen: Sequence[Case], predicting: Callable[[Case, Setting], Predicted] = predict
) -> Iterator[Graded]:
    """Each case traced, then really run in this process."""
    setting = Setting(device="cpu")
    for case in chosen:
        began = time.perf_counter()
        try:
            predicted = predicting(case, setting)
        except (SherlError, RuntimeError) as error:
            yield _not_predicted(case, error)
            continue
        measured = Measured(
            status="held",
            allocated=rehearsed_allocated(case),
            source="TensorMemory around the rehearsal",
            seconds=time.perf_counter() - began,
        )
        yield Graded(case=case, predicted=predicted.figures, measured=measured)


class Gpu:
    """The grading on a GPU. jobs: processes at once, fewer where that many would not fit at the largest cap. running: what runs
    a case in a process of its own; predictors: where predictions are made.

    found: the GPU and what was measured of it, for the result.
    """

    def __init__(
        self,
        device: NvmlDevice,
        *,
        jobs: int,
        running: Run = run,
        predictors: Callable[[], Executor] | None = None,
    ) -> None:
        self._run, self._device, self._predictors = running, device, predictors or processes
        memory = device.memory()
        self._usable = int(memory.free_bytes * USABLE_SHARE)
        self._jobs = max(1, min(jobs, self._usable // max(CAPS)))
        self._share = self._usable // self._jobs
        self._is_stand_in = is_stand_in(device.driver())
        self.found: dict[str, Any] = {
            "device": f"stand-in {device.name()}" if self._is_stand_in else device.name(),
            **({"stand_in": notes()} if self._is_stand_in else {}),
            "capability": device.capability(),
            "driver": device.driver(),
            "total_bytes": memory.total_bytes,
            "usable_bytes": self._usable,
            "jobs": self._jobs,
        }

    def grade(self, chosen: Sequence[Case], caps: Sequence[int]) -> tuple[list[Graded], list[CapRun]]:
        """Context, then all cases and all runs under caps, predictions in processes of their own meanwhile."""
        stand, context = self._measure_context()
        setting = Setting(
            device="cuda",
            context_bytes=context,
            gpu=GpuKind.of(self._device.capability(), name=self._device.name()),
            device_name=self._device.name(),
        )
        with ExitStack() as stack:
            predictors = stack.enter_context(self._predictors())
            runners = stack.enter_context(ThreadPoolExecutor(self._jobs + 1))  # one loads and waits for its turn
            measured = [runners.submit(self._measured, case, stand, self._share, context) for case in chosen]
            predicted = [predictors.submit(predict, case, setting) for case in chosen]
            held = [cap for cap in caps if cap <= self._usable]
            numbers = range(len(LINES)) if held else ()
            plans = {predictors.submit(fitting, one, held, setting, chosen[0].size): one for one in numbers}
            rows = []
            for case, prediction, measurement in zip(chosen, predicted, measured, strict=True):
                rows.append(_graded(case, prediction, measurement.result(), self._share))
                print(shown(rows[-1]), flush=True)
            under_caps = []
            for plan in as_completed(plans):
                try:
                    planned = plan.result()
                except (SherlError, RuntimeError) as error:  # the other lines go on, and this one is told of
                    self.found.setdefault("lines_not_predicted", []).append([list(LINES[plans[plan]]), str(error)])
                    continue
                for cap, case, figures in planned:
                    future = runners.submit(self._measured, case, stand, cap, context)
                    under_caps.append((cap, case, figures, future))
            runs = []
            for cap, case, figures, future in under_caps:
                runs.append(CapRun(cap_bytes=cap, case=case, predicted=figures, measured=future.result()))
                print(shown_under_cap(runs[-1]), flush=True)
        return rows, runs

    def _measure_context(self) -> tuple[Stand, int]:
        """Where runs take place, and the largest context of the probes. The first probe tells whether NVML shows a
        process's own memory."""
        drawn = not self._is_stand_in
        stand = Stand("cuda", jobs=self._jobs, drawn=drawn)
        first = self._measured(PROBES[0], stand, self._share, DEFAULT_CONTEXT_BYTES)
        if first.ran and first.context is None:
            stand = Stand("cuda", jobs=self._jobs, own_figures=False, drawn=drawn)
            first = self._measured(PROBES[0], stand, self._share, DEFAULT_CONTEXT_BYTES)
        with ThreadPoolExecutor(self._jobs) as runners:
            futures = [
                runners.submit(self._measured, case, stand, self._share, DEFAULT_CONTEXT_BYTES) for case in PROBES[1:]
            ]
            probed = [first, *(future.result() for future in futures)]
        contexts = [one.context for one in probed if one.context is not None]
        if not contexts:
            raise SystemExit(f"No context was measured: {[one.error or one.status for one in probed]}")
        self.found |= {
            "nvml_shows_processes": stand.own_figures,
            "contexts": contexts,
            "context_bytes": max(contexts),
            "source": first.source,
        }
        print(f"context {[round(one / 1e6, 1) for one in contexts]} MB; NVML shows processes: {stand.own_figures}")
        return stand, max(contexts)

    def _measured(self, case: Case, stand: Stand, cap_bytes: int, outside_bytes: int) -> Measured:
        try:
            return self._run(case, stand, cap_bytes=cap_bytes, outside_bytes=outside_bytes, threads=2)
        except DeviceError as error:
            return Measured(status="failed", error=str(error))


def processes() -> ProcessPoolExecutor:
    """A quarter of the cores makes predictions. A fork of this process, which has threads, might hang."""
    return ProcessPoolExecutor(max(1, (os.cpu_count() or 2) // 4), mp_context=multiprocessing.get_context("spawn"))


def _graded(case: Case, prediction: Future[Predicted], measured: Measured, room_bytes: int) -> Graded:
    try:
        predicted = prediction.result()
    except (SherlError, RuntimeError) as error:
        return _not_predicted(case, error)
    return Graded(
        case=case, predicted=predicted.figures, measured=measured, estimate=predicted.estimate, room_bytes=room_bytes
    )


def _not_predicted(case: Case, error: Exception) -> Graded:
    """One case that cannot be traced is a finding, and not the end of the others."""
    nothing = MemoryFigures(allocated=0, device=0, meter="prediction")
    measured = Measured(status="failed", error=f"it was not predicted: {type(error).__name__}: {error}")
    return Graded(case=case, predicted=nothing, measured=measured)


def report(rows: Sequence[Graded], runs: Sequence[CapRun], *, on_gpu: bool, seconds: float) -> dict[str, Any]:
    """What is written: targets, summary, every row."""
    uses = {str(cap): use for cap, use in best_uses(runs).items()}
    return {
        "targets": targets(rows, runs, on_gpu=on_gpu, seconds=seconds),
        "summary": summary(rows),
        "best_use_of_caps": uses,
        "seconds": round(seconds, 1),
        "table": [row.to_dict() for row in rows],
        "under_caps": [one.to_dict() for one in runs],
    }


def shown(row: Graded) -> str:
    """One case as a line."""
    if not row.measured.ran:
        status = "predicted not to fit, and did not" if row.rightly_refused else row.measured.status
        return f"{row.case.label:95} {status}: {row.measured.error}"
    errors = [
        f"{figure} {100 * error:+.2f} %"
        for figure in ("allocated", "reserved", "device")
        if (error := row.error(figure)) is not None
    ]
    return f"{row.case.label:95} {row.measured.allocated / 1e6:9.2f} MB  {', '.join(errors)}"


def shown_under_cap(one: CapRun) -> str:
    """One run under a cap as a line."""
    held = "no figure" if one.measured.device is None else f"{one.measured.device / GB:.2f} GB"
    return (
        f"cap {one.cap_bytes / GB:5.1f} GB  {one.case.label:95} predicted {one.predicted.device / GB:.2f} GB, held {held}, "
        f"{one.measured.status} {one.measured.error}"
    )


def words(result: dict[str, Any]) -> str:
    """Summary and targets for a reader."""
    lines = [
        "",
        f"{'figure':12}{'cases':>6}{'mean error':>12}{'worst':>10}{'under':>8}{'mean under':>12}{'worst under':>12}",
    ]
    for figure, row in result["summary"].items():
        lines.append(
            f"{figure:12}{row['cases']:6}{100 * row['mean_error']:10.3f} %{100 * row['worst_error']:8.2f} %"
            f"{100 * row['under_share']:6.0f} %{100 * row['under_mean']:10.3f} %{100 * row['under_worst']:10.3f} %"
        )
    lines.append("")
    lines += [f"{line['verdict']:13} {line['target']}: {line['found']}" for line in result["targets"]]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
