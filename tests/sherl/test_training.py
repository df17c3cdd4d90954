"""One step, one run, the rehearsal: what they compute and what they leave behind."""

from __future__ import annotations

import gc
import math
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from sherl import training as module
from sherl.errors import DataError, SpecError
from sherl.model import TaskModel
from sherl.optimizer import AdamW, learning_rate_factor, make_optimizer
from sherl.training import Diverged, _LossWatch, compute_gradients, fit, micro_batch_rows, train_step
from tests.sherl.toys import NUMBER, SHERL, Rows, settings, toy_model, toy_rows

METHODS: list[Any] = ["full", SHERL, "linear_probe"]


def weights_of(model: TaskModel) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert not different


# ---- the schedule


@pytest.mark.parametrize(
    ("total", "warmup", "expected"),
    [
        (10, 2, [0.5, 1.0, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]),
        (4, 0, [1.0, 0.75, 0.5, 0.25]),
        (2, 8, [0.125, 0.25]),
        (3, 3, [1 / 3, 2 / 3, 1.0]),
        (1, 0, [1.0]),
    ],
)
def test_learning_rate_by_hand(total: int, warmup: int, expected: list[float]) -> None:
    assert [learning_rate_factor(step, total, warmup) for step in range(total)] == pytest.approx(expected)
    assert learning_rate_factor(total + 5, total, 0) == 0.0


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"warmup_fraction": 0.5}, [0.5e-3, 1e-3, 1e-3, 0.5e-3]),
        ({"warmup_steps": 4, "warmup_fraction": 0.0}, [0.25e-3, 0.5e-3, 0.75e-3, 1e-3]),
        ({"warmup_steps": 0, "warmup_fraction": 1.0}, [1e-3, 0.75e-3, 0.5e-3, 0.25e-3]),
    ],
)
def test_steps_use_the_schedule(changes: dict[str, Any], expected: list[float]) -> None:
    model, rows = toy_model("linear_probe"), toy_rows(8)
    training = settings(learning_rate=1e-3, **changes)
    optimizer, scheduler = make_optimizer(model, training, total_steps=4)
    used = []
    for batch in list(rows.batches(2, seed=0)):
        used.append(optimizer.param_groups[0]["lr"])
        train_step(model, batch, optimizer, scheduler, training)
    assert used == pytest.approx(expected)


# ---- the optimizer


def test_decay_acts_on_matrices_only() -> None:
    model = toy_model("full")
    optimizer, _ = make_optimizer(model, settings(weight_decay=0.3), total_steps=4)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert set(decay) == {id(p) for p in trainable.values()}
    for name, parameter in trainable.items():
        vector = parameter.ndim < 2 or name.endswith("bias")
        assert decay[id(parameter)] == (0.0 if vector else 0.3), name
    assert {0.0, 0.3} == set(decay.values())


def test_stacked_biases_are_not_decayed() -> None:
    model = toy_model(SHERL)
    stacked = [name for name, p in model.named_parameters() if p.ndim > 1 and name.endswith("bias") and p.requires_grad]
    optimizer, _ = make_optimizer(model, settings(weight_decay=0.3), total_steps=4)
    undecayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] == 0 for p in group["params"]}
    assert all(id(model.get_parameter(name)) in undecayed for name in stacked)


def test_nothing_trainable_is_refused() -> None:
    model = toy_model("linear_probe")
    model.trainable_parameters = list  # type: ignore[method-assign]  # none
    with pytest.raises(SpecError, match="no trainable parameter"):
        make_optimizer(model, settings(), total_steps=1)


def test_small_updates_of_bf16_weights_are_not_lost() -> None:
    weight = nn.Parameter(torch.ones(4, 4, dtype=torch.bfloat16))
    optimizer = AdamW([weight], [], learning_rate=1e-4, decay=0.0)
    for _ in range(100):  # Adam moves a weight by the learning rate when its gradient is steady
        weight.grad = torch.ones_like(weight)
        optimizer.gather_gradients()
        optimizer.apply_update()
        optimizer.zero_grad()
    assert torch.allclose(weight.float(), torch.tensor(1 - 100e-4), atol=4e-3)
    assert weight.grad is None


def test_fp32_weights_are_stepped_as_torch_does() -> None:
    ours, theirs = nn.Parameter(torch.linspace(-1, 1, 6).view(2, 3)), nn.Parameter(torch.linspace(-1, 1, 6).view(2, 3))
    optimizer = AdamW([ours], [], learning_rate=0.01, decay=0.1)
    reference = torch.optim.AdamW([theirs], lr=0.01, weight_decay=0.1)
    for step in range(5):
        gradient = torch.sin(torch.arange(6.0).view(2, 3) + step)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        optimizer.gather_gradients()
        optimizer.apply_update()
        reference.step()
    assert torch.allclose(ours, theirs, atol=1e-7)


# ---- one step


