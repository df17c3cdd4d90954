"""What a selection says: why this point, what comes next, what was left out, and what comes nearest where nothing qualifies."""

from __future__ import annotations

from collections.abc import Sequence

from autotune.report.front import Point
from autotune.report.ranking import Standing, worth
from autotune.report.rule import Rule, asked
from autotune.report.words import metric_words, point_words
from autotune.units import format_bytes


def count_words(number: int, noun: str) -> str:
    """``1 member``, ``2 members``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def explain(chosen: Point, runner_up: Point | None, stand: Standing, front: Sequence[Point], rule: Rule) -> str:
    """Why this point was chosen among those that qualify (``stand``), and which would be next."""
    highest = "highest mean validation" if chosen.confirmed else "highest validation"
    reason = {
        "metric": f"has the {highest} {chosen.metric_name}",
        "memory": "has the least peak of tensor bytes",
        "latency": "answers one row soonest",
        "knee": "is the knee: beyond it, more memory buys less metric",
    }[rule.prefer]
    fitting = len(stand.confirmed) + len(stand.unconfirmed) + len(stand.failing) + len(stand.beaten)
    conditions = asked(rule.conditions)
    if len(front) == 1:
        why = "is the only member of the front"
    elif conditions and fitting == 1:
        why = f"is the only one of {len(front)} members of the front to {conditions}"
    else:
        why = f"{reason} of {count_words(fitting, 'member')} of the front" + (
            f" that {conditions}" if conditions else ""
        )
        why += f" ({len(front) - fitting} of {len(front)} do not)" if fitting < len(front) else ""
    sentences = [f"Trial {chosen.number}, {point_words(chosen)}, {why}."]
    if runner_up is not None:
        sentences.append(f"Next best: trial {runner_up.number}, {point_words(runner_up)}.")
    sentences += _left_behind(chosen, stand)
    unmeasured = sum(point.inference is None for point in front) if rule.needs_inference else 0
    if unmeasured:
        sentences.append(
            f"Answering was not measured for {count_words(unmeasured, 'member')}, which so cannot be chosen here: "
            "`autotune confirm` measures it."
        )
    if not chosen.confirmed and not chosen.confirmed_of:
        sentences.append("Its metric is of one seed, the best of a search: `autotune confirm` trains it on others.")
    return " ".join(sentences)


def _left_behind(chosen: Point, stand: Standing) -> list[str]:
    """Of points that stood out in the search and do not after the confirmation."""
    sentences = [
        f"Trial {point.number} ({point.metric_name} {point.ranked_metric:.4g} in the search) is no longer recommended: "
        f"{metric_words(point)}, which trial {winner.number} reaches with no more memory."
        for point, winner in stand.beaten
    ]
    sentences += [
        f"Trial {point.number} ({metric_words(point)}) comes last: less than half of its other seeds ended well."
        for point in stand.failing
        if point.number != chosen.number
    ]
    higher = [point for point in stand.unconfirmed if chosen.confirmed and point.ranked_metric > worth(chosen)]
    sentences += [
        f"Trial {point.number} ({metric_words(point)}) comes after those that are confirmed." for point in higher
    ]
    return sentences


def alternative_words(found: Point | None, chosen: Point, base: int, step: int) -> str:
    """What another cap of device memory would change."""
    amount = f"With {abs(step) / 1e9:g} GB {'more' if step > 0 else 'less'}"
    if base + step <= 0:
        return f"{amount} device memory than {format_bytes(base)}, nothing would be left to train in."
    head = f"{amount} device memory ({format_bytes(base + step)})"
    if found is None:
        return f"{head}, no member of the front would qualify."
    if found.number == chosen.number:
        return f"{head}, nothing would change."
    difference = worth(found) - worth(chosen)
    return f"{head}: trial {found.number}, {point_words(found)}; {difference:+.4g} {chosen.metric_name}."


def nothing_meets(front: Sequence[Point], rule: Rule) -> str:
    """What was asked, and for each condition the member that comes nearest: of those that meet the other conditions,
    where there are some."""
    conditions = rule.conditions
    lines = [f"No member of the front ({len(front)} in all) meets what was asked: to {asked(conditions)}."]
    for condition in conditions:
        if all(condition.figure(point) is None for point in front):  # of what answering takes, select() has said so
            lines.append("No device peak was measured, so no point can be shown to stay within a cap.")
            continue
        others = [other for other in conditions if other is not condition]
        able = [point for point in front if all(other.met(point) for other in others)]
        nearest = condition.nearest(able or front)
        if condition.figure(nearest) is None or (not able and condition.met(nearest)):
            continue
        among = f" of those that {asked(others)}" if others and able else ""
        lines.append(f"The {condition.best}{among} has trial {nearest.number}, {point_words(nearest)}.")
    unmeasured = sum(point.inference is None for point in front) if rule.needs_inference else 0
    if unmeasured:
        lines.append(f"Answering was not measured for {unmeasured} of them: `autotune confirm` measures it.")
    lines.append("Relax a condition, or search further with `autotune resume`.")
    return " ".join(lines)
