"""The field's metrics under short names; higher is better for every one.

Definitions are scikit-learn's and scipy's (imported on first use). Where those have no value, one is defined here:

- any prediction that is not finite: NaN (training makes a "diverged" outcome of it);
- a correlation, ``matthews`` or ``r2`` of a constant (predictions or truth) or of a single row: 0.0;
- an F1 of a class that stands neither in the truth nor in the predictions: 0.0 for the binary one; the macro mean is
  taken over the classes that stand in either.

No rows at all raise :class:`~sherl.errors.DataError`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sherl.errors import DataError, SpecError
from sherl.registry import Registry
from sherl.spans import BREAK, entities

Targets: TypeAlias = Literal["classes", "values", "texts", "tags", "tokens"]
"""What the labels of a task are: indices of classes, numbers, texts (equal texts have equal numbers), a tag for each word, or
all tokens of a row."""

Vector: TypeAlias = NDArray[Any]


@dataclass(frozen=True)
class Metric:
    """A named score: ``compute(truth, predicted, num_outputs)`` of two vectors of equal length.

    The vectors hold class indices (int64) for ``targets="classes"``, float64 values for ``targets="values"``, and for
    ``targets="texts"`` int64 numbers that are equal where the texts are; for ``targets="tags"`` the tags of all words as
    strings, sentence after sentence, with :data:`sherl.spans.BREAK` behind each sentence. For ``targets="tokens"`` they hold
    float64 sums over each row: how many tokens were to be predicted, and the nats of these together (or, where a metric
    counts hits, how many were right).
    """

    name: str
    targets: Targets
    compute: Callable[[Vector, Vector, int], float]

    def __call__(self, truth: Vector, predicted: Vector, num_outputs: int = 1) -> float:
        """The score as a float; NaN where a prediction is not finite.

        Raises:
            DataError: there is no row, or the vectors differ in length.
        """
        truth, predicted = np.asarray(truth).reshape(-1), np.asarray(predicted).reshape(-1)
        if truth.shape != predicted.shape:
            raise DataError(
                f"{self.name}: {len(truth)} labels but {len(predicted)} predictions; give one for each row."
            )
        if not len(truth):
            raise DataError(f"{self.name}: there is no row to score; at least 1 is needed.")
        if predicted.dtype.kind == "f" and not np.isfinite(predicted).all():
            return math.nan
        return float(self.compute(truth, predicted, num_outputs))


METRICS: Registry[Metric] = Registry("metric")
"""All metrics by name; a further one is a registered :class:`Metric`."""

DEFAULT_METRICS: dict[Targets, str] = {
    "classes": "accuracy",
    "values": "spearman",
    "texts": "exact_match",
    "tags": "token_accuracy",
    "tokens": "neg_perplexity",
}


def metric_names(targets: Targets) -> tuple[str, ...]:
    """Names of the metrics that fit these targets, the default one first."""
    fitting = [name for name in METRICS if METRICS.get(name).targets == targets]
    return tuple(sorted(fitting, key=lambda name: (name != DEFAULT_METRICS[targets], name)))


def metric_for(name: str, targets: Targets) -> Metric:
    """The metric of this name.

    Raises:
        UnknownNameError: no metric has this name.
        SpecError: it scores another sort of targets.
    """
    metric = METRICS.get(name)
    if metric.targets != targets:
        raise SpecError(
            f"The metric {name!r} scores {metric.targets}, but the labels are {targets}; "
            f"for these choose one of {', '.join(metric_names(targets))}."
        )
    return metric


def _register(name: str, targets: Targets) -> Callable[[Callable[[Vector, Vector, int], float]], Metric]:
    def add(compute: Callable[[Vector, Vector, int], float]) -> Metric:
        return METRICS.register(name)(Metric(name, targets, compute))

    return add


def _constant(vector: Vector) -> bool:
    return bool((vector == vector[0]).all())


@_register("accuracy", "classes")
def accuracy(truth: Vector, predicted: Vector, _num_outputs: int) -> float:
    """Share of rows whose class is right."""
    return float((truth == predicted).mean())


@_register("f1", "classes")
def f1(truth: Vector, predicted: Vector, num_outputs: int) -> float:
    """F1 of the second class where there are two (the positive one: "positive", "1", "true"), else the macro mean."""
    if num_outputs > 2:
        return _f1_macro(truth, predicted)
    from sklearn.metrics import f1_score

    return float(f1_score(truth, predicted, labels=[1], average="macro", zero_division=0.0))


@_register("f1_macro", "classes")
def f1_macro(truth: Vector, predicted: Vector, _num_outputs: int) -> float:
    """Unweighted mean of each class's F1, over the classes that stand in the truth or the predictions."""
    return _f1_macro(truth, predicted)


def _f1_macro(truth: Vector, predicted: Vector) -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(truth, predicted, average="macro", zero_division=0.0))


@_register("matthews", "classes")
def matthews(truth: Vector, predicted: Vector, _num_outputs: int) -> float:
    """Matthews' correlation coefficient, for any number of classes."""
    if _constant(truth) or _constant(predicted):
        return 0.0
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(truth, predicted))


