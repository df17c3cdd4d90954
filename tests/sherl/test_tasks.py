"""Loss, scores and answers of tasks, on ordinary and on degenerate logits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sherl.errors import DataError, SpecError, UnknownNameError
from sherl.spec import TaskSpec
from sherl.tasks import TASKS, task_for

CLASSES = TaskSpec(kind="classification", metric="accuracy", class_names=("negative", "positive"))
VALUES = TaskSpec(kind="regression", metric="spearman", target_mean=250_000.0, target_std=50_000.0)
SPECS = {"classification": CLASSES, "regression": VALUES}


def _labels(spec: TaskSpec, rows: int) -> torch.Tensor:
    return torch.arange(rows) % 2 if spec.class_names else torch.linspace(1e5, 4e5, rows)


# other shapes: tests/sherl/test_text_to_text.py, test_token_classification.py and test_language_modelling.py
POOLED = [kind for kind in TASKS if TASKS.get(kind).predicts == "label"]


@pytest.mark.parametrize("kind", POOLED)
class TestEveryTask:
    def test_the_spec_survives_its_dictionary(self, kind: str) -> None:
        assert TaskSpec.from_dict(SPECS[kind].to_dict()) == SPECS[kind]

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_the_loss_is_a_float32_scalar_with_a_gradient(self, kind: str, dtype: torch.dtype) -> None:
        task = task_for(SPECS[kind])
        logits = torch.randn(4, SPECS[kind].num_outputs).to(dtype).requires_grad_()
        loss = task.loss(logits, _labels(SPECS[kind], 4))
        loss.backward()
        assert loss.dtype == torch.float32
        assert loss.shape == ()
        assert logits.grad is not None
        assert logits.grad.abs().sum() > 0

    @pytest.mark.parametrize("rows", [1, 2, 5])
    def test_all_metrics_are_finite_for_constant_logits_and_few_rows(self, kind: str, rows: int) -> None:
        task = task_for(SPECS[kind])
        scores = task.metrics(torch.zeros(rows, SPECS[kind].num_outputs), _labels(SPECS[kind], rows))
        assert tuple(scores) == task.metric_names
        assert task.default_metric == task.metric_names[0]
        assert all(math.isfinite(score) for score in scores.values())

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_all_metrics_are_nan_once_a_logit_is_not_finite(self, kind: str, bad: float) -> None:
        logits = torch.zeros(3, SPECS[kind].num_outputs)
        logits[1, 0] = bad
        assert all(
            math.isnan(score) for score in task_for(SPECS[kind]).metrics(logits, _labels(SPECS[kind], 3)).values()
        )

    def test_no_rows_and_unequal_rows_are_refused(self, kind: str) -> None:
        task, width = task_for(SPECS[kind]), SPECS[kind].num_outputs
        with pytest.raises(DataError, match="no row"):
            task.metrics(torch.zeros(0, width), _labels(SPECS[kind], 0))
        with pytest.raises(DataError, match="3 rows of logits but 2 labels"):
            task.metrics(torch.zeros(3, width), _labels(SPECS[kind], 2))

    def test_one_row_is_decoded_and_none_gives_none(self, kind: str) -> None:
        task, width = task_for(SPECS[kind]), SPECS[kind].num_outputs
        assert len(task.decode(torch.zeros(1, width))) == 1
        assert task.decode(torch.zeros(0, width)) == []


def test_classification_loss_is_the_mean_cross_entropy() -> None:
    logits = torch.tensor([[0.0, 0.0], [0.0, math.log(3)]])
    loss = task_for(CLASSES).loss(logits, torch.tensor([0, 1]))
    assert loss.item() == pytest.approx((math.log(2) - math.log(3 / 4)) / 2)


def test_classification_answers_with_the_persons_labels() -> None:
    (answer,) = task_for(CLASSES).decode(torch.tensor([[0.0, math.log(3)]]))
    assert answer["label"] == "positive"
    assert answer["scores"] == pytest.approx({"negative": 0.25, "positive": 0.75})


def test_regression_learns_standardised_targets() -> None:
    loss = task_for(VALUES).loss(torch.tensor([[0.0], [1.0]]), torch.tensor([250_000.0, 250_000.0]))
    assert loss.item() == pytest.approx(0.5)


def test_regression_answers_and_scores_in_the_datas_units() -> None:
    task = task_for(VALUES)
    logits = torch.tensor([[0.0], [2.0]])
    assert [answer["value"] for answer in task.decode(logits)] == [250_000.0, 350_000.0]
    scores = task.metrics(logits, torch.tensor([250_000.0, 340_000.0]))
    assert scores["neg_mae"] == pytest.approx(-5_000)
    assert scores["pearson"] == pytest.approx(1.0)


@pytest.mark.parametrize(("low", "high"), [(-4.0, 4.0), (0.0, 1e6)])
def test_regression_starts_at_the_same_loss_whatever_the_units(low: float, high: float) -> None:
    targets = torch.linspace(low, high, 101)
    spec = TaskSpec(
        kind="regression",
        metric="pearson",
        target_mean=targets.double().mean().item(),
        target_std=targets.double().std(correction=0).item(),
    )
    assert task_for(spec).loss(torch.zeros(101, 1), targets).item() == pytest.approx(1.0, rel=1e-4)


def test_specifications_that_do_not_hold_together_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'regression'"):
        task_for(TaskSpec(kind="regresion", metric="pearson"))
    with pytest.raises(SpecError, match="scores values"):
        task_for(TaskSpec(kind="classification", metric="pearson", class_names=("a", "b")))
    with pytest.raises(SpecError, match="at least two different class names"):
        task_for(TaskSpec(kind="classification", metric="f1", class_names=("a", "a")))
    with pytest.raises(SpecError, match="target_std above 0"):
        task_for(TaskSpec(kind="regression", metric="pearson", target_std=0.0))


def test_the_loss_runs_on_fake_tensors() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        for spec in SPECS.values():
            assert task_for(spec).loss(torch.zeros(4, spec.num_outputs), _labels(spec, 4)).shape == ()


def test_predictions_are_plain_numpy() -> None:
    assert task_for(CLASSES).predictions(torch.eye(2)).dtype == np.int64
    assert task_for(VALUES).predictions(torch.zeros(2, 1)).dtype == np.float64
