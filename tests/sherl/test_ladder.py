"""LST: what the side network computes, by hand; how many parameters train; writing, memory, settings."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import T5Config

from autotune.memory.allocated import TensorMemory
from sherl.backbones import Backbone, backbone_from_config
from sherl.errors import SpecError
from sherl.methods import LadderConfig, Tuned
from sherl.methods.base import seeded
from tests.sherl.texts import stirred, text_backbone, text_batch, text_model
from tests.sherl.tiny import tiny_backbone, tiny_batch, tiny_config, wider


def by_token(gate: float, own: Tensor, feature: Tensor) -> Tensor:
    """s = g s + (1 - g) down(h), number by number."""
    g = 1.0 / (1.0 + math.exp(-gate / 0.1))
    rows = [
        [
            [g * float(s) + (1.0 - g) * float(d) for s, d in zip(own_token, feature_token, strict=True)]
            for own_token, feature_token in zip(own_row, feature_row, strict=True)
        ]
        for own_row, feature_row in zip(own, feature, strict=True)
    ]
    return torch.tensor(rows)


def down(tuned: Tuned, stack: int, n: int, hidden: Tensor) -> Tensor:
    layer = tuned.added["ladder"]["rungs"][stack].down[n]  # type: ignore[index]
    return hidden @ layer.weight.T + layer.bias


def stir(tuned: Tuned) -> Tuned:
    with seeded(3, torch.device("cpu")), torch.no_grad():
        for parameter in tuned.trainable().values():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return tuned


@pytest.mark.parametrize("kept", [None, (0, 2), (1,)])
@pytest.mark.parametrize("output", ["replaced", "added"])
@torch.no_grad()
def test_an_encoders_ladder_by_hand(kept: Any, output: str) -> None:
    backbone, batch = tiny_backbone(), tiny_batch()
    tuned = stir(LadderConfig(reduction_factor=2, kept_layers=kept, output=output).apply(backbone, seed=0))
    mask = batch["attention_mask"][:, None, None, :].bool()
    states = [backbone.model.embeddings(input_ids=batch["input_ids"], token_type_ids=batch["token_type_ids"])]
    for block in backbone.blocks:
        states.append(block(states[-1], mask))
    side = tuned.added["ladder"]["side"]  # type: ignore[index]
    alpha = tuned.added["ladder"]["rungs"][0].alpha  # type: ignore[index]
    own = down(tuned, 0, 0, states[0])
    for place, layer in enumerate(kept or (0, 1, 2)):
        mixed = by_token(float(alpha[layer]), own, down(tuned, 0, place + 1, states[layer + 1]))
        own = side.encoder.layer[place](mixed, mask)
    up = tuned.added["ladder"]["up"]  # type: ignore[index]
    expected = own @ up.weight.T + up.bias + (states[-1] if output == "added" else 0)
    torch.testing.assert_close(tuned(batch), expected, atol=1e-5, rtol=1e-5)
    assert len(side.encoder.layer) == len(kept or (0, 1, 2))


@pytest.mark.parametrize("kept", [None, "drop:0"])
@torch.no_grad()
def test_an_encoder_decoders_ladder_by_hand(kept: Any) -> None:
    backbone = text_backbone("t5")
    batch = backbone.teaching(text_batch())
    tuned = stir(LadderConfig(reduction_factor=2, kept_layers=kept).apply(backbone, seed=0))
    model, side = backbone.model, tuned.added["ladder"]["side"]  # type: ignore[index]
    rungs = tuned.added["ladder"]["rungs"]  # type: ignore[index]
    keep = batch["attention_mask"].bool()[:, None, None, :]
    targets = batch["decoder_input_ids"].shape[1]
    causal = torch.ones(targets, targets).tril().bool()[None, None]

    def climbed(stack: int, given: Tensor, own_blocks: Any, side_blocks: Any, rest: Any, side_rest: Any) -> Any:
        hidden, bias, states = given, (None,) * 2, [given]
        for block in own_blocks:
            hidden, *bias = block(hidden, *rest(bias))
            states.append(hidden)
        own, bias = down(tuned, stack, 0, states[0]), (None,) * 2
        layers = [0, 1, 2] if kept is None else [1, 2]
        for place, layer in enumerate(layers):
            gate = float(rungs[stack].alpha[layer])
            mixed = by_token(gate, own, down(tuned, stack, place + 1, states[layer + 1]))
            own, *bias = side_blocks[place](mixed, *side_rest(bias))
        return states[-1], own

    last, own = climbed(
        0, model.shared(batch["input_ids"]), model.encoder.block, side.encoder.block,
        lambda bias: (keep, bias[0]), lambda bias: (keep, bias[0]),
    )  # fmt: skip
    source, side_source = model.encoder.final_layer_norm(last), side.encoder.final_layer_norm(own)
    _, own = climbed(
        1, model.shared(batch["decoder_input_ids"]), model.decoder.block, side.decoder.block,
        lambda bias: (causal, bias[0], source, keep, bias[1]),
        lambda bias: (causal, bias[0], side_source, keep, bias[1]),
    )  # fmt: skip
    up = tuned.added["ladder"]["up"]  # type: ignore[index]
    expected = side.decoder.final_layer_norm(own) @ up.weight.T + up.bias
    torch.testing.assert_close(tuned(batch), expected, atol=1e-5, rtol=1e-5)


def test_the_released_t5_base_trains_as_many_parameters() -> None:
    with torch.device("meta"):
        backbone = backbone_from_config(T5Config(d_model=768, d_ff=3072, num_layers=12, num_heads=12))
        tuned = LadderConfig(kept_layers="drop:0,4,8").apply(backbone, seed=0)
    assert sum(parameter.numel() for parameter in tuned.trainable().values()) == 3_878_712
    # 9 + 9 blocks of width 96, relative positions, two norms; 20 down-projections, an alpha for each block, one up
    blocks = 9 * (4 * 96**2 + 2 * 96 * 384 + 2 * 96) + 9 * (8 * 96**2 + 2 * 96 * 384 + 3 * 96)
    assert blocks + 2 * 32 * 12 + 2 * 96 + 20 * (768 * 96 + 96) + 24 + (96 * 768 + 768) == 3_878_712


def test_heads_stay_and_are_narrower() -> None:
    tuned = LadderConfig(reduction_factor=2).apply(tiny_backbone(), seed=0)
    side = tuned.added["ladder"]["side"]  # type: ignore[index]
    assert (side.config.hidden_size, side.config.num_attention_heads, side.config.intermediate_size) == (8, 2, 12)
    rotary = LadderConfig(reduction_factor=8).apply(tiny_backbone("modernbert"), seed=0)
    assert rotary.added["ladder"]["side"].config.num_attention_heads == 1  # type: ignore[index]  # an even width


@pytest.mark.parametrize("name", ["t5", "flan", "bart", "pegasus"])
@torch.no_grad()
def test_writing_is_the_same_with_and_without_a_cache(name: str) -> None:
    model = stirred(text_model({"name": "ladder", "reduction_factor": 2, "output": "added"}, name))
    tuned, batch = model.tuned, text_batch()
    written = [tuned.generate(batch, 4, whole_length=True, use_cache=use_cache) for use_cache in (True, False)]
    assert torch.equal(*written)
    prefix = tuned.backbone._start(batch["input_ids"])  # type: ignore[attr-defined]
    for _ in range(4):  # each token from a pass over all before it
        hidden = tuned({**batch, "decoder_input_ids": prefix})
        best = tuned.backbone.vocabulary_logits(hidden[:, -1:]).argmax(dim=-1)
        prefix = torch.cat([prefix, best], dim=1)
    real = written[0] != -100
    assert real.any()
    assert torch.equal(written[0][real], prefix[:, 1:][real])


@pytest.mark.parametrize("name", ["t5", "bart"])
@torch.no_grad()
def test_a_side_decoder_sees_no_later_target_and_no_padding(name: str) -> None:
    tuned = stirred(text_model({"name": "ladder", "reduction_factor": 2}, name)).tuned
    batch = dict(tuned.backbone.teaching(text_batch()))
    out = tuned(batch)
    torch.testing.assert_close(tuned(wider(batch, 4)), out, atol=1e-5, rtol=1e-5)
    later = {**batch, "decoder_input_ids": batch["decoder_input_ids"].clone()}
    later["decoder_input_ids"][:, 2:] = 5
    torch.testing.assert_close(tuned(later)[:, :2], out[:, :2], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(tuned(later)[:, 2:], out[:, 2:], atol=1e-3)


def test_no_block_of_the_backbone_has_a_graph() -> None:
    tuned = LadderConfig(reduction_factor=2).apply(tiny_backbone(), seed=0).train()
    seen: list[Tensor] = []
    for block in tuned.backbone.blocks:
        block.register_forward_hook(lambda _m, _i, output: seen.append(output))
    out = tuned(tiny_batch())
    assert len(seen) == 3
    assert not any(tensor.requires_grad for tensor in seen)
    assert out.requires_grad
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("family", ["bert", "modernbert", "t5"])
@pytest.mark.parametrize("method", ["ladder", "unipt"])
def test_memory_of_a_step_is_the_same_on_fake_tensors(family: str, method: str) -> None:
    from sherl.methods import method_from_dict

    config = method_from_dict({"name": method, "reduction_factor": 2})

    def peak(backbone: Backbone, batch: dict[str, Tensor]) -> int:
        tuned = config.apply(backbone, seed=0).train()
        with TensorMemory() as memory:
            memory.track(tuned)
            memory.track(batch)
            for _ in range(2):
                tuned(batch).square().sum().backward()
        return memory.peak_bytes

    figures = [peak(tiny_backbone(family), tiny_batch(rows=4, tokens=20, padded=padded)) for padded in (True, False)]
    with FakeTensorMode() as mode:
        batch = {name: mode.from_tensor(tensor) for name, tensor in tiny_batch(rows=4, tokens=20).items()}
        figures.append(peak(backbone_from_config(tiny_config(family)), batch))
    assert len(set(figures)) == 1, figures


def test_bad_settings_say_what_is_allowed() -> None:
    with pytest.raises(SpecError) as caught:
        LadderConfig(reduction_factor=0, initialisation="magnitud", kept_layers="lst:2", output="gone")
    for part in ("reduction_factor must be", "initialisation must be one of", "Did you mean 'last'", "output must be"):
        assert part in str(caught.value)
    backbone = tiny_backbone("modernbert")
    with pytest.raises(SpecError, match="rotary positions need heads of an even width"):
        LadderConfig(reduction_factor=16).apply(backbone, seed=0)
    with pytest.raises(SpecError, match="allowed are 1 to 16"):
        LadderConfig(reduction_factor=17).apply(backbone, seed=0)
    with pytest.raises(SpecError, match="leaves a stack no side block"):
        LadderConfig(kept_layers=()).apply(backbone, seed=0)
    assert backbone.method_name is None
