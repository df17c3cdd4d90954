"""Selection where other seeds have spoken: a lucky one does not win, what was left behind is said, and what answering takes counts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.errors import ConfigError, SelectionError
from autotune.outcome import Confirmation, InferenceFigures, MemoryFigures, Outcome, Status
from autotune.report import pareto_front, points_from, select
from autotune.report.front import Point
from autotune.report.ranking import worth
from autotune.search import StudyRecord
from autotune.study.folder import StudyFolder
from autotune.study.selecting import current_selection
from tests.autotune._records import point, trial
from tests.autotune.search_samples import candidate, complete

GB = 10**9


def confirmed(number: int, metric: float, memory: int, means: tuple[float, ...], tried: int | None = None) -> Point:
    return point(number, metric, memory, confirmed=means, confirmed_of=len(means) if tried is None else tried)


def answering(latency: float, device: int) -> InferenceFigures:
    peak = MemoryFigures(allocated=device // 2, device=device, meter="process private bytes")
    return InferenceFigures(
        peak=peak, latency_seconds=latency, rows_per_second=10.0, batch_rows=8, threads=1, device="cpu"
    )


STEADY = confirmed(1, 0.80, 2 * GB, (0.79, 0.80, 0.81))
LUCKY = confirmed(2, 0.90, 4 * GB, (0.76, 0.77, 0.75))
BEST = confirmed(3, 0.91, 8 * GB, (0.84, 0.86))


def test_a_lucky_seed_does_not_win() -> None:
    assert select([replace(p, confirmed=(), confirmed_of=0) for p in (STEADY, LUCKY)]).point.number == 2
    chosen = select([STEADY, LUCKY])
    assert chosen.point.number == 1
    assert chosen.runner_up is None, "a cheaper member's mean beats it"
    assert "Trial 2 (accuracy 0.9 in the search) is no longer recommended: accuracy 0.76 ± 0.01" in chosen.explanation
    assert "accuracy 0.8 ± 0.01 over 3 other seeds" in chosen.explanation
    assert "unconfirmed" not in chosen.explanation


def test_a_lucky_seed_does_not_win_by_the_record(record: StudyRecord) -> None:
    """The whole way: outcomes, confirmations, points, choice."""
    for number, (metric, memory, others) in enumerate([(0.80, 1000, (0.80, 0.79)), (0.95, 2000, (0.70, 0.72))]):
        record.start(candidate(1e-3 * (number + 1)), seed=0)
        peak = MemoryFigures(allocated=memory, device=memory, meter="test")
        record.finish(number, complete(metric, peak=peak))
        for seed, other in enumerate(others, 1):
            record.confirm(number, Confirmation(seed=seed, outcome=complete(other, peak=peak)))
    points = points_from(record.trials(), metric_name="accuracy")
    assert [p.on_front for p in points] == [True, True]
    assert select(points).point.number == 0


def test_an_unconfirmed_metric_comes_after_confirmed_ones() -> None:
    unconfirmed = point(9, 0.99, 9 * GB)
    chosen = select([STEADY, BEST, unconfirmed])
    assert (chosen.point.number, chosen.runner_up and chosen.runner_up.number) == (3, 1)
    assert "Trial 9 (accuracy 0.99, unconfirmed) comes after those that are confirmed" in chosen.explanation
    cheapest = point(8, 0.5, GB)
    assert select([STEADY, BEST, cheapest], prefer="memory").point.number == 1
    alone = select([unconfirmed])
    assert "unconfirmed" in alone.explanation
    assert "autotune confirm" in alone.explanation


def test_the_least_metric_is_compared_with_the_mean() -> None:
    assert select([STEADY, BEST], min_metric=0.85).point.number == 3
    with pytest.raises(SelectionError, match=r"highest metric has trial 3.*0\.85 ± 0\.014 over 2 other seeds"):
        select([STEADY, LUCKY, BEST], min_metric=0.88)


def test_a_mean_of_the_lucky_seeds_alone_comes_last() -> None:
    shaky = confirmed(4, 0.95, 9 * GB, (0.94,), tried=3)
    chosen = select([STEADY, shaky])
    assert chosen.point.number == 1
    assert "Trial 4 (accuracy 0.94 over 1 of 3 other seeds) comes last" in chosen.explanation
    collapsed = confirmed(5, 0.95, 9 * GB, (), tried=2)
    assert "0.95, but 0 of 2 other seeds ended well" in select([collapsed]).explanation
    assert select([collapsed, point(6, 0.7, GB)]).point.number == 6, "one that nothing speaks against"
    two_of_three = confirmed(7, 0.95, 9 * GB, (0.9, 0.92), tried=3)
    assert "over 2 of 3 other seeds" in select([STEADY, two_of_three]).explanation
    assert select([STEADY, two_of_three]).point.number == 7


def test_an_interrupted_confirmation_says_nothing() -> None:
    base = trial(0)
    ends = (Status.INTERRUPTED, Status.DIVERGED, Status.COMPLETE)
    others = tuple(
        Confirmation(seed=seed, outcome=Outcome(status=status, metric=0.7)) for seed, status in enumerate(ends, 1)
    )
    (only,) = points_from([replace(base, confirmations=others)])
    assert (only.confirmed, only.confirmed_of) == ((0.7,), 2)


POINTS = st.lists(
    st.tuples(st.floats(0, 1), st.integers(1, 50), st.lists(st.floats(0, 1), max_size=3), st.integers(0, 2)),
    min_size=1,
    max_size=12,
).map(
    lambda rows: [
        confirmed(number, metric, memory * GB, tuple(means), len(means) + bad)
        for number, (metric, memory, means, bad) in enumerate(rows)
    ]
)


@given(POINTS, st.sampled_from(["metric", "memory", "knee"]), st.randoms())
def test_the_scores_of_the_test_part_change_nothing(points, prefer, chance) -> None:  # type: ignore[no-untyped-def]  # hypothesis fills them
    scored = [replace(p, test_metrics={"accuracy": chance.random()}) for p in points]
    plain, other = select(points, prefer=prefer), select(scored, prefer=prefer)
    assert (plain.point.number, plain.text) == (other.point.number, other.text)


@given(POINTS)
def test_no_cheaper_member_of_a_higher_mean_is_passed_over(points) -> None:  # type: ignore[no-untyped-def]  # as above
    chosen = select(points).point
    if chosen.confirmed and 2 * len(chosen.confirmed) >= chosen.confirmed_of:
        stand = [p for p in points if p.confirmed and 2 * len(p.confirmed) >= p.confirmed_of]
        front = {p.number for p in pareto_front(points)}
        assert worth(chosen) == max(worth(p) for p in stand if p.number in front)


def test_what_answering_takes_can_be_asked_for() -> None:
    quick = replace(STEADY, inference=answering(0.01, GB))
    slow = replace(BEST, inference=answering(0.05, 3 * GB))
    assert select([quick, slow]).point.number == 3
    assert select([quick, slow], prefer="latency").point.number == 1
    chosen = select([quick, slow], max_latency=0.02)
    assert chosen.point.number == 1
    assert "answers one row in 10.0 ms, holding 1.00 GB (0.93 GiB)" in chosen.explanation
    assert "is the only one of 2 members of the front to answer one row within 20.0 ms" in chosen.explanation
    assert select([quick, slow], inference_memory_cap=2 * GB).point.number == 1
    with pytest.raises(SelectionError, match="shortest latency has trial 1"):
        select([quick, slow], max_latency=0.001)
    with pytest.raises(SelectionError, match="least memory while answering has trial 1"):
        select([quick, slow], inference_memory_cap=GB - 1)


def test_the_reason_claims_no_more_than_the_order_compared() -> None:
    """Unconfirmed, failing and beaten members may be ahead in what is preferred; they were not compared."""
    quick, slow = replace(STEADY, inference=answering(0.03, GB)), replace(BEST, inference=answering(0.05, GB))
    small = replace(point(8, 0.5, GB), inference=answering(0.01, GB))
    shaky = replace(confirmed(4, 0.4, GB // 2, (0.5,), tried=3), inference=answering(0.02, GB))
    front = [small, quick, slow, shaky]

    least = select(front, prefer="memory").explanation
    assert "Trial 1, " in least
    assert "has the least peak of tensor bytes of 2 confirmed members of the front. " in least
    assert "Trial 8 (1.00 GB (0.93 GiB) of tensor bytes, unconfirmed) comes after those that are confirmed" in least
    assert "Trial 4 (500.00 MB (476.84 MiB) of tensor bytes) comes last: less than half" in least

    soonest = select(front, prefer="latency").explanation
    assert "answers one row soonest of 2 confirmed members of the front. " in soonest
    assert "Trial 8 (answers one row in 10.0 ms, unconfirmed) comes after those that are confirmed" in soonest
    assert "Trial 4 (answers one row in 20.0 ms) comes last" in soonest

    highest = select([*front, point(9, 0.99, 9 * GB)], max_latency=1.0).explanation
    assert "has the highest mean validation accuracy of 2 confirmed members of the front that answer one row" in highest
    assert "within 1.00 s (1 of 5 do not). " in highest
    assert "Trial 8" not in highest, "it is ahead in nothing that is preferred"
    assert "is the only confirmed one of 3 members of the front. " in select([small, quick, shaky]).explanation
    assert "of 2 unconfirmed members of the front. " in select([small, point(9, 0.99, 9 * GB), shaky]).explanation
    assert "of 2 members of the front. " in select([small, point(9, 0.99, 9 * GB)]).explanation


def test_a_beaten_member_is_named_by_what_is_preferred_and_not_counted() -> None:
    quick = replace(LUCKY, inference=answering(0.01, GB))
    others = [replace(STEADY, inference=answering(0.03, GB)), replace(BEST, inference=answering(0.05, GB))]
    chosen = select([*others, quick], prefer="latency")
    assert chosen.point.number == 1
    assert (
        "answers one row soonest of 2 confirmed members of the front that are still recommended. " in chosen.explanation
    )
    assert "Trial 2 (answers one row in 10.0 ms) is no longer recommended: accuracy 0.76" in chosen.explanation
    alone = select([others[0], quick], max_latency=1.0, prefer="latency").explanation
    assert "is the only confirmed one that is still recommended of 2 members of the front that answer" in alone


def test_a_member_that_alone_was_measured_is_not_said_to_be_the_soonest() -> None:
    measured = replace(STEADY, inference=answering(0.03, GB))
    explanation = select([measured, BEST], prefer="latency").explanation
    assert "is the only member of the front of which it is known what answering takes" in explanation
    assert "soonest" not in explanation
    assert "do not" not in explanation


@pytest.mark.parametrize("rule", [{"max_latency": 1.0}, {"inference_memory_cap": GB}, {"prefer": "latency"}])
def test_figures_that_nobody_measured_are_asked_for_in_vain_and_the_way_is_said(rule: dict) -> None:  # type: ignore[type-arg]  # keywords of select
    with pytest.raises(SelectionError, match="`autotune confirm` measures them"):
        select([STEADY, BEST], **rule)
    some = select([replace(STEADY, inference=answering(0.01, GB)), BEST], **rule)
    assert some.point.number == 1
    assert "Answering was not measured for 1 member" in some.explanation


def test_what_a_gigabyte_more_or_less_would_bring() -> None:
    both = select([STEADY, BEST], memory_cap=7 * GB)
    assert both.point.number == 1
    assert both.more is not None
    assert both.less is not None
    assert (both.more.memory_cap, both.more.point and both.more.point.number) == (8 * GB, 3)
    assert "With 1 GB more device memory (8.00 GB (7.45 GiB)): trial 3" in both.text
    assert "+0.05 accuracy" in both.text
    assert "With 1 GB less device memory (6.00 GB (5.59 GiB)), nothing would change" in both.text
    free = select([STEADY, BEST])
    assert free.more is not None
    assert free.less is not None
    assert free.more.memory_cap == 9 * GB, "from the chosen one's own peak"
    assert free.more.words.endswith("nothing would change.")
    assert (free.less.point and free.less.point.number, free.less.words.split("; ")[-1]) == (1, "-0.05 accuracy.")
    assert select([STEADY], memory_cap=2 * GB).less.words.endswith("no member of the front would qualify.")  # type: ignore[union-attr]  # there is a cap
    small = select([point(1, 0.5, GB // 2)])
    assert "nothing would be left to train in" in small.text
    assert select([point(1, 0.5, GB, device=None)]).more is None
    assert both.to_dict()["one_gb_more"]["number"] == 3


def test_conditions_that_make_no_sense_are_named() -> None:
    with pytest.raises(ConfigError) as caught:
        select([STEADY], inference_memory_cap=0, max_latency=-1.0)
    assert "inference memory cap must be above 0" in str(caught.value)
    assert "longest latency must be above 0" in str(caught.value)


def test_a_record_that_is_unconfirmed_is_shown_so() -> None:
    assert "unconfirmed" in select(points_from([trial(0, 0.8)])).explanation


def test_a_study_s_own_choice_follows_rules_of_earlier_versions_and_of_now(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    points = [replace(STEADY, inference=answering(0.01, GB)), replace(BEST, inference=answering(0.05, 3 * GB))]
    assert current_selection(folder, points, save=False).point.number == 3  # type: ignore[union-attr]  # there is a front
    for rule, expected in (
        ({"memory_cap": 4 * GB, "min_metric": None, "prefer": "metric"}, 1),
        ({"memory_cap": None, "min_metric": None, "max_latency": 0.02, "prefer": "metric"}, 1),
        ({"prefer": "metric"}, 3),
    ):
        folder.selection_file.write_text(json.dumps({"rule": rule}))
        selection = current_selection(folder, points, save=True)
        assert selection is not None
        assert selection.point.number == expected
        kept = json.loads(folder.selection_file.read_text())
        assert (kept["rule"], kept["point"]["number"]) == (rule, expected)
    folder.selection_file.write_text(json.dumps({"rule": {"max_latency": 0.02}}))
    assert current_selection(folder, [STEADY, BEST], save=False) is None, "what it reads was not measured"
