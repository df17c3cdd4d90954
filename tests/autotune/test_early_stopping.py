"""Early stopping: judged only by trials that use no more memory."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.errors import ConfigError
from autotune.outcome import Candidate, EpochReport, MemoryFigures, Outcome, Status, TrialRecord
from autotune.search.early_stopping import EarlyStopping


def with_peers(memories: Iterable[int], metric: float = 0.8, **options: float) -> EarlyStopping:
    """A rule that has seen peers of these memories, each at this metric after epochs 1 to 4."""
    rule = EarlyStopping(epochs=4, **options)  # type: ignore[arg-type]  # options of several types
    for number, memory in enumerate(memories):
        for epoch in (1, 2, 3, 4):
            rule.observe(number, memory, epoch, metric)
    return rule


def test_a_trial_below_the_median_of_cheaper_ones_is_stopped() -> None:
    assert with_peers([100, 100, 100]).observe(9, 100, 2, 0.79)
    assert with_peers([10, 20, 100]).observe(9, 100, 2, 0.79)


def test_metrics_below_zero_are_compared_by_their_sign() -> None:
    assert with_peers([10, 20, 100], metric=-30.0).observe(9, 100, 2, -31.0)
    assert not with_peers([10, 20, 100], metric=-30.0).observe(9, 100, 2, -29.0)


def test_a_cheaper_trial_is_never_stopped_for_being_worse_than_dearer_ones() -> None:
    rule = with_peers([100, 100, 100, 100])
    assert not rule.observe(9, 99, 2, 0.1)
    assert rule.observe(8, 100, 2, 0.1)


@given(st.lists(st.tuples(st.integers(1, 10**12), st.floats(0, 1), st.integers(1, 4)), max_size=30), st.floats(0, 1))
def test_the_cheapest_is_never_stopped(others: list[tuple[int, float, int]], metric: float) -> None:
    rule = EarlyStopping(grace_epochs=0, min_peers=1)
    for number, (memory, seen, epoch) in enumerate(others, start=1):
        rule.observe(number, memory, epoch, seen)
    cheapest = min((memory for memory, _, _ in others), default=2) - 1
    assert not any(rule.observe(0, cheapest, epoch, metric) for epoch in (1, 2, 3, 4))


@given(st.permutations([(0, 50, 0.6), (1, 60, 0.7), (2, 70, 0.8), (3, 500, 0.99)]))
def test_the_order_in_which_peers_were_seen_changes_nothing(peers: list[tuple[int, int, float]]) -> None:
    rule = EarlyStopping(epochs=4)
    for number, memory, metric in peers:
        rule.observe(number, memory, 2, metric)
    assert rule.observe(8, 100, 2, 0.69)
    assert not rule.observe(9, 100, 2, 0.7), "the median itself goes on"


def test_nothing_is_stopped_in_grace_at_the_last_epoch_or_with_few_peers() -> None:
    assert not with_peers([1, 1, 1]).observe(9, 100, 1, 0.0)
    assert not with_peers([1, 1, 1], grace_epochs=2).observe(9, 100, 2, 0.0)
    assert not with_peers([1, 1, 1]).observe(9, 100, 4, 0.0)
    assert not with_peers([1, 1]).observe(9, 100, 2, 0.0)
    assert with_peers([1, 1], min_peers=2).observe(9, 100, 2, 0.0)
    rule = EarlyStopping(min_peers=1)
    rule.observe(0, 1, 2, 0.9)
    assert not rule.observe(1, 1, 2, 0.1, last=True)


def test_the_best_that_a_trial_has_shown_counts() -> None:
    rule = with_peers([1, 1, 1])
    assert not rule.observe(9, 100, 1, 0.9)
    assert not rule.observe(9, 100, 2, 0.1), "one bad epoch after a good one"


def test_peers_that_have_not_come_as_far_do_not_judge() -> None:
    rule = EarlyStopping(epochs=4)
    for number in range(5):
        rule.observe(number, 1, 1, 0.9)
    assert not rule.observe(9, 100, 2, 0.1)


def test_margin_and_quantile_are_patience() -> None:
    assert not with_peers([1, 1, 1], margin=0.05).observe(9, 100, 2, 0.76)
    assert with_peers([1, 1, 1], margin=0.05).observe(9, 100, 2, 0.74)
    rule = EarlyStopping(epochs=4, quantile=0.25)
    for number, metric in enumerate((0.1, 0.2, 0.3, 0.4, 0.5)):
        rule.observe(number, 1, 2, metric)
    assert not rule.observe(8, 100, 2, 0.2)
    assert rule.observe(9, 100, 2, 0.19)


@pytest.mark.parametrize("metric", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_neither_stops_nor_judges(metric: float) -> None:
    rule = with_peers([1, 1, 1])
    assert not rule.observe(9, 100, 2, metric)
    assert with_peers([1, 1], metric=metric).observe(9, 100, 2, 0.0) is False


def test_without_its_memory_a_trial_is_not_judged() -> None:
    assert not with_peers([1, 1, 1]).observe(9, None, 2, 0.0)


def test_a_resumed_study_judges_as_before() -> None:
    def row(number: int, status: Status) -> TrialRecord:
        reports = tuple(
            EpochReport(epoch=epoch, train_loss=1.0, metrics={"accuracy": 0.8}, seconds=1.0) for epoch in (1, 2)
        )
        peak = MemoryFigures(allocated=10, device=20, meter="test")
        outcome = Outcome(status=status, epochs=reports, peak=peak)
        return TrialRecord(
            number=number, candidate=Candidate(method={"name": "full"}, training={}, params={}), seed=0, outcome=outcome
        )

    running = TrialRecord(number=7, candidate=row(7, Status.FAILED).candidate, seed=0)
    rule = EarlyStopping(epochs=4)
    rule.learn([row(0, Status.COMPLETE), row(1, Status.STOPPED), row(2, Status.COMPLETE), running], "accuracy")
    assert rule.observe(9, 10, 2, 0.7)
    rule = EarlyStopping(epochs=4)
    rule.learn([row(0, Status.COMPLETE), row(1, Status.STOPPED), row(2, Status.INTERRUPTED)], "accuracy")
    assert not rule.observe(9, 10, 2, 0.7), "an interrupted trial runs again and is no peer of itself"
    rule.learn([row(4, Status.COMPLETE)], "another metric")
    assert not rule.observe(9, 10, 2, 0.7)


def test_all_wrong_arguments_are_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        EarlyStopping(epochs=0, grace_epochs=-1, min_peers=0, quantile=1.0, margin=float("nan"))
    assert [problem.split(":")[0] for problem in caught.value.problems] == [
        "epochs",
        "grace_epochs",
        "min_peers",
        "quantile",
        "margin",
    ]
