"""The rehearsal: what it runs, and that it leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from sherl import training as module
from sherl.model import TaskModel
from sherl.training import fit, rehearse
from tests.sherl.test_training import METHODS, assert_same, weights_of
from tests.sherl.toys import SHERL, settings, toy_model, toy_rows


def state_of(model: TaskModel) -> tuple[Any, ...]:
    flags = [part.training for part in model.modules()]
    grads = [parameter.requires_grad for parameter in model.parameters()]
    return flags, grads, torch.get_rng_state().tolist()


@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_rehearsal_leaves_no_trace(method: Any, dtype: torch.dtype) -> None:
    rows, training = toy_rows(16), settings()
    plain, rehearsed = toy_model(method, dtype=dtype), toy_model(method, dtype=dtype)
    weights, state = weights_of(rehearsed), state_of(rehearsed)
    rehearse(rehearsed, rows.batch([0, 1, 2, 3]), rows.batch([4, 5]), training)
    assert_same(weights_of(rehearsed), weights)
    assert state_of(rehearsed) == state
    assert all(parameter.grad is None for parameter in rehearsed.parameters())
    training = settings(precision="bf16" if dtype is torch.bfloat16 else "fp32")
    losses = [[p.train_loss for p in fit(m, rows, rows, training)] for m in (plain, rehearsed)]
    assert losses[0] == losses[1]
    assert_same(weights_of(plain), weights_of(rehearsed))


@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_rehearsal_that_fails_leaves_no_trace(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = toy_model("full"), toy_rows(8)
    model.train()
    weights, state = weights_of(model), state_of(model)
    calls = 0

    def failing(work: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            result = work(*args, **kwargs)
            if calls == step:
                raise MemoryError("no more")
            return result

        return counted

    monkeypatch.setattr(module, "compute_gradients", failing(module.compute_gradients))
    monkeypatch.setattr(module, "eval_step", failing(module.eval_step))
    with pytest.raises(MemoryError):
        rehearse(model, rows.batch([0, 1]), rows.batch([2, 3]), settings())
    assert_same(weights_of(model), weights)
    assert state_of(model) == state
    assert all(parameter.grad is None for parameter in model.parameters())


def test_rehearsal_does_two_steps_and_one_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows, did = toy_model(SHERL), toy_rows(8), []
    real_step, real_eval = module.train_step, module.eval_step
    monkeypatch.setattr(module, "train_step", lambda *a: (did.append(("train", a[1])), real_step(*a))[1])
    monkeypatch.setattr(module, "eval_step", lambda *a, **k: (did.append(("eval", a[1])), real_eval(*a, **k))[1])
    train_batch, eval_batch = rows.batch([0, 1]), rows.batch([2])
    rehearse(model, train_batch, eval_batch, settings())
    assert [(name, batch is (train_batch if name == "train" else eval_batch)) for name, batch in did] == [
        ("train", True),
        ("train", True),
        ("eval", True),
    ]


def test_rehearsal_without_snapshot_changes_weights_only() -> None:
    model, rows = toy_model("full"), toy_rows(8)
    weights, state = weights_of(model), state_of(model)
    rehearse(model, rows.batch([0, 1]), rows.batch([2]), settings(), restore="none")
    assert any(not torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())
    assert state_of(model) == state
    assert all(parameter.grad is None for parameter in model.parameters())
