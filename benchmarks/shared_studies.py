"""The default job with and without stored hidden states, and single configurations with and without: parts of
``shared_features.py``."""

from __future__ import annotations

import json
import os
import random
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from shared_record import Row
from trials import run_trial

from autotune.config import StudyConfig
from autotune.memory.device import cpu_device
from autotune.outcome import Candidate, Outcome, Status, TrialRecord
from autotune.space import SearchSpace
from autotune.study import report_study
from autotune.study.features import FOLDER, store_features
from autotune.trial.fork_server import ForkServer
from sherl.backbones import DEFAULT_BACKBONE, backbone_from_config, load_config
from sherl.cache import cache_directory
from sherl.data import DataSpec, PreparedData, prepare

MODES = ("auto", "off")
WAYS = ("read", "computed", "otherwise")
INSTRUCTIONS = "ATEN_CPU_CAPABILITY"
SEED = 0
PAIRED_METHODS = ("sherl", "linear_probe")
COMMAND = [sys.executable, "-c", "from autotune.cli import main; main()"]


def linked_cache(target: Path) -> Path:
    """A cache folder with all that the usual one has except stored hidden states, so that these are computed anew."""
    target.mkdir(parents=True)
    usual = cache_directory().expanduser().resolve()
    for entry in sorted(usual.iterdir()) if usual.is_dir() else []:
        if entry.name != FOLDER:
            (target / entry.name).symlink_to(entry)
    return target


