"""Backbones of every family: what a row promises holds, and encoding is what transformers computes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers.pytorch_utils import Conv1D

from autotune.memory.allocated import TensorMemory
from sherl.backbones import FAMILIES, backbone_from_config
from sherl.errors import SpecError, UnknownNameError, UnsupportedBackboneError
from tests.sherl.tiny import ALL_FAMILIES, ENCODERS, TEXTS, batch_for, tiny_backbone, tiny_batch, tiny_config, wider
from tests.sherl.tiny_configs import CONFIGS, PAD, WIDTH

every_family = pytest.mark.parametrize("family", ALL_FAMILIES)
every_text_family = pytest.mark.parametrize("family", TEXTS)
every_encoder = pytest.mark.parametrize("family", ENCODERS)


def pooled(backbone: Any, batch: dict[str, Tensor]) -> Tensor:
    return backbone.pool(backbone.encode(batch), backbone.pooled_mask(batch))


def test_every_family_has_a_tiny_configuration() -> None:
    assert set(CONFIGS) == set(FAMILIES)


@every_text_family
def test_row_says_where_things_are(family: str) -> None:
    backbone = tiny_backbone(family, depth=4)
    assert (backbone.family, backbone.width) == (family, WIDTH)
    assert backbone.depth == 4 * len(backbone.layout.stacks)
    assert len(backbone.last_stack) == 4
    assert backbone.layout is FAMILIES.get(family)
    for layer, block in enumerate(backbone.blocks):
        stack = backbone.stack_of(layer)
        assert backbone.model.get_submodule(backbone.block_path(layer)) is block
        for name in (*stack.lora_targets, *stack.attention_outputs, stack.feed_forward_output):
            assert isinstance(block.get_submodule(name), nn.Linear | Conv1D), name
        for name in (*stack.attention_outputs, stack.feed_forward_output):
            output = block.get_submodule(name)
            assert (output.nf if isinstance(output, Conv1D) else output.out_features) == WIDTH
        norm = backbone.final_norm_of(stack)
        assert norm is None or norm.weight.shape == (WIDTH,)


@every_family
def test_no_pooler_no_cache_and_evaluation_mode(family: str) -> None:
    backbone = tiny_backbone(family)
    poolers = [name for name, _ in backbone.model.named_parameters() if "pooler" in name]
    assert not poolers or family == "lxmert"  # whose class always has one
    assert not [module for module in backbone.model.modules() if module.training]
    assert backbone.config.use_cache is False


@every_encoder
def test_encoding_is_what_transformers_computes(family: str) -> None:
    backbone = tiny_backbone(family, depth=4)
    batch = tiny_batch(tokens=14)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        expected = backbone.model(**inputs).last_hidden_state
        hidden = backbone.encode(batch)
    tokens = batch["attention_mask"].bool()
    torch.testing.assert_close(hidden[tokens], expected[tokens], atol=2e-6, rtol=1e-5)


@every_text_family
def test_padding_never_leaks(family: str) -> None:
    backbone = tiny_backbone(family)
    batch = tiny_batch()
    with torch.no_grad():
        vectors = pooled(backbone, batch)
        torch.testing.assert_close(pooled(backbone, wider(batch, 5)), vectors, atol=1e-5, rtol=1e-5)
        alone = {name: tensor[2:, :5] for name, tensor in batch.items() if tensor.ndim == 2}
        assert alone["attention_mask"].all()
        torch.testing.assert_close(pooled(backbone, alone), vectors[2:], atol=1e-5, rtol=1e-5)


@every_family
def test_rows_of_a_batch_do_not_see_each_other(family: str) -> None:
    backbone = tiny_backbone(family)
    batch = tiny_batch(padded=False) if family in TEXTS else batch_for(family, rows=3)
    changed = {name: tensor.clone() for name, tensor in batch.items()}
    for name in {"input_ids", "pixel_values", "visual_embeds", "input_features"} & set(batch):
        changed[name][0] = 5
    with torch.no_grad():
        before, after = pooled(backbone, batch), pooled(backbone, changed)
    assert not torch.allclose(before[0], after[0], atol=1e-2)
    torch.testing.assert_close(before[1:], after[1:], atol=1e-5, rtol=1e-5)


def test_modernbert_blocks_see_a_window() -> None:
    config = tiny_config("modernbert", depth=2)
    config.layer_types = ["sliding_attention", "sliding_attention"]
    backbone = backbone_from_config(config)
    batch = tiny_batch(rows=1, tokens=12, padded=False)
    changed = {**batch, "input_ids": batch["input_ids"].clone()}
    changed["input_ids"][0, 0] = (changed["input_ids"][0, 0] + 3) % 30 + 3
    with torch.no_grad():
        difference = (backbone.encode(batch) - backbone.encode(changed)).abs().amax(dim=-1)[0]
    # local_attention=6 is 3 tokens to each side, of each of the two blocks
    assert (difference[:7] > 0).all()
    assert (difference[7:] == 0).all()


@every_text_family
def test_token_types_reach_the_families_that_have_them(family: str) -> None:
    backbone = tiny_backbone(family)
    batch = tiny_batch()
    batch["token_type_ids"] = torch.ones_like(batch["input_ids"])
    without = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        same = torch.equal(backbone.encode(batch), backbone.encode(without))
    assert same == (family not in ("bert", "electra"))


def test_token_types_are_left_out_where_the_table_has_one_row() -> None:
    config = tiny_config("bert")
    config.type_vocab_size = 1
    batch = tiny_batch()
    batch["token_type_ids"] = torch.ones_like(batch["input_ids"])
    assert torch.isfinite(backbone_from_config(config).encode(batch)).all()


def test_a_missing_mask_means_no_padding() -> None:
    backbone = tiny_backbone()
    batch = tiny_batch(padded=False)
    with torch.no_grad():
        assert torch.equal(backbone.encode({"input_ids": batch["input_ids"]}), backbone.encode(batch))


@every_encoder
def test_the_longest_input(family: str) -> None:
    backbone = tiny_backbone(family)
    longest = backbone.max_tokens
    if longest is None:
        assert family in ("deberta-v2", "modernbert")
        assert torch.isfinite(backbone.encode(tiny_batch(rows=1, tokens=60))).all()
        return
    assert longest == (38 if family in ("roberta", "xlm-roberta", "camembert", "mpnet") else 40)
    assert backbone.encode(tiny_batch(rows=1, tokens=longest)).shape == (1, longest, WIDTH)
    with pytest.raises(SpecError, match=rf"{longest + 1} tokens, {family} takes at most {longest}.*max_length"):
        backbone.encode(tiny_batch(rows=1, tokens=longest + 1))


def test_pooling_is_the_mean_of_tokens() -> None:
    backbone = tiny_backbone()
    hidden = torch.randn(2, 4, WIDTH)
    mask = torch.tensor([[1, 1, 1, 0], [0, 0, 0, 0]])
    vectors = backbone.pool(hidden, mask)
    torch.testing.assert_close(vectors[0], hidden[0, :3].mean(dim=0))
    assert torch.equal(vectors[1], torch.zeros(WIDTH))  # an example without tokens, not NaN
    assert backbone.pool(hidden.bfloat16(), mask).dtype == torch.float32


@every_text_family
def test_bfloat16(family: str) -> None:
    backbone = tiny_backbone(family, dtype=torch.bfloat16)
    assert backbone.dtype == torch.bfloat16
    hidden = backbone.encode(batch_for(family, rows=3))
    assert hidden.dtype == torch.bfloat16
    hidden.float().square().mean().backward()
    gradients = [p.grad for p in backbone.model.parameters() if p.grad is not None]
    assert gradients
    assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients)


# ---------------------------------------------------------------------------- without values


@every_text_family
def test_memory_depends_on_shapes_alone(family: str) -> None:
    """A step costs the same bytes on padded rows, on full rows and on fake tensors."""

    def peak(backbone: Any, batch: dict[str, Tensor]) -> int:
        with TensorMemory() as memory:
            memory.track(backbone.model)
            memory.track(batch)
            pooled(backbone, batch).sum().backward()
        return memory.peak_bytes

    batches = [batch_for(family, rows=4, tokens=24)]
    if "attention_mask" in batches[0]:
        full = torch.ones_like(batches[0]["attention_mask"])
        batches.append({**batches[0], "attention_mask": full})
    figures = [peak(tiny_backbone(family), batch) for batch in batches]
    with FakeTensorMode() as mode:
        batch = {name: mode.from_tensor(tensor) for name, tensor in batches[0].items()}
        figures.append(peak(backbone_from_config(tiny_config(family)), batch))
    assert len(set(figures)) == 1, figures


@every_family
def test_made_without_values(family: str) -> None:
    real = batch_for(family, rows=3)
    batch = {name: tensor.to("meta") for name, tensor in real.items()}
    with torch.no_grad():
        expected = tiny_backbone(family).encode(real).shape
    with torch.device("meta"):
        backbone = backbone_from_config(tiny_config(family), dtype=torch.bfloat16)
    assert backbone.encode(batch).shape == expected
    assert backbone.keep(batch).shape == tiny_backbone(family).keep(real).shape
    assert not backbone.is_real
    with pytest.raises(SpecError, match="no weights"):
        _ = backbone.fingerprint


# ---------------------------------------------------------------------------- what is refused


def test_an_unknown_architecture_is_told_what_a_row_needs() -> None:
    import transformers

    with pytest.raises(UnsupportedBackboneError, match=r"'bloom'.*Known are: bart, bert.*A row says where the blocks"):
        backbone_from_config(transformers.BloomConfig(n_layer=1, hidden_size=8, n_head=1))
    with pytest.raises(UnknownNameError, match="Did you mean 'bert'"):
        FAMILIES.get("brt")


def test_a_decoder_is_refused() -> None:
    config = tiny_config("bert")
    config.is_decoder = True
    with pytest.raises(UnsupportedBackboneError, match="is_decoder"):
        backbone_from_config(config)


def test_a_row_that_is_wrong_says_so() -> None:
    from dataclasses import replace

    from sherl.backbones import EncoderBackbone

    backbone = tiny_backbone()
    for wrong in ("embeddings", "nothing.there"):
        with pytest.raises(UnsupportedBackboneError, match=f"blocks are at '{wrong}'"):
            EncoderBackbone(backbone.model, replace(backbone.layout, blocks=wrong))


def test_the_callers_configuration_is_left_alone() -> None:
    config = tiny_config("bert")
    before = config.to_dict()
    backbone_from_config(config)
    assert config.to_dict() == before
    assert config.pad_token_id == PAD
