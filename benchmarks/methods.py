"""Peak memory and seconds of each method on the same batches of the same data: the rivals side by side.

    python benchmarks/methods.py

Every method trains one epoch on the default data (MiniLM, movie reviews), each time in a fresh process, the methods in
turn, three rounds. `tensors` is the peak of live tensor bytes (the front's axis), `device` the peak of the process's
private bytes, `step` the median optimizer step. Learning rates are not tuned here: this table is about cost.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

from conditions import write_result
from trials import run_trial

from autotune.trial.fork_server import ForkServer
from sherl.backbones import DEFAULT_BACKBONE
from sherl.data import DataSpec, prepare

LORA = {"name": "lora", "rank": 8}
METHODS: dict[str, dict[str, Any]] = {
    "SHERL, last layer": {"name": "sherl", "start_layer": -1},
    "SHERL, multi from -2": {"name": "sherl", "insertion": "multi", "start_layer": -2},
    "SHERL, single at -3, late LoRA": {"name": "sherl", "start_layer": -3, "late_route": LORA},
    "full fine-tuning": {"name": "full"},
    "full, checkpointing": {"name": "full", "activation_checkpointing": True},
    "LoRA, all layers": {"name": "lora", "rank": 8},
    "LoRA, checkpointing": {"name": "lora", "rank": 8, "activation_checkpointing": True},
    "BitFit": {"name": "bitfit"},
    "linear probe": {"name": "linear_probe"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_BACKBONE)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args()
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in METHODS}
    with tempfile.TemporaryDirectory() as scratch, ForkServer() as server:
        prepared = Path(scratch) / "prepared"
        data = prepare(DataSpec(), backbone_source=arguments.model, directory=prepared)
        longest = int(data.part("train").lengths.max())
        for turn in range(arguments.rounds):
            for name, method in METHODS.items():
                training = {"learning_rate": 1e-3 if method["name"] != "full" else 1e-4, "epochs": 1}
                outcome = run_trial(
                    server,
                    prepared=prepared,
                    output=Path(scratch) / f"{turn}-{len(rows[name])}-{name.replace(' ', '_')}",
                    method=method,
                    training={**training, "batch_size": arguments.batch_size, "seed": turn},
                    model=arguments.model,
                    threads=arguments.threads,
                )
                assert outcome.peak is not None
                assert outcome.step_seconds is not None
                rows[name].append(
                    {
                        "tensors": outcome.peak.allocated,
                        "device": outcome.peak.device,
                        "step_seconds": outcome.step_seconds,
                        "seconds": outcome.seconds,
                        "trainable": outcome.trainable_parameters or 0,
                    }
                )
                print(f"{name:32} {rows[name][-1]}", flush=True)
    table = {name: summary(runs) for name, runs in rows.items()}
    print(
        f"\nbatch {arguments.batch_size} x up to {longest} tokens, {arguments.threads} threads, median of {arguments.rounds}"
    )
    print("| method | trainable | tensors MB | device MB | step s (min to max) | trial s |\n|---|---|---|---|---|---|")
    for name, row in table.items():
        print(
            f"| {name} | {row['trainable']:,} | {row['tensors'] / 1e6:.0f} | {row['device'] / 1e6:.0f} | "
            f"{row['step_seconds']:.3f} ({row['step_least']:.3f} to {row['step_most']:.3f}) | {row['seconds']:.0f} |"
        )
    settings = {"batch_size": arguments.batch_size, "longest": longest, "threads": arguments.threads}
    write_result("methods", {"settings": settings, "table": table, "runs": rows}, arguments.json)


def summary(runs: list[dict[str, float]]) -> dict[str, float]:
    median = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    steps = [run["step_seconds"] for run in runs]
    return {**median, "trainable": runs[0]["trainable"], "step_least": min(steps), "step_most": max(steps)}


if __name__ == "__main__":
    main()
