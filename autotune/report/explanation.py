"""What a selection says: why this point, what comes next, what was left out, and what comes nearest where nothing qualifies."""

from __future__ import annotations

from collections.abc import Sequence

from autotune.report.front import Point
from autotune.report.ranking import Standing, worth
from autotune.report.rule import Preference, Rule, asked
from autotune.report.words import metric_words, point_words
from autotune.units import count_words, format_bytes, format_latency


def explain(chosen: Point, runner_up: Point | None, stand: Standing, front: Sequence[Point], rule: Rule) -> str:
    """Why this point was chosen among those that qualify (``stand``), and which would be next."""
    sentences = [f"Trial {chosen.number}, {point_words(chosen)}, {_why(chosen, stand, front, rule)}."]
    if runner_up is not None:
        sentences.append(f"Next best: trial {runner_up.number}, {point_words(runner_up)}.")
    sentences += _left_behind(chosen, stand, rule.prefer)
    unmeasured = sum(point.inference is None for point in front) if rule.needs_inference else 0
    if unmeasured:
        sentences.append(
            f"Answering was not measured for {count_words(unmeasured, 'member')}, which so cannot be chosen here: "
            "`autotune confirm` measures it."
        )
    if not chosen.confirmed and not chosen.confirmed_of:
        sentences.append("Its metric is of one seed, the best of a search: `autotune confirm` trains it on others.")
    return " ".join(sentences)


def _why(chosen: Point, stand: Standing, front: Sequence[Point], rule: Rule) -> str:
    """What sets the point apart from those that it was compared with: its own group of the standing, no other."""
    if len(front) == 1:
        return "is the only member of the front"
    conditions = asked(rule.conditions)
    failing = sum(not all(condition.met(point) for condition in rule.conditions) for point in front)
    if conditions and len(front) - failing == 1:
        return f"is the only one of {len(front)} members of the front to {conditions}"
    groups = (stand.confirmed, stand.unconfirmed, stand.failing)
    group = next(group for group in groups if any(point.number == chosen.number for point in group))
    qualifying = sum(map(len, groups)) + len(stand.beaten)
    if qualifying == 1:  # the others meet the conditions, and what answering takes is not known of them
        return "is the only member of the front of which it is known what answering takes"
    met = f"{conditions} ({failing} of {len(front)} do not)" if failing else conditions
    sort = "confirmed " if group is stand.confirmed else "unconfirmed " if len(group) < qualifying else ""
    if len(group) == 1:
        still = " that is still recommended" if stand.beaten else ""
        return f"is the only {sort}one{still} of {qualifying} members of the front{met and f' that {met}'}"
    clauses = [words for words in (met, "are still recommended" if stand.beaten else "") if words]
    among = f"{len(group)} {sort}members of the front{' that ' * bool(clauses)}{' and '.join(clauses)}"
    highest = "highest mean validation" if chosen.confirmed else "highest validation"
    return {
        "metric": f"has the {highest} {chosen.metric_name} of {among}",
        "memory": f"has the least peak of tensor bytes of {among}",
        "latency": f"answers one row soonest of {among}",
        "knee": f"is the knee of {among}: beyond it, more memory buys less metric",
    }[rule.prefer]


def _left_behind(chosen: Point, stand: Standing, prefer: Preference) -> list[str]:
    """Of points that stand out in what is preferred and are passed over for what their other seeds say."""
    sentences = [
        f"Trial {point.number} ({_preferred(point, prefer) or f'{point.metric_name} {point.ranked_metric:.4g} in the search'}) is "
        f"no longer recommended: {metric_words(point)}, which trial {winner.number} reaches with no more memory."
        for point, winner in stand.beaten
    ]
    sentences += [
        f"Trial {point.number} ({_preferred(point, prefer) or metric_words(point)}) comes last: less than half of its other "
        "seeds ended well."
        for point in stand.failing
        if point.number != chosen.number
    ]
    sentences += [
        f"Trial {point.number} ({f'{figure}, unconfirmed' if (figure := _preferred(point, prefer)) else metric_words(point)}) "
        "comes after those that are confirmed."
        for point in stand.unconfirmed
        if chosen.confirmed and _ahead(point, chosen, prefer)
    ]
    return sentences


def _preferred(point: Point, prefer: Preference) -> str:
    """The figure that is preferred, in words; "" where that is the metric."""
    if prefer == "memory" and point.memory is not None:
        return f"{format_bytes(point.memory)} of tensor bytes"
    if prefer == "latency" and point.inference is not None:
        return f"answers one row in {format_latency(point.inference.latency_seconds)}"
    return ""


def _ahead(point: Point, chosen: Point, prefer: Preference) -> bool:
    """Whether a point would come before the chosen one if its figure alone counted."""
    if prefer == "memory":
        return point.ranked_memory < chosen.ranked_memory
    if prefer == "latency" and point.inference is not None and chosen.inference is not None:
        return point.inference.latency_seconds < chosen.inference.latency_seconds
    return point.ranked_metric > worth(chosen)


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
