"""Padding on the left gives what padding on the right gives, whatever a model counts its positions by; or it is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from sherl.backbones import FAMILIES, Backbone, backbone_from_config
from sherl.errors import SpecError
from sherl.methods import method_from_dict
from sherl.model import build_model
from sherl.spec import TaskSpec
from tests.sherl.feature_samples import READERS, model_of, recorded, with_features
from tests.sherl.texts import WRITTEN, stirred, text_batch, text_model
from tests.sherl.tiny import (
    CLASSIFICATION,
    CROSS_MODAL,
    ENCODERS,
    TEXTS,
    batch_for,
    padded_on_the_left,
    tiny_backbone,
    tiny_config,
)
from tests.sherl.tiny_configs import CONFIGS, PAD, VOCABULARY

ABSOLUTE = tuple(name for name in (*TEXTS, *CROSS_MODAL) if FAMILIES.get(name).positions == "absolute")
TOKENS = TaskSpec(kind="token-classification", metric="token_accuracy", class_names=("a", "b", "c"))
FOUND = {
    "marian": transformers.MarianConfig,
    "mbart": transformers.MBartConfig,
    "ernie": transformers.ErnieConfig,
    "roformer": transformers.RoFormerConfig,
}


def found(name: str) -> Backbone:
    """A tiny random model whose row is found by structure, or was when this was written."""
    usual: dict[str, Any] = {"vocab_size": VOCABULARY, "max_position_embeddings": 40, "pad_token_id": PAD}
    if name in ("marian", "mbart"):
        sizes = {"d_model": 16, "init_std": 0.3, "decoder_start_token_id": 2, "eos_token_id": 2, "bos_token_id": 0}
        sizes |= {f"{stack}_layers": 2 for stack in ("encoder", "decoder")}
        sizes |= {f"{stack}_attention_heads": 2 for stack in ("encoder", "decoder")}
        sizes |= {f"{stack}_ffn_dim": 24 for stack in ("encoder", "decoder")}
    else:
        sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
        sizes["initializer_range"] = 0.3
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return backbone_from_config(FOUND[name](**usual, **sizes))


def tokens_of(hidden: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """The hidden states of all tokens that are no padding, row by row."""
    keep = batch["attention_mask"].bool()
    return hidden[:, : keep.shape[1]][keep]


@torch.no_grad()
def assert_alike(backbone: Backbone, batch: dict[str, Tensor]) -> None:
    left = padded_on_the_left(batch)
    assert not torch.equal(left["input_ids"], batch["input_ids"])
    other = {**left, "input_ids": left["input_ids"].masked_fill(left["attention_mask"] == 0, 7)}
    hidden = backbone.encode(batch)
    for moved in (left, other):
        hidden_of_left = backbone.encode(moved)
        if len(backbone.layout.stacks) == 1:  # behind an encoder the decoder's hidden states stand where they stood
            expected, given = tokens_of(hidden, batch), tokens_of(hidden_of_left, moved)
            torch.testing.assert_close(given, expected, atol=1e-5, rtol=1e-4)
        else:
            torch.testing.assert_close(hidden_of_left, hidden, atol=1e-5, rtol=1e-4)
        pooled = [
            backbone.pool(states, backbone.pooled_mask(one))
            for states, one in ((hidden, batch), (hidden_of_left, moved))
        ]
        torch.testing.assert_close(*pooled, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", [*TEXTS, *CROSS_MODAL])
def test_hidden_states_are_those_of_padding_on_the_right(family: str) -> None:
    assert_alike(tiny_backbone(family), batch_for(family))


@pytest.mark.parametrize("name", ["marian", "mbart", "ernie"])
def test_so_they_are_where_a_row_is_found_by_structure(name: str) -> None:
    assert_alike(found(name), text_batch())


def test_a_table_beside_relative_positions_is_read_alike() -> None:
    config = tiny_config("deberta-v2")
    config.position_biased_input = True
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        assert_alike(backbone_from_config(config), batch_for("deberta-v2"))


def test_what_counts_otherwise_refuses_padding_on_the_left() -> None:
    backbone = found("roformer")
    backbone.encode(text_batch())
    with pytest.raises(SpecError, match=r"padding on the left.*roformer.*padding_side = 'right'"):
        backbone.encode(padded_on_the_left(text_batch()))


@pytest.mark.parametrize("family", ["t5", "bart", "pegasus"])
@pytest.mark.parametrize("case", ["sherl", "unipt", "ladder", "lora", "prompt"])
def test_what_is_written_behind_an_encoder_is_alike(family: str, case: str) -> None:
    settings = {"sherl": {"reduction_factor": 4}, "ladder": {"reduction_factor": 2}, "prompt": {"num_prompts": 3}}
    model, batch = stirred(text_model({"name": case, **settings.get(case, {})}, family)).eval(), text_batch()
    assert WRITTEN.target_length == batch["labels"].shape[1]
    left = padded_on_the_left(batch)
    assert torch.equal(model.outputs(left), model.outputs(batch))
    with torch.no_grad():
        torch.testing.assert_close(model(left), model(batch), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ENCODERS)
@pytest.mark.parametrize("case", ["prompt", "sherl"])
def test_prompts_stand_before_the_first_token_on_whichever_side_padding_stands(family: str, case: str) -> None:
    late = {"start_layer": -2, "reduction_factor": 2, "late_route": {"name": "prompt", "num_prompts": 3}}
    backbone, batch = tiny_backbone(family), batch_for(family)
    if backbone.no_input_prompts is not None:
        pytest.skip("the family refuses prompts")
    method = method_from_dict({"name": case, **({"num_prompts": 3} if case == "prompt" else late)})
    model = stirred(build_model(backbone, method, CLASSIFICATION, seed=0)).eval()
    with torch.no_grad():
        torch.testing.assert_close(model(padded_on_the_left(batch)), model(batch), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ["bert", "distilbert", "clip_text_model", "gpt2"])
def test_each_token_is_answered_where_it_stands(family: str) -> None:
    batch = batch_for(family)
    method = method_from_dict({"name": "sherl", "reduction_factor": 2})
    model = stirred(build_model(tiny_backbone(family), method, TOKENS, seed=0)).eval()
    left = padded_on_the_left(batch)
    with torch.no_grad():
        given, expected = tokens_of(model(left), left), tokens_of(model(batch), batch)
    torch.testing.assert_close(given, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ABSOLUTE)
def test_padding_on_the_right_changes_nothing_to_the_bit(family: str) -> None:
    """Nor does a mask of ones beside none."""
    backbone, batch = tiny_backbone(family), batch_for(family)
    hooks = list[bool]()
    for module in backbone.model.modules():
        if isinstance(module, torch.nn.Embedding):
            module.register_forward_hook(lambda one, *_: hooks.append(len(one._forward_hooks) > 1))
    with torch.no_grad():
        whole = {**batch, "attention_mask": torch.ones_like(batch["attention_mask"])}
        without = {name: tensor for name, tensor in batch.items() if name != "attention_mask"}
        assert torch.equal(backbone.encode(whole), backbone.encode(without))
        backbone.encode(batch)
        assert hooks
        assert not any(hooks)
        backbone.encode(padded_on_the_left(batch))
        assert any(hooks)
    assert all(len(module._forward_hooks) <= 1 for module in backbone.model.modules())


@pytest.mark.parametrize("family", ["bert", "bart", "pegasus", "t5", "clip_text_model"])
@pytest.mark.parametrize("case", ["sherl", "late-lora", "unipt", "linear_probe"])
def test_stored_hidden_states_stand_where_their_tokens_stand(family: str, case: str) -> None:
    model, left = model_of(family, READERS[case]), padded_on_the_left(batch_for(family))
    for tokens in {None, 2} if len(model.tuned.backbone.stacks) > 1 else {None}:
        batch = left if tokens is None else {**left, "decoder_input_ids": left["input_ids"][:, -tokens:]}
        states = recorded(model.tuned.backbone, batch)
        assert torch.equal(model(with_features(model, batch, states)), model(batch))


@pytest.mark.parametrize("name", ["roformer", "ernie"])
def test_a_row_of_padding_alone_is_none_on_the_left(name: str) -> None:
    backbone, batch = found(name), text_batch()
    batch["attention_mask"][0] = 0
    assert bool(torch.isfinite(backbone.encode(batch)).all())


@pytest.mark.parametrize("family", ["bert", "bart", "vilt", "gpt2"])
def test_a_batch_without_values_is_taken_as_padded_on_the_right(family: str) -> None:
    batch = padded_on_the_left(batch_for(family))
    with FakeTensorMode() as fake:
        backbone = backbone_from_config(CONFIGS[family](2))
        batch = {name: fake.from_tensor(tensor) for name, tensor in batch.items()}
        assert backbone.encode(batch).shape[0] == len(batch["labels"])