@_register("accuracy_f1", "classes")
def accuracy_f1(truth: Vector, predicted: Vector, num_outputs: int) -> float:
    """Mean of accuracy and F1, as GLUE scores MRPC and QQP."""
    return (accuracy(truth, predicted, num_outputs) + f1(truth, predicted, num_outputs)) / 2


@_register("exact_match", "texts")
def exact_match(truth: Vector, predicted: Vector, _num_outputs: int) -> float:
    """Share of rows whose text is the target's, token by token."""
    return float((truth == predicted).mean())


@_register("neg_loss", "tokens")
def neg_loss(truth: Vector, predicted: Vector, _num_outputs: int) -> float:
    """Minus the mean nats a token, over the tokens of all rows together."""
    return -float(predicted.sum() / truth.sum())


@_register("neg_perplexity", "tokens")
def neg_perplexity(truth: Vector, predicted: Vector, num_outputs: int) -> float:
    """Minus the perplexity, e to the mean nats a token; minus infinity where that is over what a float holds."""
    try:
        return -math.exp(-neg_loss(truth, predicted, num_outputs))
    except OverflowError:
        return -math.inf


@_register("next_token_accuracy", "tokens")
def next_token_accuracy(truth: Vector, predicted: Vector, _num_outputs: int) -> float:
    """Share of tokens that were the likeliest of all words; ``predicted`` counts them, row by row."""
    return float(predicted.sum() / truth.sum())


@_register("token_accuracy", "tags")
def token_accuracy(truth: Vector, predicted: Vector, _num_outputs: int) -> float:
    """Share of words whose tag is right."""
    words = truth != BREAK
    return float((truth == predicted)[words].mean()) if words.any() else 0.0


@_register("token_f1", "tags")
def token_f1(truth: Vector, predicted: Vector, _num_outputs: int) -> float:
    """Unweighted mean of each tag's F1 over words, over the tags that stand in the truth or the predictions."""
    words = truth != BREAK
    return _f1_macro(truth[words], predicted[words]) if words.any() else 0.0


@_register("entity_f1", "tags")
def entity_f1(truth: Vector, predicted: Vector, _num_outputs: int) -> float:
    """F1 of whole entities (see :func:`sherl.spans.entities`): right are those with the same words and the same type.

    0.0 where neither side has an entity.
    """
    right, found = entities(truth.tolist()), entities(predicted.tolist())
    return 2 * len(right & found) / (len(right) + len(found)) if right or found else 0.0


@_register("pearson", "values")
def pearson(truth: Vector, predicted: Vector, _num_outputs: int) -> float:
    """Pearson's linear correlation; 0.0 where either side has no spread that float64 resolves."""
    left, right = _unit_scale(truth), _unit_scale(predicted)
    if left is None or right is None:
        return 0.0
    from scipy.stats import pearsonr

    return _finite_or_zero(float(pearsonr(left, right).statistic))


@_register("spearman", "values")
def spearman(truth: Vector, predicted: Vector, _num_outputs: int) -> float:
    """Spearman's rank correlation, ties at their mean rank."""
    if _constant(truth) or _constant(predicted):
        return 0.0
    from scipy.stats import spearmanr

    return _finite_or_zero(float(spearmanr(truth, predicted).statistic))


@_register("pearson_spearman", "values")
def pearson_spearman(truth: Vector, predicted: Vector, num_outputs: int) -> float:
    """Mean of Pearson's and Spearman's correlation, as GLUE scores STS-B."""
    return (pearson(truth, predicted, num_outputs) + spearman(truth, predicted, num_outputs)) / 2


@_register("neg_rmse", "values")
def neg_rmse(truth: Vector, predicted: Vector, _num_outputs: int) -> float:
    """Minus the root of the mean squared error, in the data's own units."""
    from sklearn.metrics import root_mean_squared_error

    return -float(root_mean_squared_error(truth, predicted))


@_register("neg_mae", "values")
def neg_mae(truth: Vector, predicted: Vector, _num_outputs: int) -> float:
    """Minus the mean absolute error, in the data's own units."""
    from sklearn.metrics import mean_absolute_error

    return -float(mean_absolute_error(truth, predicted))


@_register("r2", "values")
def r2(truth: Vector, predicted: Vector, _num_outputs: int) -> float:
    """Share of the truth's variance that is explained; below 0 where predicting the mean would do better."""
    if _constant(truth):
        return 0.0
    from sklearn.metrics import r2_score

    return float(r2_score(truth, predicted))


def _unit_scale(vector: Vector) -> Vector | None:
    """Zero mean and a largest deviation of 1, so that no square under- or overflows; None for a constant.

    A spread below a few units in the last place of the values is rounding, and counts as none (scipy would warn).
    """
    centred = vector.astype(np.float64) - float(np.mean(vector, dtype=np.float64))
    largest = float(np.abs(centred).max())
    if largest <= 1e-12 * float(np.abs(vector).max()):
        return None
    scaled: Vector = centred / largest
    return scaled


def _finite_or_zero(value: float) -> float:
    return value if math.isfinite(value) else 0.0
