"""The markdown tables of what ``real_methods.py`` has found so far."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from real_record import RealRecord, Row
from real_settings import CHOOSING_SEED, SEEDS, Case, RealBackbone, RealMethod, method_on


def tables(record: RealRecord, backbones: Sequence[RealBackbone], methods: Sequence[RealMethod]) -> str:
    """A table for each backbone that has results: the mean of the seeds on the test part with its standard deviation."""
    parts, used = [], []
    for backbone in backbones:
        lines = []
        for method in (method_on(backbone, one) for one in methods):
            rows = [row for case in record.choosing(backbone, method) if (row := record.of(case)) is not None]
            scored = record.scored(backbone, method)
            if rows or scored:
                lines.append(_line(record, backbone, method, rows, scored))
                used += rows + scored
            elif (reason := record.refusal(backbone, method)) is not None:
                lines.append(f"| {method.name} | | refused: {' '.join(reason.split())} | | | | |")
        if lines:
            parts.append(
                f"**{backbone.model}, {backbone.data}** ({backbone.epochs} epochs, batch {backbone.batch_size})\n\n"
                "| method | trainable | learning rate | validation | test, mean ± deviation | tensors MB | seconds a run |\n"
                "|---|---|---|---|---|---|---|\n" + "\n".join(lines)
            )
    if not parts:
        return "There are no results yet."
    told = f"Learning rate: of three, by validation on seed {CHOOSING_SEED}; `*`: the chosen one is the least or the largest. Test: seeds {', '.join(map(str, SEEDS))}. Seconds: of a processor, median over runs, training with its validations; `~`: of the clock, with other work beside."
    if any(row.get("features") for row in used):
        told += " †: frozen blocks' hidden states were read from a store, so seconds are less; tensors are those without it."
    return "\n\n".join([*parts, told, *([_under(used)] if used else [])])


def _seconds(rows: Sequence[Row]) -> str:
    """Median over runs: of the processor where all told it, else of the clock, marked, since other work may have run beside."""
    if all("processor_seconds" in row for row in rows):
        return f"{statistics.median(row['processor_seconds'] for row in rows):.0f}"
    return f"~{statistics.median(row['seconds'] for row in rows):.0f}"


def _line(record: RealRecord, backbone: RealBackbone, method: RealMethod, rows: list[Row], scored: list[Row]) -> str:
    rate = record.chosen_rate(backbone, method)
    complete = [row for row in rows if row["status"] == "complete"]
    if rate is None:
        ended = "every run diverged" if len(rows) == len(method.learning_rates) and not complete else ""
        return f"| {method.name} | | {ended or f'{len(rows)} of {len(method.learning_rates)} tried'} | | | | |"
    # of the same rate, which is another method's where that is taken over
    chosen = next((row for row in complete if row["learning_rate"] == rate), None)
    edge = "" if min(method.learning_rates) < rate < max(method.learning_rates) else " *"
    edge = edge if method.rate_of is None else f" (of {method.rate_of.name})"
    tests = [100 * row["test"] for row in scored if row["status"] == "complete"]
    spread = f" ± {statistics.stdev(tests):.2f}" if len(tests) > 1 else ""
    score = f"{statistics.mean(tests):.2f}{spread}" if tests else ""
    if len(tests) < len(method.seeds):
        diverged = sum(row["status"] == "diverged" for row in scored)
        score += f" ({len(tests)} of {len(method.seeds)} seeds" + (f", {diverged} diverged)" if diverged else ")")
    done = [row for row in scored if row["status"] == "complete"] or [row for row in [chosen] if row is not None]
    if not done:
        return f"| {method.name} | | {rate:g}{edge}: every run diverged | | | | |"
    shown = chosen or done[0]
    valid = "" if chosen is None else f" {100 * chosen['valid']:.1f}"
    mark = " †" if shown.get("features") else ""
    return (
        f"| {method.name}{mark} | {shown['trainable']:,} | {rate:g}{edge} |{valid} | {score.strip()} | "
        f"{shown['tensors'] / 1e6:.0f} | {_seconds(done)} |"
    )


def steps_table(record: RealRecord, cases: Iterable[Case]) -> str:
    """The table of ``--fifty-steps``."""
    asked = list(cases)
    found = [(case, row) for case in asked if (row := record.of(case)) is not None]
    if not found:
        return "There are no results yet."
    lines = [
        f"| {case.backbone.model}, {case.backbone.data} | {case.method.name} | {row['trainable']:,} | {case.backbone.batch_size} | "
        f"{row['tensors'] / 1e6:.0f} | {row['step_seconds']:.2f} | {row['first_loss']:.3f} | {row['last_loss']:.3f} | "
        f"{'yes' if row['falls'] else 'NO'} |"
        for case, row in found
        if row["status"] == "complete"
    ]
    lines += [
        f"| {case.backbone.model}, {case.backbone.data} | {case.method.name} | diverged: {row['reason']} | | | | | | |"
        for case, row in found
        if row["status"] == "diverged"
    ]
    head = (
        "| model, data | method | trainable | batch | tensors MB | step s | loss, first 10 steps | last 10 of 50 | falls |\n"
        "|---|---|---|---|---|---|---|---|---|\n"
    )
    refused = [
        f"| {case.backbone.model}, {case.backbone.data} | {case.method.name} | refused: {' '.join(reason.split())} | | | | | | |"
        for case in asked
        if record.of(case) is None and (reason := record.refusal(case.backbone, case.method)) is not None
    ]
    return head + "\n".join([*lines, *refused]) + "\n\n" + _under([row for _, row in found])


def _under(rows: Iterable[Row]) -> str:
    """Machines, versions and commits that the results were measured under, each once."""
    seen: dict[str, None] = {}
    for row in rows:
        made = row["conditions"]
        versions = ", ".join(f"{name} {made['versions'][name]}" for name in ("torch", "transformers", "peft"))
        seen[
            f"{made['processor']}, {made['cores']} cores, Python {made['python']}, {versions}, commit {made['commit']}"
        ] = None
    return "Measured on: " + "; ".join(seen) + "."
