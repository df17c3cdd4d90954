"""Predicted against measured memory of real trials on a CPU, under both heap plans.

    python benchmarks/trial_memory.py [--rows 400] [--batch-size 32] [--out FILE]

Each trial is a process of its own (as in a study): load, rehearsal, one epoch, evaluation. ``allocated`` must agree to the byte;
``device`` must stay under its prediction, and should not stay far under it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from conditions import write_result

from autotune.memory.margin import rule_bytes
from autotune.memory.predict import Predictor
from autotune.memory.process import ProcessMeter
from autotune.outcome import Candidate, MemoryFigures
from autotune.trial.baseline import baseline_bytes
from autotune.trial.fork_server import ForkServer
from autotune.trial.process import TrialProcess
from autotune.trial.request import Finished, TrialRequest
from sherl.backbones import DEFAULT_BACKBONE, load_config
from sherl.data import DataSpec, prepare

METHODS: list[dict[str, Any]] = [
    {"name": "linear_probe"},
    {"name": "sherl"},
    {"name": "sherl", "insertion": "multi", "start_layer": -3},
    {"name": "sherl", "late_route": {"name": "lora"}},
    {"name": "bitfit"},
    {"name": "lora"},
    {"name": "lora", "activation_checkpointing": True},
    {"name": "full"},
    {"name": "full", "activation_checkpointing": True},
]
MB = 1e6


def _server() -> ForkServer:
    return ForkServer(backbone=DEFAULT_BACKBONE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--max-length", type=int, default=48)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, _server() as server:
        rows = _measure(Path(folder), server, options)
    result = {"batch_size": options.batch_size, "max_length": options.max_length, "rows": options.rows, "trials": rows}
    print(f"written to {write_result('trial_memory', result, options.out)}")


def _measure(folder: Path, server: ForkServer, options: argparse.Namespace) -> list[dict[str, Any]]:
    spec = DataSpec(train_rows=options.rows, valid_rows=options.rows, test_rows=options.rows)
    data = prepare(spec, backbone_source=DEFAULT_BACKBONE, directory=folder / "data", max_length=options.max_length)
    baseline = baseline_bytes(server, threads=torch.get_num_threads())
    print(f"baseline {baseline / MB:.1f} MB")
    print(
        f"{'method':58} {'heap':6}{'allocated':>10}{'measured':>10}{'device':>9}{'measured':>10}{'margin':>8}{'used':>7}{'trace s':>9}{'step s':>8}"
    )
    rows = []
    for method in METHODS:
        training = {"learning_rate": 1e-4, "batch_size": options.batch_size, "epochs": 1}
        candidate = Candidate(method=method, training=training, params={})
        for heap in ("fast", "tight"):
            predictor = Predictor(
                load_config(DEFAULT_BACKBONE).to_dict(),
                data.task,
                train_batch=data.part("train").largest_form,
                eval_batch=data.part("valid").largest_form,
                baseline_bytes=baseline,
                cap_bytes=None if heap == "fast" else 1,
            )
            began = time.perf_counter()
            predicted = predictor.predict(candidate)
            seconds = time.perf_counter() - began
            rows.append(_row(folder, server, candidate, heap, predicted, seconds, baseline))
    return rows


def _row(
    folder: Path,
    server: ForkServer,
    candidate: Candidate,
    heap: str,
    predicted: MemoryFigures,
    seconds: float,
    baseline: int,
) -> dict[str, Any]:
    request = TrialRequest(
        number=0,
        backbone_source=DEFAULT_BACKBONE,
        prepared_dir=str(folder / "data"),
        output_dir=str(folder / "trial"),
        memory_cap=64 * 10**9,
        method=candidate.method,
        training=candidate.training,
        predicted=predicted,
        threads=torch.get_num_threads(),
    )
    outcome = next(
        event.outcome for event in TrialProcess(request, server, ProcessMeter()).events() if isinstance(event, Finished)
    )
    if outcome.peak is None or outcome.step_seconds is None:
        raise SystemExit(f"{candidate.label}: {outcome.status} {outcome.reason}")
    margin = rule_bytes("fast" if heap == "fast" else "tight", predicted.allocated)
    used = outcome.peak.device - baseline - predicted.allocated
    name = json.dumps(candidate.method)
    print(
        f"{name[:57]:58} {heap:6}{predicted.allocated / MB:10.2f}{outcome.peak.allocated / MB:10.2f}"
        f"{predicted.device / MB:9.1f}{outcome.peak.device / MB:10.1f}{margin / MB:8.1f}{used / MB:7.1f}{seconds:9.2f}{outcome.step_seconds:8.3f}",
        flush=True,
    )
    return {
        "method": candidate.method,
        "heap": heap,
        "allocated_predicted": predicted.allocated,
        "allocated_measured": outcome.peak.allocated,
        "device_predicted": predicted.device,
        "device_measured": outcome.peak.device,
        "trace_seconds": round(seconds, 3),
        "step_seconds": round(outcome.step_seconds, 4),
    }


if __name__ == "__main__":
    main()
