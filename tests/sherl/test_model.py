"""A tuned backbone with a head: initial weights, logits, state; on tiny models and on the packaged one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from sherl.backbones import DEFAULT_BACKBONE, Backbone, load_backbone, load_tokenizer
from sherl.errors import CheckpointError, SpecError, UnknownNameError
from sherl.methods import METHODS, SherlConfig, method_from_dict
from sherl.model import TaskModel, build_model
from sherl.spec import TaskSpec
from sherl.summary import summarize
from tests.sherl.tiny import CLASSIFICATION, tiny_backbone, tiny_batch

REGRESSION = TaskSpec(kind="regression", metric="pearson")
every_method = pytest.mark.parametrize("method", METHODS.names())


def make_model(method: Any = "sherl", *, task: TaskSpec = CLASSIFICATION, seed: int = 0, **backbone: Any) -> TaskModel:
    return build_model(tiny_backbone(**backbone), method_from_dict(method), task, seed=seed)


@every_method
def test_a_seed_fixes_the_initial_weights(method: str) -> None:
    torch.manual_seed(1)
    first = make_model(method, seed=7).trainable_state()
    torch.manual_seed(2)
    backbone = tiny_backbone()
    state = torch.random.get_rng_state()
    second = build_model(backbone, method_from_dict(method), CLASSIFICATION, seed=7).trainable_state()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert list(first) == list(second)
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = make_model(method, seed=8).trainable_state()
    assert not torch.equal(first["head.linear.weight"], other["head.linear.weight"])


def test_every_method_starts_with_the_same_small_head() -> None:
    heads = [make_model(method).trainable_state()["head.linear.weight"] for method in METHODS]
    assert all(torch.equal(head, heads[0]) for head in heads)
    assert 0 < heads[0].abs().max() < 0.1


@every_method
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("task", [CLASSIFICATION, REGRESSION], ids=lambda task: task.kind)
def test_logits_and_loss(method: str, dtype: torch.dtype, task: TaskSpec) -> None:
    model = make_model(method, task=task, dtype=dtype).train()
    batch = tiny_batch()
    logits = model(batch)
    assert logits.shape == (3, task.num_outputs)
    assert logits.dtype == torch.float32
    labels = batch["labels"] if task is CLASSIFICATION else batch["labels"].float()
    loss = model.loss(logits, labels)
    assert loss.dtype == torch.float32
    loss.backward()
    for parameter in model.trainable_parameters():
        assert parameter.grad is not None
        assert torch.isfinite(parameter.grad).all()


@every_method
def test_what_an_optimizer_gets_is_what_requires_grad(method: str) -> None:
    model = make_model(method)
    mine = model.trainable_parameters()
    assert len({id(parameter) for parameter in mine}) == len(mine)
    assert {id(p) for p in model.parameters() if p.requires_grad} == {id(p) for p in mine}


def test_the_head_has_dropout_and_evaluation_has_none() -> None:
    model = make_model("linear_probe")
    batch = tiny_batch()
    assert torch.equal(model(batch), model(batch))
    model.train()
    torch.manual_seed(0)
    assert not torch.equal(model(batch), model(batch))
    assert not model.tuned.model.training
    assert not model(batch).isnan().any()


def test_a_missing_mask_means_no_padding() -> None:
    model = make_model()
    batch = tiny_batch(padded=False)
    assert torch.equal(model({"input_ids": batch["input_ids"]}), model(batch))


@every_method
def test_state_goes_to_another_model(method: str) -> None:
    source, target = make_model(method, seed=1), make_model(method, seed=2)
    with torch.no_grad():
        for parameter in source.trainable_parameters():
            parameter.add_(0.01)
    batch = tiny_batch()
    assert not torch.equal(source(batch), target(batch))
    state = source.trainable_state()
    assert {name.split(".")[0] for name in state} >= {"head"}
    target.load_trainable_state(state)
    assert torch.equal(source(batch), target(batch))
    with pytest.raises(CheckpointError, match=r"head\.linear\.bias is missing"):
        target.load_trainable_state({name: tensor for name, tensor in state.items() if name != "head.linear.bias"})


def test_a_task_that_is_not_known_leaves_the_backbone_alone() -> None:
    backbone = tiny_backbone()
    with pytest.raises(UnknownNameError, match="classification"):
        build_model(backbone, SherlConfig(), TaskSpec(kind="clasification", metric="accuracy"), seed=0)
    assert backbone.method_name is None
    build_model(backbone, SherlConfig(), CLASSIFICATION, seed=0)
    with pytest.raises(SpecError, match="already"):
        build_model(backbone, SherlConfig(), CLASSIFICATION, seed=0)


def test_the_summary_counts() -> None:
    model = make_model({"name": "sherl", "reduction_factor": 4, "late_route": {"name": "lora", "rank": 2}}, depth=4)
    summary = summarize(model)
    pretrained = sum(parameter.numel() for parameter in tiny_backbone(depth=4).model.parameters())
    inner, features = 4, 4
    assert summary.backbone == pretrained
    assert summary.trainable["late"] == 2 * (2 * 16 + 16 * 2)
    assert summary.trainable["head"] == 16 * 2 + 2
    assert summary.trainable["fusion"] > features * 16 * inner
    assert summary.trainable_count == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert summary.frozen_count == pretrained
    table = str(summary)
    assert "gradients in 1 of 4 blocks" in table
    assert f"{pretrained:,}" in table
    assert "head" not in summarize(model.tuned).trainable
    assert summarize(make_model("full")).frozen_count == 0
    assert "gradients in 0 of 3 blocks" in str(summarize(make_model("linear_probe")))


# ---------------------------------------------------------------------------- the packaged model


@pytest.fixture(scope="module")
def minilm() -> Backbone:
    return load_backbone(DEFAULT_BACKBONE)


TEXTS = [
    ("a wonderful, moving film", 1),
    ("dull, lifeless and far too long", 0),
    ("I loved every minute of it", 1),
    ("a complete waste of time", 0),
    ("funny, clever and beautifully acted", 1),
    ("the plot makes no sense at all", 0),
]


@pytest.fixture
def reviews() -> dict[str, Tensor]:
    batch = load_tokenizer(DEFAULT_BACKBONE)([text for text, _ in TEXTS], padding=True, return_tensors="pt")
    return {**batch, "labels": torch.tensor([label for _, label in TEXTS])}


@pytest.fixture
def untouched(minilm: Backbone) -> Iterator[Backbone]:
    before = {name: parameter.detach().clone() for name, parameter in minilm.model.named_parameters()}
    yield minilm
    assert all(torch.equal(parameter, before[name]) for name, parameter in minilm.model.named_parameters())


@pytest.mark.slow
def test_minilm_embeds_sensibly(minilm: Backbone) -> None:
    texts = ["a cat sat on the mat", "a feline was sitting on a rug", "stock markets fell sharply today"]
    batch = load_tokenizer(DEFAULT_BACKBONE)(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        vectors = minilm.pool(minilm.encode(batch), batch["attention_mask"])
    vectors = torch.nn.functional.normalize(vectors)
    similar, other = (vectors[0] @ vectors[1]).item(), (vectors[0] @ vectors[2]).item()
    assert similar > 0.5 > 0.2 > other


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"start_layer": -1, "late_route": "none"},
        {"start_layer": 3, "insertion": "multi", "late_route": "lora"},
        {"start_layer": -2, "late_route": "prompt"},
    ],
    ids=["standard", "multi-lora", "prompt"],
)
def test_minilm_learns_with_sherl(untouched: Backbone, reviews: dict[str, Tensor], settings: dict[str, Any]) -> None:
    model = build_model(untouched, SherlConfig(**settings), CLASSIFICATION, seed=0)
    with torch.no_grad():
        assert torch.equal(model.tuned(reviews), untouched.encode(reviews)) or settings["late_route"] == "prompt"
    model.train()
    optimizer = torch.optim.AdamW(model.trainable_parameters(), lr=5e-3)
    losses = []
    torch.manual_seed(0)
    for _ in range(20):
        loss = model.loss(model(reviews), reviews["labels"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    model.tuned.remove()
