"""Logits in row order, metrics, and a model left as it was."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sherl.errors import DataError
from sherl.evaluation import eval_step, evaluate, evaluating, predict_logits
from tests.sherl.toys import NUMBER, SHERL, TWO_CLASSES, Rows, toy_model, toy_rows


def row_by_row(model: Any, rows: Rows) -> Tensor:
    return torch.cat([eval_step(model, rows.batch([row])) for row in range(len(rows))])


@pytest.mark.parametrize("method", ["full", SHERL], ids=str)
@pytest.mark.parametrize("batch_size", [1, 4, 7, 100])
def test_logits_come_in_row_order(method: Any, batch_size: int) -> None:
    model, rows = toy_model(method), toy_rows(11)
    logits = predict_logits(model, rows, batch_size)
    assert logits.shape == (11, 2)
    assert logits.dtype == torch.float32
    assert torch.allclose(logits, row_by_row(model, rows), atol=1e-5)


def test_bf16_logits_are_float32() -> None:
    model = toy_model("full", dtype=torch.bfloat16)
    assert predict_logits(model, toy_rows(3), 2).dtype == torch.float32


def test_a_part_without_rows_has_no_logits() -> None:
    empty = Rows([], torch.zeros(0, dtype=torch.int64))
    assert predict_logits(toy_model(), empty, 4).shape == (0, 2)
    with pytest.raises(DataError, match="without rows"):
        evaluate(toy_model(), empty, 4)


def test_a_part_without_labels_can_be_predicted_but_not_scored() -> None:
    model, rows = toy_model(), Rows([[2, 5, 3], [2, 6, 7, 3]], None)
    assert predict_logits(model, rows, 4).shape == (2, 2)
    with pytest.raises(DataError, match="without labels"):
        evaluate(model, rows, 4)


def test_metrics_are_those_of_the_rows() -> None:
    model, rows = toy_model(), toy_rows(10)
    right = row_by_row(model, rows).argmax(1) == rows.labels
    metrics = evaluate(model, rows, 3)
    assert metrics["accuracy"] == pytest.approx(float(right.float().mean()))
    assert TWO_CLASSES.metric in metrics
    assert all(isinstance(value, float) for value in metrics.values())


def test_regression_metrics() -> None:
    metrics = evaluate(toy_model(task=NUMBER), toy_rows(10, task=NUMBER), 4)
    assert "pearson" in metrics
    assert all(math.isfinite(value) for value in metrics.values())


def test_one_row_gives_finite_metrics() -> None:
    for task in (TWO_CLASSES, NUMBER):
        assert all(math.isfinite(v) for v in evaluate(toy_model(task=task), toy_rows(1, task=task), 8).values())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_are_not_finite_give_no_score(value: float) -> None:
    model = toy_model("linear_probe")
    with torch.no_grad():
        for parameter in model.trainable_parameters():
            parameter.fill_(value)
    metrics = evaluate(model, toy_rows(4), 2)
    assert metrics
    assert all(math.isnan(score) for score in metrics.values())


def test_a_row_that_never_comes_is_noticed() -> None:
    class Short(Rows):
        def eval_batches(self, batch_size: int) -> Iterator[Any]:
            return iter(list(super().eval_batches(batch_size))[:-1])

    rows = toy_rows(10)
    with pytest.raises(DataError, match="Only 8 of 10 rows"):
        predict_logits(toy_model(), Short(rows.ids, rows.labels), 4)


def test_flags_are_put_back_exactly() -> None:
    model = toy_model("full")
    model.train()
    odd = next(part for part in model.modules() if isinstance(part, nn.Dropout))
    odd.training = False
    flags = [part.training for part in model.modules()]
    random = torch.get_rng_state()
    logits = eval_step(model, toy_rows(4).batch([0, 1]))
    assert not logits.requires_grad
    assert not logits.is_inference()
    evaluate(model, toy_rows(4), 2)
    with pytest.raises(ZeroDivisionError), evaluating(model):
        _ = 1 / sum(part.training for part in model.modules())  # none is training inside
    assert [part.training for part in model.modules()] == flags
    assert torch.equal(torch.get_rng_state(), random)
