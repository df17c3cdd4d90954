"""Prompts in front of the late blocks' input: blocks see them as tokens before the first, and nothing else changes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sherl.backbones import FAMILIES, Backbone
from sherl.errors import UnsupportedBackboneError
from sherl.insertion import BlockCall, block_calls
from sherl.methods import SherlConfig, Tuned
from sherl.methods.late import PromptRoute
from sherl.methods.prompting import PromptedPass, Prompting
from tests.sherl.tiny import ENCODERS, tiny_backbone, tiny_batch
from tests.sherl.tiny_configs import PAD

DEPTH, START, PROMPTS = 5, 2, 4
MEANS = [name for name in ENCODERS if getattr(FAMILIES.get(name), "pooling", None) == "mean"]
every_family = pytest.mark.parametrize("family", ENCODERS)


def make_tuned(family: str, *, insertion: str = "single", scale: float = 100.0) -> Tuned:
    """``scale`` 100 turns N(0, 0.01) vectors into ones as large as hidden states."""
    config = SherlConfig(start_layer=START, insertion=insertion, late_route=PromptRoute(num_prompts=PROMPTS))
    tuned = config.apply(tiny_backbone(family, depth=DEPTH), seed=0)
    with torch.no_grad():
        tuned.trainable()["late.vectors"].mul_(scale)
    return tuned


def blocks_by_hand(backbone: Backbone, hidden: Tensor, mask: Tensor) -> Tensor:
    """Late blocks on ``hidden`` [batch, prompts + tokens, width], with the arguments that the model itself makes for
    an input of that many tokens.
    """
    arguments: dict[int, BlockCall] = {}
    ids = torch.where(mask.bool(), torch.full_like(mask, 5), PAD)
    with block_calls(dict(enumerate(backbone.blocks)), lambda layer, call: arguments.update({layer: call})):
        backbone.model(input_ids=ids, attention_mask=mask)
    for layer in range(START, DEPTH):
        call = arguments[layer]
        call.hidden = hidden
        hidden = backbone.blocks[layer](*call.args, **call.kwargs)
        hidden = hidden[0] if isinstance(hidden, tuple) else hidden
    final_norm = backbone.final_norm_of(backbone.stack_of(START))
    return hidden if final_norm is None else final_norm(hidden)


def input_of_start(backbone: Backbone, batch: dict[str, Tensor]) -> Tensor:
    inputs: list[Tensor] = []
    with block_calls({START: backbone.blocks[START]}, lambda _layer, call: inputs.append(call.hidden)):
        backbone.encode(batch)
    return inputs[0]


@every_family
@pytest.mark.parametrize("padded", [False, True])
def test_blocks_see_prompts_as_they_would_see_tokens(family: str, padded: bool) -> None:
    tuned = make_tuned(family)
    batch = tiny_batch(padded=padded)
    mask = batch["attention_mask"]
    with torch.no_grad():
        out = tuned(batch)
        assert out.shape == (3, 9, 16)
        vectors = tuned.trainable()["late.vectors"].expand(3, -1, -1)
        joined = torch.cat([vectors, input_of_start(tuned.backbone, batch)], dim=1)
        expected = blocks_by_hand(tuned.backbone, joined, torch.cat([mask.new_ones(3, PROMPTS), mask], dim=1))
    tokens = mask.bool()
    torch.testing.assert_close(out[tokens], expected[:, PROMPTS:][tokens], atol=1e-5, rtol=1e-4)


@every_family
@pytest.mark.parametrize("insertion", ["single", "multi"])
def test_prompts_that_nobody_may_see_change_nothing(
    family: str, insertion: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned = make_tuned(family, insertion=insertion)
    batch = tiny_batch()
    tokens = batch["attention_mask"].bool()
    begin = Prompting.begin

    def hidden_prompts(prompting: Prompting, batch: Any) -> PromptedPass:
        passing = begin(prompting, batch)
        passing.keep[:, :PROMPTS] = False
        return passing

    with torch.no_grad():
        visible = tuned(batch)
        monkeypatch.setattr(Prompting, "begin", hidden_prompts)
        hidden = tuned(batch)
        without = tuned.backbone.encode(batch)
    torch.testing.assert_close(hidden[tokens], without[tokens], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(visible[tokens], without[tokens], atol=1e-2)


@every_family
def test_prompts_learn(family: str) -> None:
    tuned = make_tuned(family, insertion="multi").train()
    vectors = tuned.trainable()["late.vectors"]
    assert vectors.shape == (PROMPTS, 16)
    tuned(tiny_batch()).square().sum().backward()
    assert vectors.grad is not None
    assert (vectors.grad.abs().amax(dim=1) > 0).all()


@pytest.mark.parametrize("family", MEANS)
def test_the_mean_leaves_prompts_out(family: str) -> None:
    tuned = make_tuned(family)
    batch = tiny_batch(rows=1, tokens=5, padded=False)
    with torch.no_grad():
        hidden = tuned(batch)
        vector = tuned.pool(hidden, batch["attention_mask"])
    torch.testing.assert_close(vector, hidden.mean(dim=1))


def test_a_long_input_with_prompts_goes_past_the_position_table() -> None:
    """Prompts take no row of the table: they enter behind the embeddings."""
    tuned = make_tuned("bert")
    assert tuned(tiny_batch(rows=1, tokens=40)).shape == (1, 40, 16)


def test_a_family_that_cannot_carry_prompts_refuses() -> None:
    backbone = tiny_backbone()
    backbone.layout = replace(backbone.layout, prompts=None, no_prompts="its blocks share one mask")
    for put_on in (
        lambda: SherlConfig(late_route=PromptRoute()).apply(backbone, seed=0),
        lambda: Prompting(backbone, nn.Parameter(torch.zeros(2, 16)), first_layer=1),
        lambda: backbone.prompt_arguments(torch.ones(1, 3).bool(), torch.zeros(1, 3, 16)),
    ):
        with pytest.raises(UnsupportedBackboneError, match=r"bert.*its blocks share one mask"):
            put_on()
    assert backbone.method_name is None
    assert all(parameter.requires_grad for parameter in backbone.model.parameters())
