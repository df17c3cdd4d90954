"""The main job against full fine-tuning: what validation selects in each, on the test part, three seeds.

    python benchmarks/default_job.py --studies FOLDER

Runs `autotune run` with its defaults but for confirming, and again with `--method full` and the same number of trials. From each study the
configuration that validation selects is trained again on three other seeds (the best epoch by validation is kept) and
predicts the test part. The gap of the mean test accuracies stands with a paired bootstrap over the test rows (each
draw takes the same rows for both and averages over the seeds). From the default study two are taken: the one selected
without a condition, and the one selected among those that take less than half of full fine-tuning's peak tensor bytes.

The studies are kept in FOLDER; a second call goes on from there (`autotune resume`) and only does what is missing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from conditions import write_result
from trials import run_trial

from autotune.report import Point, select
from autotune.study import report_study
from autotune.trial.fork_server import ForkServer
from sherl.checkpoint import load_checkpoint
from sherl.data import PreparedData
from sherl.evaluation import predict_logits

SEEDS = (101, 102, 103)
DRAWS = 10_000


def run_study(folder: Path, trials: int, *extra: str) -> dict[str, Any]:
    """One study through the command line, timed from the command to its end and to its first finished trial."""
    timing = folder.with_suffix(".timing.json")
    if timing.exists():
        return json.loads(timing.read_text())
    command = ["autotune", "run", "--memory-cap", "8GB", "--trials", str(trials), "--study-dir", str(folder), *extra]
    command += ["--confirm", "0"]  # the other seeds are trained below, and scored each
    if (folder / "study.json").exists():
        command = ["autotune", "resume", "--study-dir", str(folder), "--confirm", "0"]
    begin = time.monotonic()
    first = None
    log = folder.with_suffix(".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process, log.open("a") as kept:
        assert process.stdout is not None
        for line in process.stdout:
            kept.write(line)
            if first is None and " ended [" in line:
                first = time.monotonic() - begin
    if process.returncode != 0:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}; see {log}")
    result = {
        "seconds": time.monotonic() - begin,
        "first_trial_seconds": first,
        "command": " ".join(command).replace(str(folder), folder.name),
    }
    if command[1] == "run":  # a resumed study has no honest time of its own
        timing.write_text(json.dumps(result))
    return result


def again(folder: Path, point: Point, server: ForkServer, threads: int) -> dict[str, Any]:
    """Trains a configuration on the other seeds; test accuracies, peaks and whether each test row was right."""
    (record,) = [one for one in report_study(folder).records if one.number == point.number]
    data = PreparedData.open(folder / "prepared")
    part = data.part("test")
    right, seeds = [], []
    for seed in SEEDS:
        output = folder / "again" / f"{point.number:05d}-{seed}"
        kept = output / "right.json"
        if not kept.exists():
            outcome = run_trial(
                server,
                prepared=folder / "prepared",
                output=output,
                method=record.candidate.realised.method,
                training={**record.candidate.realised.training, "seed": seed},
                model=json.loads((folder / "study.json").read_text())["model"],
                threads=threads,
            )
            logits = predict_logits(load_checkpoint(output / "checkpoint"), part, 32)
            assert outcome.peak is not None
            row = {
                "seed": seed,
                "valid": outcome.metric,
                "test": float((logits.argmax(-1) == part.labels).float().mean()),
                "tensors": outcome.peak.allocated,
                "device": outcome.peak.device,
                "seconds": outcome.seconds,
                "right": (logits.argmax(-1) == part.labels).int().tolist(),
            }
            kept.write_text(json.dumps(row))
        row = json.loads(kept.read_text())
        right.append(row.pop("right"))
        seeds.append(row)
        print(f"{point.label}: {row}", flush=True)
    return {
        "trial": point.number,
        "label": point.label,
        "method": record.candidate.realised.method,
        "training": record.candidate.realised.training,
        "validation": point.metric,
        "seeds": seeds,
        "test_mean": float(np.mean(right)),
        "tensors": max(row["tensors"] for row in seeds),
        "_right": right,
    }


def paired_interval(ours: list[list[int]], theirs: list[list[int]]) -> dict[str, float]:
    """Mean gap ours - theirs in points with a 95 % paired bootstrap over test rows."""
    gap = np.mean(ours, axis=0) - np.mean(theirs, axis=0)
    chance = np.random.default_rng(0)
    means = [gap[chance.integers(0, len(gap), len(gap))].mean() for _ in range(DRAWS)]
    low, high = np.percentile(means, [2.5, 97.5])
    return {"gap": 100 * float(gap.mean()), "low": 100 * float(low), "high": 100 * float(high)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=Path, default=Path("studies/default-job"))
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    default, full = arguments.studies / "default", arguments.studies / "full"
    timing = {
        "default": run_study(default, arguments.trials),
        "full": run_study(full, arguments.trials, "--method", "full"),
    }
    rival = select(report_study(full).points).point
    points = report_study(default).points
    half = [point for point in points if point.memory and rival.memory and point.memory * 2 < rival.memory]
    chosen = {"selected": select(points).point, "selected under half the memory": select(half).point}
    with ForkServer() as server:
        theirs = again(full, rival, server, arguments.threads)
        rows = {name: again(default, point, server, arguments.threads) for name, point in chosen.items()}
    their_right = theirs.pop("_right")
    for name, row in rows.items():
        row["against_full"] = paired_interval(row.pop("_right"), their_right)
        row["share_of_full_tensors"] = row["tensors"] / theirs["tensors"]
        print(
            f"{name}: trial {row['trial']} {row['label']}: test mean {100 * row['test_mean']:.2f}, against full "
            f"{100 * theirs['test_mean']:.2f}: {row['against_full']['gap']:+.2f} points "
            f"[{row['against_full']['low']:+.2f}, {row['against_full']['high']:+.2f}], "
            f"{100 * row['share_of_full_tensors']:.0f} % of its peak tensor bytes"
        )
    for name, seconds in timing.items():
        print(f"{name} study: {seconds}")
    print(write_result("default_job", {"timing": timing, "full": theirs, **rows}, arguments.json))


if __name__ == "__main__":
    main()
