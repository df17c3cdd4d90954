"""Training, evaluation, rehearsal and writing on stored hidden states, under every plan; and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from sherl.errors import SpecError
from sherl.evaluation import eval_step, evaluate
from sherl.features import Place, feature_name
from sherl.spec import TaskSpec, TrainingConfig
from sherl.training import make_optimizer, rehearse, train_step
from tests.sherl.feature_samples import READERS, STORED, learnt, model_of, recorded, same, with_features
from tests.sherl.test_token_classification import SPEC as TAGGING
from tests.sherl.texts import WRITTEN, text_backbone, text_batch
from tests.sherl.tiny import DECODERS, batch_for, tiny_backbone

CONTINUED = TaskSpec(kind="language-modelling", metric="neg_perplexity")
PLANS: dict[str, dict[str, Any]] = {
    "plain": {},
    "bf16": {"precision": "bf16"},
    "clipped": {"max_grad_norm": 0.1},
    "accumulated": {"accumulation": 3},
}


def losses(family: str, method: dict[str, Any], plan: dict[str, Any], *, stored: bool) -> list[float]:
    """Of four steps on two batches in turn, and of an evaluation behind them. Micro-batches have hidden states of their own
    to compare with, as theirs are cut out of the whole batch's."""
    training = TrainingConfig(learning_rate=1e-2, batch_size=8, **plan)
    dtype = torch.bfloat16 if training.precision == "bf16" else torch.float32
    model = model_of(family, method, dtype=dtype)
    optimizer, scheduler = make_optimizer(model, training, total_steps=4)
    first = batch_for(family, rows=6, tokens=8)
    batches = [first, {name: tensor.flip(0) for name, tensor in first.items()}]
    if stored:
        batches = [with_features(model, batch, recorded(model.tuned.backbone, batch)) for batch in batches]
    found = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for step in range(4):
            found.append(float(train_step(model, batches[step % 2], optimizer, scheduler, training)))
        found.append(float(model.loss(eval_step(model, batches[0]), batches[0]["labels"])))
    return found


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("family", ["bert", "mpnet", "t5", "llama", "vit", "resnet"])
def test_a_run_has_equal_losses(family: str, plan: str) -> None:
    method = {**READERS["multi"], "late_route": {"name": "lora", "rank": 2}}
    if family == "resnet":
        method = READERS["multi"]
    stored, live = (losses(family, method, PLANS[plan], stored=stored) for stored in (True, False))
    if plan == "accumulated":  # kernels round rows of smaller batches otherwise
        assert stored == pytest.approx(live, rel=1e-5)
    else:
        assert stored == live
    assert live[0] != live[2]


@pytest.mark.parametrize("family", STORED)
def test_states_have_the_precision_that_the_backbone_was_loaded_in(family: str) -> None:
    model, batch = model_of(family, READERS["linear_probe"], dtype=torch.bfloat16), batch_for(family, rows=3)
    full = with_features(model, batch, recorded(model.tuned.backbone, batch))
    assert same(learnt(model, full), learnt(model, batch))


def test_late_blocks_that_run_again_in_backward() -> None:
    for family in ("bert", "t5"):
        model = model_of(family, {**READERS["multi"], "activation_checkpointing": True})
        batch = batch_for(family, rows=4)
        full = with_features(model, batch, recorded(model.tuned.backbone, batch))
        assert same(learnt(model, full), learnt(model, batch))


def test_prompts_in_late_blocks() -> None:
    for family in ("bert", "mpnet", "deberta-v2", "modernbert", "vit"):
        model = model_of(family, {**READERS["sherl"], "late_route": {"name": "prompt", "num_prompts": 2}})
        batch = batch_for(family, rows=4)
        full = with_features(model, batch, recorded(model.tuned.backbone, batch))
        assert same(learnt(model, full), learnt(model, batch))


def test_a_rehearsal_leaves_everything_as_it_was() -> None:
    model, batch = model_of("t5", READERS["sherl"]), batch_for("t5", rows=4)
    full = with_features(model, batch, recorded(model.tuned.backbone, batch))
    before = {name: tensor.clone() for name, tensor in model.trainable_state().items()}
    rehearse(model, full, full, TrainingConfig(learning_rate=1e-2, batch_size=4, accumulation=2))
    assert same(before, model.trainable_state())
    assert not any("forward" in vars(module) for module in model.tuned.model.modules())
    assert same(learnt(model, full), learnt(model, batch))