@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("accumulation", [2, 3, 8, 50])
def test_accumulation_gives_the_gradients_of_the_whole_batch(method: Any, accumulation: int) -> None:
    model = toy_model(method, dropout=0.0)
    model.eval()  # whatever dropout there is would draw differently
    batch = next(toy_rows(7).batches(7, seed=0))
    optimizer, _ = make_optimizer(model, settings(), total_steps=1)

    def gradients(pieces: int) -> tuple[float, list[Tensor | None]]:
        optimizer.zero_grad()
        loss = compute_gradients(model, batch, optimizer, pieces)
        return float(loss), [None if p.grad is None else p.grad.clone() for p in model.trainable_parameters()]

    whole_loss, whole = gradients(1)
    loss, cut = gradients(accumulation)
    assert loss == pytest.approx(whole_loss, abs=1e-6)
    for one, other in zip(whole, cut, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert torch.allclose(one, other, atol=1e-6)
    assert any(one is not None and bool(one.abs().max() > 0) for one in whole)


def test_gradients_are_clipped() -> None:
    model, batch = toy_model("linear_probe"), next(toy_rows(8).batches(8, seed=0))
    seen = []

    class Spy(AdamW):
        def apply_update(self) -> None:
            seen.append(math.sqrt(sum(float(p.grad.square().sum()) for g in self.param_groups for p in g["params"])))
            super().apply_update()

    for limit in (None, 1e-3):
        training = settings(max_grad_norm=limit)
        optimizer, scheduler = make_optimizer(model, training, total_steps=1)
        optimizer.__class__ = Spy
        train_step(model, batch, optimizer, scheduler, training)
    assert seen[0] > 1e-2
    assert seen[1] == pytest.approx(1e-3, rel=1e-2)


def test_a_step_leaves_no_gradient_and_no_graph() -> None:
    model, batch = toy_model("full"), next(toy_rows(4).batches(4, seed=0))
    model.eval()
    training = settings()
    optimizer, scheduler = make_optimizer(model, training, total_steps=1)
    loss = train_step(model, batch, optimizer, scheduler, training)
    assert loss.shape == ()
    assert not loss.requires_grad
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_step_on_the_cpu_asks_no_gpu_for_its_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine with a GPU that makes a CUDA context, in the driver of a study too, which only predicts."""

    def no_stream(*_: Any) -> None:
        raise AssertionError("a stream was asked for, which makes a context")

    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "current_stream", no_stream)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_stream", no_stream)
    parameter = nn.Parameter(torch.ones(2, 2))
    optimizer = AdamW([parameter], [], learning_rate=0.1, decay=0.0)
    parameter.grad = torch.ones(2, 2)
    optimizer.apply_update()
    assert parameter.max() < 1.0, "it has stepped"


def test_a_step_runs_on_fake_tensors() -> None:
    with FakeTensorMode():
        model = toy_model(SHERL)
        ids = torch.ones(4, 3, dtype=torch.int64)
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.zeros_like(ids[:, 0])}
        training = settings(accumulation=2)
        optimizer, scheduler = make_optimizer(model, training, total_steps=2)
        for _ in range(2):
            loss = train_step(model, batch, optimizer, scheduler, training)
        assert loss.shape == ()


# ---- a run


@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_learns_a_learnable_set(method: Any, precision: str) -> None:
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    model = toy_model(method, dtype=dtype)
    training = settings(epochs=4, precision=precision, learning_rate=3e-3 if method == "full" else 3e-2)
    seen = list(fit(model, toy_rows(64), toy_rows(20, seed=1), training))
    assert [progress.epoch for progress in seen] == [1, 2, 3, 4]
    assert seen[-1].train_loss < 0.8 * seen[0].train_loss
    assert seen[-1].metrics["accuracy"] >= 0.8
    assert 0 < seen[0].step_seconds < seen[0].seconds < seen[-1].seconds


def test_regression_learns() -> None:
    model = toy_model(SHERL, task=NUMBER)
    training = settings(epochs=6, learning_rate=0.1)
    seen = list(fit(model, toy_rows(64, task=NUMBER), toy_rows(20, seed=1, task=NUMBER), training))
    assert seen[-1].train_loss < seen[0].train_loss
    assert seen[-1].metrics["pearson"] > 0.8


def test_how_far_an_epoch_is_is_told() -> None:
    told: list[tuple[int, ...]] = []
    training = settings(epochs=2, batch_size=8)
    for _ in fit(toy_model("full"), toy_rows(20), toy_rows(4), training, on_steps=lambda *counts: told.append(counts)):
        pass
    assert told == [(1, 1, 3), (1, 2, 3), (1, 3, 3), (2, 1, 3), (2, 2, 3), (2, 3, 3)]


def test_a_gpu_is_asked_for_its_losses_seldom_and_at_an_epochs_end() -> None:
    told: list[tuple[int, ...]] = []
    watch = _LossWatch(torch.device("cuda"), epoch=2, steps=70, on_steps=lambda *counts: told.append(counts))
    for _ in range(70):
        watch.add(torch.tensor(1.0), rows=2)
    watch.check()
    watch.check()
    assert told == [(2, 32, 70), (2, 64, 70), (2, 70, 70)]
    watch.add(torch.tensor(torch.nan), rows=2)
    with pytest.raises(Diverged, match="in epoch 2, at step 141"):
        watch.check()


def test_train_loss_is_the_mean_over_rows() -> None:
    model, rows = toy_model("linear_probe"), toy_rows(9)
    training = settings(learning_rate=1e-12, epochs=1, batch_size=4)  # batches of 4, 4 and 1
    (progress,) = fit(model, rows, toy_rows(4), training)
    model.eval()
    batch = rows.batch(list(range(9)))
    with torch.no_grad():
        expected = model.loss(model(batch), batch["labels"])
    assert progress.train_loss == pytest.approx(float(expected), abs=0.05)


@pytest.mark.parametrize("method", ["full", SHERL], ids=str)
def test_two_runs_agree_bit_for_bit(method: Any) -> None:
    results = []
    for noise in (1, 2):
        torch.manual_seed(noise)  # what the caller has drawn does not matter
        model = toy_model(method)
        seen = []
        for progress in fit(model, toy_rows(24), toy_rows(8, seed=1), settings(seed=7)):
            torch.rand(noise)  # nor what it draws between epochs
            seen.append((progress.train_loss, progress.metrics))
        results.append((seen, weights_of(model)))
    assert results[0][0] == results[1][0]
    assert_same(results[0][1], results[1][1])


def test_another_seed_gives_another_run() -> None:
    losses = [
        next(iter(fit(toy_model("full"), toy_rows(24), toy_rows(8), settings(seed=s)))).train_loss for s in (0, 1)
    ]
    assert losses[0] != losses[1]


@pytest.mark.parametrize("seed", [-3, 2**63, 10**30])
def test_any_whole_number_is_a_seed(seed: int) -> None:
    class AnySeed(Rows):
        def batches(self, batch_size: int, *, seed: int | None, epoch: int = 0) -> Any:
            return super().batches(batch_size, seed=None if seed else 0, epoch=epoch)

    rows = toy_rows(4)
    list(fit(toy_model("linear_probe"), AnySeed(rows.ids, rows.labels), rows, settings(seed=seed, epochs=1)))


@pytest.mark.parametrize("stop_after", [1, 5])
def test_global_random_state_is_the_callers(stop_after: int) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    run = fit(toy_model("full"), toy_rows(8), toy_rows(4), settings())
    for count, _ in enumerate(run, start=1):
        assert torch.equal(torch.get_rng_state(), before)
        if count == stop_after:
            break
    run.close()
    assert torch.equal(torch.get_rng_state(), before)


def test_a_finished_run_keeps_nothing() -> None:
    model = toy_model("linear_probe")
    run = fit(model, toy_rows(8), toy_rows(4), settings())
    list(run)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("sick", ["loss", "metric"])
def test_divergence_is_raised_at_once(sick: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = toy_model("linear_probe")
    if sick == "loss":
        with torch.no_grad():
            model.trainable_parameters()[0].fill_(math.nan)
    else:
        monkeypatch.setattr(module, "evaluate", lambda *_: {"accuracy": 0.5, "f1": math.inf})
    with pytest.raises(Diverged, match="loss is nan" if sick == "loss" else "f1 is inf") as caught:
        list(fit(model, toy_rows(16), toy_rows(4), settings()))
    assert (caught.value.epoch, caught.value.step) == (1, 1 if sick == "loss" else 2)
    assert "learning rate" in str(caught.value)


def test_a_huge_learning_rate_diverges() -> None:
    training = settings(learning_rate=1e30, epochs=6, max_grad_norm=None, warmup_steps=0)
    with pytest.raises(Diverged):
        list(fit(toy_model("full"), toy_rows(32), toy_rows(8), training))


@pytest.mark.parametrize("empty", ["training", "validation"])
def test_empty_parts_are_refused(empty: str) -> None:
    none = Rows([], torch.zeros(0, dtype=torch.int64))
    parts = (none, toy_rows(4)) if empty == "training" else (toy_rows(4), none)
    with pytest.raises(DataError, match=f"{empty} part has no rows"):
        list(fit(toy_model("linear_probe"), *parts, settings()))


def test_a_backbone_in_another_precision_is_refused() -> None:
    with pytest.raises(SpecError, match=r"bf16.*loaded in fp32"):
        list(fit(toy_model("full"), toy_rows(4), toy_rows(4), settings(precision="bf16")))


def test_validation_takes_micro_batches() -> None:
    sizes = []

    class Watched(Rows):
        def eval_batches(self, batch_size: int) -> Any:
            sizes.append(batch_size)
            return super().eval_batches(batch_size)

    rows = toy_rows(8)
    training = settings(batch_size=7, accumulation=2, epochs=1)
    list(fit(toy_model("linear_probe"), rows, Watched(rows.ids, rows.labels), training))
    assert sizes == [4] == [micro_batch_rows(training)]
