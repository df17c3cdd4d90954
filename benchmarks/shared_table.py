"""What the figures of ``shared_features.py`` come to: whether outcomes agree, ratios against what is asked, tables."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from shared_record import Row, SharedRecord

MOST_OF_OWN = 1.3
"""A step that reads may take so many times what it computes itself."""
LEAST_OF_FORWARD = 0.8
"""Building goes at least so fast, of the plain forward's speed."""
STUDY_SECONDS = 300.0
"""What the default job with 24 trials may take on two cores."""
LOSS_TOLERANCE, METRIC_TOLERANCE = 0.05, 0.02
"""Of an epoch's mean training loss (relative) and of a metric: whole runs that are further apart did not learn the same. Batches that
are padded otherwise than when the store was built are rounded otherwise, and at a high learning rate training makes more of it:
of SHERL with late adapters at 4.6e-3 the losses of single steps were 1e-7 apart at first, 1e-3 after 25 steps. That steps
themselves agree is seen where nothing has grown yet: ``--steps`` looks at the first ones."""


def configuration(trial: Row) -> str:
    """What two trials have in common that must come to the same: method and training, without the memory plan."""
    return json.dumps([trial["method"], trial["training"], trial["seed"]], sort_keys=True)


def differences(read: Row, computed: Row) -> dict[str, float]:
    """The largest difference of a metric, and of a mean training loss (relative), over the epochs that both went through.

    ``epochs``: how many these are.
    """
    pairs = list(zip(read["epochs"], computed["epochs"], strict=False))
    metrics = [
        abs(mine["metrics"][name] - value) for mine, theirs in pairs for name, value in theirs["metrics"].items()
    ]
    losses = [
        abs(mine["train_loss"] - theirs["train_loss"]) / max(abs(theirs["train_loss"]), 1e-12) for mine, theirs in pairs
    ]
    return {"epochs": len(pairs), "metric": max(metrics, default=0.0), "loss": max(losses, default=0.0)}


def close(read: Row, computed: Row) -> bool:
    """Whether both ended alike but for rounding and what training makes of it: status, epochs, losses, the study's metric."""
    gap = differences(read, computed)
    alike = (read["status"], len(read["epochs"])) == (computed["status"], len(computed["epochs"]))
    if not alike or gap["loss"] > LOSS_TOLERANCE:
        return False
    metrics = (read["metric"], computed["metric"])
    return metrics == (None, None) or (None not in metrics and abs(metrics[0] - metrics[1]) <= METRIC_TOLERANCE)


def compare(read: Sequence[Row], computed: Sequence[Row]) -> dict[str, Any]:
    """Two studies' trials: the configurations that both tried, and whether they came to the same.

    proposed_alike: trials of the same number with the same configuration. shared: configurations in both. agree: of these, the
    ones with the same status and the same metrics in every epoch that both went through. largest_metric_difference and
    largest_loss_difference (relative) over these; disagree: labels of the others. same_metric: those whose status and whose best
    value of the study's metric are the same.
    """
    other = {configuration(trial): trial for trial in computed}
    numbered = {trial["number"]: configuration(trial) for trial in computed}
    found = {configuration(trial): trial for trial in read}
    pairs = [(trial, other[key]) for key, trial in found.items() if key in other]
    apart = [(mine, theirs, differences(mine, theirs)) for mine, theirs in pairs]
    same = [mine["status"] == theirs["status"] and gap["metric"] == 0 for mine, theirs, gap in apart]
    return {
        "proposed_alike": sum(numbered.get(trial["number"]) == configuration(trial) for trial in read),
        "shared": len(pairs),
        "agree": sum(same),
        "same_metric": sum(
            (mine["status"], mine["metric"]) == (theirs["status"], theirs["metric"]) for mine, theirs in pairs
        ),
        "disagree": [mine["label"] for (mine, _, _), alike in zip(apart, same, strict=True) if not alike],
        "largest_metric_difference": max((gap["metric"] for *_, gap in apart), default=0.0),
        "largest_loss_difference": max((gap["loss"] for *_, gap in apart), default=0.0),
    }


def tables(record: SharedRecord) -> str:
    """All that has been measured, as markdown."""
    made = [
        study_table(record.rows("study")),
        paired_table(record.rows("paired")),
        steps_table(record.rows("steps")),
        building_table(record.rows("building")),
    ]
    found = [one for one in made if one]
    rows = [row for section in ("study", "paired", "steps", "building") for row in record.rows(section).values()]
    return "\n\n".join([*found, _under(rows)]) if found else "There are no results yet."


def study_table(rows: Mapping[str, Row]) -> str:
    """The study with and without; behind it, whether outcomes agree, and each trial of the configurations in both."""
    if not rows:
        return ""
    lines = [
        "| study | trials | wall s | reading trials | their s, sum | other trials' s, sum | best metric |",
        "|---|---|---|---|---|---|---|",
    ]
    for mode, row in rows.items():
        reading = [trial for trial in row["trials"] if trial["read"]]
        others = [trial for trial in row["trials"] if not trial["read"]]
        best = max((trial["metric"] for trial in row["trials"] if trial["status"] == "complete"), default=math.nan)
        lines.append(
            f"| `--features {mode}` | {len(row['trials'])} | {row['seconds']:.0f} | {len(reading)} | "
            f"{_sum(reading):.0f} | {_sum(others):.0f} | {best:.4f} |"
        )
    told = [f"Asked: 24 trials within {STUDY_SECONDS:.0f} s."]
    told += [f"`{mode}` said: {line}" for mode, row in rows.items() for line in row["said"]]
    if {"auto", "off"} <= rows.keys():
        read, computed = rows["auto"]["trials"], rows["off"]["trials"]
        found = compare(read, computed)
        told.append(
            f"{found['proposed_alike']} of {len(read)} trials were proposed alike; of {found['shared']} configurations in both, "
            f"{found['same_metric']} came to the same value of the study's metric and {found['agree']} to the same of all metrics in every "
            f"epoch (largest difference of a metric "
            f"{found['largest_metric_difference']:.2g}, of a training loss {found['largest_loss_difference']:.1e} relative)"
            + (f"; not {', '.join(found['disagree'])}" if found["disagree"] else "")
            + "."
        )
        told.append(_trials_table(read, computed))
    return "\n".join(lines) + "\n\n" + "\n\n".join(told)