class Rows:
    """A part of two batches."""

    def __init__(self, batches: list[dict[str, Tensor]]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return sum(len(batch["labels"]) for batch in self.batches)

    def eval_batches(self, batch_size: int) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        begin = 0
        for batch in self.batches:
            yield batch, torch.arange(begin, begin + len(batch["labels"]))
            begin += len(batch["labels"])


def test_a_part_is_scored() -> None:
    model = model_of("bert", READERS["unipt"])
    batches = [batch_for("bert", rows=4), batch_for("bert", rows=3, tokens=6)]
    full = [with_features(model, batch, recorded(model.tuned.backbone, batch)) for batch in batches]
    assert evaluate(model, Rows(full), 4) == evaluate(model, Rows(batches), 4)


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_tags_of_tokens(family: str) -> None:
    model, batch = model_of(family, READERS["multi"], task=TAGGING), batch_for(family, rows=4)
    batch["labels"] = torch.where(batch["attention_mask"].bool(), batch["input_ids"] % 3, -100)
    full = with_features(model, batch, recorded(model.tuned.backbone, batch))
    assert same(learnt(model, full), learnt(model, batch))


@pytest.mark.parametrize("family", DECODERS)
def test_language_modelling(family: str) -> None:
    """Training and evaluation both read the text once."""
    model, batch = model_of(family, READERS["multi"], task=CONTINUED), batch_for(family, rows=4)
    batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    full = with_features(model, batch, recorded(model.tuned.backbone, batch))
    assert same(learnt(model, full), learnt(model, batch))


@pytest.mark.parametrize("name", ["t5", "flan", "bart", "pegasus"])
@pytest.mark.parametrize("method", ["sherl", "multi", "unipt", "ladder"])
def test_text_is_learnt_and_written_behind_a_stored_source(name: str, method: str) -> None:
    """The encoder's hidden states alone: the decoder reads other targets in training and in writing."""
    model, batch = model_of(name, READERS[method], task=WRITTEN, backbone=text_backbone(name)), text_batch()
    states = recorded(model.tuned.backbone, batch)
    needed = model.tuned.needs(["encoder"])
    assert {place.stack for place in needed} == {"encoder"}
    assert Place("encoder", 3) in needed
    full = {**batch, **{feature_name(place): states[place] for place in needed}}
    live = learnt(model, batch)
    for block in model.tuned.backbone.blocks[:3]:
        for parameter in block.parameters():
            with torch.no_grad():
                parameter.fill_(float("nan"))
    assert same(learnt(model, full), live)


# ---- what is refused


def full_batch(model: Any) -> dict[str, Tensor]:
    batch = batch_for(model.tuned.backbone.family, rows=4)
    return with_features(model, batch, recorded(model.tuned.backbone, batch))


def test_missing_places_are_named() -> None:
    model = model_of("bert", READERS["unipt"])
    batch = full_batch(model)
    del batch["features.blocks.1"], batch["features.blocks.3"]
    with pytest.raises(SpecError, match=r"method unipt also needs features\.blocks\.1, features\.blocks\.3"):
        model(batch)


def test_a_part_of_the_stacks_is_enough() -> None:
    """What is not stored computes."""
    batch = batch_for("t5", rows=4)
    for method in READERS.values():
        model = model_of("t5", method)
        states, live = recorded(model.tuned.backbone, batch), learnt(model, batch)
        for stack in ("encoder", "decoder"):
            needed = model.tuned.needs([stack])
            full = {**batch, **{feature_name(place): states[place] for place in needed}}
            assert {place.stack for place in needed} == {stack}
            assert same(learnt(model, full), live)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda tensor: tensor[:2], "h_0 of blocks has 2 rows"),
        (lambda tensor: tensor[:, :5], "h_0 of blocks has 5 tokens, the batch has 8"),
        (lambda tensor: tensor.bfloat16(), "is torch.bfloat16, the backbone was loaded in torch.float32"),
    ],
)
def test_states_of_another_batch_or_precision_are_refused(spoil: Any, message: str) -> None:
    model = model_of("bert", READERS["sherl"])
    batch = full_batch(model)
    batch["features.blocks.0"] = spoil(batch["features.blocks.0"])
    with pytest.raises(SpecError, match=message):
        model(batch)


def test_states_of_an_unknown_stack_are_refused() -> None:
    model = model_of("bert", READERS["sherl"])
    batch = {**batch_for("bert", rows=4), "features.encoder.0": torch.zeros(4, 8, 16)}
    with pytest.raises(SpecError, match="there is no stack 'encoder', only blocks"):
        model(batch)


def test_methods_without_early_blocks_take_none() -> None:
    batch = full_batch(model_of("bert", READERS["sherl"]))
    for name in ("full", "lora", "prompt", "bitfit", "adapter"):
        model = model_of("bert", {"name": name})
        assert model.tuned.needs() == frozenset()
        with pytest.raises(SpecError, match=f"method {name} has no early blocks"):
            model(batch)


def test_what_writes_must_compute() -> None:
    backbone = tiny_backbone("llama")
    batch = text_batch()
    model = model_of("llama", READERS["sherl"], backbone=backbone, task=WRITTEN)
    states = recorded(backbone, batch)
    full = {**batch, **{feature_name(place): states[place] for place in model.tuned.needs()}}
    with pytest.raises(SpecError, match="written by the whole model, token by token"):
        model.outputs(full)
    with pytest.raises(SpecError, match="tokens, the batch has"):
        model(full)  # in training the stream has the target's tokens too


def test_an_error_in_a_pass_leaves_nothing_behind() -> None:
    model = model_of("bert", READERS["sherl"])
    batch, late = full_batch(model), model.tuned.backbone.blocks[-1]

    def fail(*_: Any) -> None:
        raise RuntimeError("in the middle")

    handle = late.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="in the middle"):
        model(batch)
    handle.remove()
    assert not any("forward" in vars(module) or module._forward_pre_hooks for module in model.tuned.model.modules())
    assert torch.is_grad_enabled()
