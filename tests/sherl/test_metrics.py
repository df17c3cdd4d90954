"""Metrics against values worked out by hand, and what they are where a formula has none."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sherl.errors import DataError, SpecError, UnknownNameError
from sherl.metrics import DEFAULT_METRICS, METRICS, metric_for, metric_names

TRUTH = np.array([0, 0, 0, 1, 1, 1, 1, 0])
GUESS = np.array([0, 1, 0, 1, 1, 0, 1, 0])  # tp 3, fp 1, fn 1, tn 3


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("accuracy", 6 / 8),
        ("f1", 2 * 3 / (2 * 3 + 1 + 1)),
        ("f1_macro", 0.75),
        ("matthews", (3 * 3 - 1 * 1) / math.sqrt(4 * 4 * 4 * 4)),
        ("accuracy_f1", 0.75),
    ],
)
def test_two_classes(name: str, value: float) -> None:
    assert METRICS.get(name)(TRUTH, GUESS, 2) == pytest.approx(value)


def test_f1_of_two_classes_is_of_the_second_one() -> None:
    truth, guess = np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1])  # class 1: tp 1, fp 1, fn 0; class 0: tp 2, fn 1
    assert METRICS.get("f1")(truth, guess, 2) == pytest.approx(2 / 3)
    assert METRICS.get("f1_macro")(truth, guess, 2) == pytest.approx((2 / 3 + 4 / 5) / 2)


def test_f1_of_three_classes_is_the_macro_mean() -> None:
    truth, guess = np.array([0, 1, 2, 2]), np.array([0, 2, 2, 2])  # 1, 0, 2*2/(4+1)
    assert METRICS.get("f1")(truth, guess, 3) == pytest.approx((1 + 0 + 4 / 5) / 3)


def test_values() -> None:
    truth, guess = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 3.0, 2.0, 6.0])
    # deviations: truth -1.5 -.5 .5 1.5, guess -2 0 -1 3: sum of products 7, squares 5 and 14
    assert METRICS.get("pearson")(truth, guess) == pytest.approx(7 / math.sqrt(5 * 14))
    assert METRICS.get("spearman")(truth, guess) == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert METRICS.get("neg_rmse")(truth, guess) == pytest.approx(-math.sqrt(6 / 4))
    assert METRICS.get("neg_mae")(truth, guess) == pytest.approx(-1.0)
    assert METRICS.get("r2")(truth, guess) == pytest.approx(1 - 6 / 5)
    both = METRICS.get("pearson_spearman")(truth, guess)
    assert both == pytest.approx((7 / math.sqrt(70) + 0.8) / 2)


def test_spearman_gives_ties_their_mean_rank() -> None:
    truth, guess = np.array([1.0, 1.0, 2.0]), np.array([1.0, 2.0, 3.0])  # ranks 1.5 1.5 3 and 1 2 3
    assert METRICS.get("spearman")(truth, guess) == pytest.approx(1.5 / math.sqrt(1.5 * 2))


@pytest.mark.parametrize("name", ["pearson", "spearman", "pearson_spearman"])
@pytest.mark.parametrize(
    ("truth", "guess"),
    [([1.0, 2.0], [3.0, 3.0]), ([3.0, 3.0], [1.0, 2.0]), ([1.0], [2.0]), ([1.0, 2.0, 3.0], [0.1, 0.1, 0.1])],
)
def test_a_correlation_with_a_constant_is_zero(name: str, truth: list[float], guess: list[float]) -> None:
    assert METRICS.get(name)(np.array(truth), np.array(guess)) == 0.0


def test_a_spread_that_is_rounding_counts_as_none() -> None:
    guess = np.array([1e6, 1e6 + 1e-10, 1e6, 1e6])
    assert METRICS.get("pearson")(np.arange(4.0), guess) == 0.0


@pytest.mark.parametrize("name", metric_names("classes"))
@pytest.mark.parametrize(("truth", "guess"), [([0, 0], [0, 0]), ([1, 1], [0, 0]), ([0, 1], [1, 1]), ([1], [1])])
def test_one_class_only_gives_a_number_without_a_warning(name: str, truth: list[int], guess: list[int]) -> None:
    assert 0.0 <= METRICS.get(name)(np.array(truth), np.array(guess), 2) <= 1.0


def test_constant_predictions_have_no_matthews() -> None:
    assert METRICS.get("matthews")(np.array([0, 1, 0]), np.array([1, 1, 1]), 2) == 0.0
    assert METRICS.get("r2")(np.array([2.0, 2.0]), np.array([1.0, 3.0])) == 0.0


@pytest.mark.parametrize("name", list(METRICS))
def test_every_metric_is_nan_for_predictions_that_are_not_finite_and_refuses_no_rows(name: str) -> None:
    assert math.isnan(METRICS.get(name)(np.array([0.0, 1.0]), np.array([np.nan, 1.0]), 2))
    with pytest.raises(DataError, match="no row"):
        METRICS.get(name)(np.array([]), np.array([]), 2)
    with pytest.raises(DataError, match="2 labels but 1"):
        METRICS.get(name)(np.array([0, 1]), np.array([1]), 2)


@given(st.lists(st.floats(-1e30, 1e30), min_size=1, max_size=8), st.integers(0, 7))
def test_metrics_of_values_are_always_defined_and_best_for_the_truth(values: list[float], shift: int) -> None:
    truth = np.array(values)
    other = np.roll(truth, shift)
    for name in metric_names("values"):
        score, best = METRICS.get(name)(truth, other), METRICS.get(name)(truth, truth)
        assert math.isfinite(score)
        assert score <= best + 1e-9


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=12))
def test_metrics_of_classes_are_always_defined_and_at_most_one(rows: list[tuple[int, int]]) -> None:
    truth, guess = np.array(rows).T
    for name in metric_names("classes"):
        assert -1.0 <= METRICS.get(name)(truth, guess, 4) <= 1.0


def test_the_default_comes_first_and_wrong_names_are_explained() -> None:
    for targets, default in DEFAULT_METRICS.items():
        assert metric_names(targets)[0] == default
    with pytest.raises(UnknownNameError, match="Did you mean 'accuracy'"):
        metric_for("acuracy", "classes")
    with pytest.raises(SpecError, match=r"'pearson' scores values, but the labels are classes.*accuracy"):
        metric_for("pearson", "classes")