def run_study(folder: Path, mode: str, *, trials: int, also: str) -> Row:
    """One study through the command line, timed from the command to its end, in ``folder / mode``.

    What an earlier call left unfinished there is removed, as a resumed study has no honest time. The cache that it stores
    hidden states in is its own, and removed behind it.
    """
    study, cache, log = (folder / f"{mode}{end}" for end in ("", "-cache", ".log"))
    for left in (study, cache):
        shutil.rmtree(left, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    words = ["run", "--memory-cap", "8GB", "--trials", str(trials), "--features", mode, "--confirm", "0"]
    words += shlex.split(also)
    environment = {
        **os.environ,
        "AUTOTUNE_CACHE": str(linked_cache(cache).resolve()),
        "AUTOTUNE_PAIRS": "",  # the study that comes second is to know no more than the first
        "COLUMNS": "200",
        "PYTHONUNBUFFERED": "1",
    }
    said: list[str] = []
    began = time.perf_counter()
    with (
        log.open("w", encoding="utf-8") as kept,
        subprocess.Popen(
            [*COMMAND, *words, "--study-dir", str(study)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            kept.write(line)
            if " stored" in line:
                said.append(" ".join(line.split()).replace(str(cache.resolve()), "$AUTOTUNE_CACHE"))
    seconds = time.perf_counter() - began
    if process.returncode != 0:
        sys.exit(f"autotune {shlex.join(words)} ended with {process.returncode}; see {log}")
    found = report_study(study)
    row = {
        "command": f"autotune {shlex.join(words)}",
        "seconds": seconds,
        "said": said,
        "stored_bytes": sum(file.stat().st_size for file in (cache / FOLDER).rglob("*") if file.is_file()),
        "selected": found.selected,
        "trials": [trial_row(record) for record in found.records if record.outcome is not None],
    }
    shutil.rmtree(cache)
    return row


def trial_row(record: TrialRecord) -> Row:
    """What is compared of a finished trial."""
    assert record.outcome is not None
    return {
        "number": record.number,
        "method": record.candidate.method,
        "training": record.candidate.training,
        "seed": record.seed,
        "plan": record.candidate.plan,
        "test": record.test_metrics,
        **outcome_row(record.candidate, record.outcome),
    }


def outcome_row(candidate: Candidate, outcome: Outcome) -> Row:
    """What is compared of a training run. read: whether it took hidden states from a store; why: where it could not."""
    told = outcome.details.get("features") or {"read": False}
    return {
        "label": candidate.label,
        "status": str(outcome.status),
        "read": bool(told["read"]),
        "why": told.get("why"),
        "metric": outcome.metric,
        "epochs": [{"metrics": epoch.metrics, "train_loss": epoch.train_loss} for epoch in outcome.epochs],
        "seconds": outcome.seconds,
        "step_seconds": outcome.step_seconds,
        "allocated": None if outcome.peak is None else outcome.peak.allocated,
    }


class _Told:
    """Prints what the phase says."""

    def phase(self, name: str, text: str) -> None:
        print(f"{name}: {text}", flush=True)

    def progress(self, what: str, done: int, total: int) -> None:
        if done == total:
            print(f"{done} {what}", flush=True)

    def note(self, text: str) -> None:
        print(f"note: {text}", flush=True)

    def warning(self, text: str) -> None:
        print(f"warning: {text}", flush=True)


def drawn(space: SearchSpace, count: int) -> list[Candidate]:
    """Different configurations of a space, drawn at random; each of its methods in turn.

    Raises:
        ValueError: the space has not so many.
    """
    chance, found = random.Random(SEED), dict[str, Candidate]()
    by_method = dict.fromkeys(space.methods, 0)
    for _ in range(100 * count):
        candidate = space.random(chance)
        name = str(candidate.method["name"])
        if by_method[name] > min(by_method.values()):
            continue
        key = json.dumps([candidate.method, candidate.training], sort_keys=True)
        if key not in found:
            found[key] = candidate
            by_method[name] += 1
        if len(found) == count:
            return list(found.values())
    raise ValueError(f"The space {space.name} has not {count} different configurations.")


def paired(
    folder: Path,
    count: int,
    done: dict[str, Row],
    *,
    threads: int,
    data: DataSpec | None = None,
    model: str = DEFAULT_BACKBONE,
    space_name: str = "default",
    max_length: int = 128,
) -> Iterator[tuple[str, Row]]:
    """Random configurations trained with and without the store, each in a process of its own: name and outcomes.

    As a yardstick each is computed once more with another instruction set (``otherwise``), which changes rounding alone.
    done: rows of earlier calls; what they have is not run again.
    """
    config = load_config(model)
    with torch.device("meta"):
        backbone = backbone_from_config(config)
    space = SearchSpace.load(space_name, methods=PAIRED_METHODS, depth=backbone.depth, width=backbone.width)
    candidates = {f"{number}: {one.label}": one for number, one in enumerate(drawn(space, count))}
    missing = {name: one for name, one in candidates.items() if not {*WAYS} <= done.get(name, {}).keys()}
    if not missing:
        return
    prepared = folder / "prepared"
    prepare(data or DataSpec(), backbone_source=model, directory=prepared, max_length=max_length)
    settings = StudyConfig(
        memory_cap="8GB", model=model, trials=count, methods=PAIRED_METHODS, features=str(folder / "store")
    )
    found = store_features(
        settings,
        backbone,
        PreparedData.open(prepared),
        space,
        cpu_device(),
        threads,
        _Told(),  # type: ignore[arg-type]  # says what the phase says, nothing else
    )
    with found, ForkServer(backbone=model) as server, _rounding_otherwise(model) as other:
        for name, candidate in missing.items():
            shared = found.of(candidate)
            if shared is None:
                raise RuntimeError(f"Nothing is stored for {candidate.label}, which was to read.")
            kept = done.get(name, {})
            outcomes = {way: kept[way] for way in WAYS if way in kept}
            for way in WAYS:
                if way in outcomes:
                    continue
                output = folder / "paired" / f"{len(done)}-{name.split(':')[0]}-{way}"
                outcome = run_trial(
                    other if way == "otherwise" else server,
                    prepared=prepared,
                    output=output,
                    method=candidate.realised.method,
                    training={**candidate.realised.training, "seed": SEED},
                    model=model,
                    threads=threads,
                    features=shared.to_dict() if way == "read" else None,
                )
                outcomes[way] = outcome_row(candidate, outcome)
                shutil.rmtree(output, ignore_errors=True)
            if not outcomes["read"]["read"]:
                raise RuntimeError(f"{candidate.label} could not read: {outcomes['read']['why']}")
            yield (
                name,
                {
                    "method": candidate.method,
                    "training": candidate.training,
                    "seed": SEED,
                    "equal": same_metrics(outcomes["read"], outcomes["computed"]),
                    **outcomes,
                },
            )


def _rounding_otherwise(model: str) -> ForkServer:
    """A server whose trials compute with another instruction set than this processor's best."""
    best = torch.backends.cpu.get_cpu_capability()
    usual = os.environ.get(INSTRUCTIONS)
    os.environ[INSTRUCTIONS] = "default" if best == "AVX2" else "avx2"
    try:
        return ForkServer(backbone=model)  # its process is started, and has the environment
    finally:
        del os.environ[INSTRUCTIONS]
        if usual is not None:
            os.environ[INSTRUCTIONS] = usual


def same_metrics(read: Row, computed: Row) -> bool:
    """Whether both completed, with the same metrics in each epoch."""
    complete = {read["status"], computed["status"]} == {str(Status.COMPLETE)}
    return complete and [one["metrics"] for one in read["epochs"]] == [one["metrics"] for one in computed["epochs"]]