def _trials_table(read: Iterable[Row], computed: Iterable[Row]) -> str:
    other = {configuration(trial): trial for trial in computed}
    pairs = [(trial, other[configuration(trial)]) for trial in read if configuration(trial) in other]
    head = "| trial of both | reads | s, auto | s, off | metric, auto | metric, off | tensors MB, auto | tensors MB, off |\n|---|---|---|---|---|---|---|---|"
    return "\n".join([head, *(_pair_line(*pair) for pair in pairs)])


def paired_table(rows: Mapping[str, Row]) -> str:
    """Random configurations with and without the store."""
    if not rows:
        return ""
    equal = sum(row["equal"] for row in rows.values())
    worst = max(differences(row["read"], row["computed"])["loss"] for row in rows.values())
    head = (
        "| configuration | reads | s, read | s, computed | metric, read | metric, computed | tensors MB, read | "
        "tensors MB, computed | metric, rounded otherwise | losses apart, read | losses apart, rounded otherwise |\n"
        "|---|---|---|---|---|---|---|---|---|---|---|"
    )
    lines = [f"{_pair_line(row['read'], row['computed'])} {_control(row)} |" for row in rows.values()]
    told = [
        f"{equal} of {len(rows)} have the same metrics in every epoch; mean training losses differ by {worst:.1e} relative at most."
    ]
    controls = [differences(row["otherwise"], row["computed"]) for row in rows.values() if "otherwise" in row]
    if controls:
        told.append(
            f"Computed without the store, with another instruction set: {sum(not gap['metric'] for gap in controls)} of "
            f"{len(controls)} have the same metrics, losses differ by {max(gap['loss'] for gap in controls):.1e} at most."
        )
    return "\n".join([head, *lines]) + "\n\n" + " ".join(told)


def _control(row: Row) -> str:
    read = f"{differences(row['read'], row['computed'])['loss']:.1e}"
    if "otherwise" not in row:
        return f"not run | {read} | not run"
    return f"{_metric(row['otherwise'])} | {read} | {differences(row['otherwise'], row['computed'])['loss']:.1e}"


def steps_table(rows: Mapping[str, Row]) -> str:
    """Median seconds of a step: whole, on stored hidden states, and of what the method itself computes."""
    if not rows:
        return ""
    lines = [
        f"| model | method | whole s | reading s | own compute s | reading / own (at most {MOST_OF_OWN}) | whole / reading | first losses, difference |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows.values():
        ratio = row["reading"] / row["own"]
        lines.append(
            f"| {row['model']} | {row['method']} | {row['whole']:.4f} | {row['reading']:.4f} | {row['own']:.4f} | "
            f"{ratio:.2f}{'' if ratio <= MOST_OF_OWN else ' (over)'} | {row['whole'] / row['reading']:.1f} | "
            f"{row['loss_difference']:.1e} |"
        )
    return "\n".join(lines)


def building_table(rows: Mapping[str, Row]) -> str:
    """Rows a second of storing against those of the plain forward, and what it takes of the disk."""
    if not rows:
        return ""
    lines = [
        f"| model | rows | places | storing, rows/s | forward, rows/s | storing / forward (at least {LEAST_OF_FORWARD}) | MB on disk | kB a row |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        ratio = row["forward_seconds"] / row["building_seconds"]
        lines.append(
            f"| {name} | {row['rows']} | {row['places']} | {row['rows'] / row['building_seconds']:.1f} | "
            f"{row['rows'] / row['forward_seconds']:.1f} | {ratio:.2f}{'' if ratio >= LEAST_OF_FORWARD else ' (under)'} | "
            f"{row['bytes'] / 1e6:.0f} | {row['bytes'] / row['rows'] / 1e3:.0f} |"
        )
    return "\n".join(lines)


def _pair_line(read: Row, computed: Row) -> str:
    return (
        f"| {read['label']} | {'yes' if read['read'] else 'no'} | {read['seconds']:.1f} | {computed['seconds']:.1f} | "
        f"{_metric(read)} | {_metric(computed)} | {_megabytes(read)} | {_megabytes(computed)} |"
    )


def _metric(trial: Row) -> str:
    return trial["status"] if trial["metric"] is None else f"{trial['metric']:.4f}"


def _megabytes(trial: Row) -> str:
    return "" if trial["allocated"] is None else f"{trial['allocated'] / 1e6:.0f}"


def _sum(trials: Iterable[Row]) -> float:
    return sum(trial["seconds"] for trial in trials)


def _under(rows: Sequence[Row]) -> str:
    commits = sorted({row["taken"]["commit"] for row in rows})
    loads = [row["taken"]["load"] for row in rows]
    return f"Commit {', '.join(commits)}; the machine's load when a row was done: {min(loads)} to {max(loads)}."
