"""Encoders without a row: tried by structure, and refused with the reason where they are not what they look like."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from sherl.backbones import FAMILIES, Backbone, backbone_from_config
from sherl.backbones.paths import matching
from sherl.backbones.structure.blocks import Tried
from sherl.backbones.structure.running import Running
from sherl.errors import UnsupportedBackboneError
from sherl.methods import method_from_dict
from sherl.methods.base import seeded
from tests.sherl.found_configs import TEXT, assert_learns, assert_loads_the_same
from tests.sherl.tiny import batch_for, tiny_batch, wider
from tests.sherl.tiny_configs import VOCABULARY

FOUND = ("ernie", "megatron-bert", "roformer", "rembert", "deberta", "gte")


def config_of(kind: str, **settings: Any) -> Any:
    return transformers.AutoConfig.for_model(kind, **{**TEXT, **settings})


def found(kind: str) -> Backbone:
    assert kind not in FAMILIES
    with seeded(0, torch.device("cpu")):
        return backbone_from_config(config_of(kind))


@pytest.mark.parametrize("kind", FOUND)
def test_an_encoder_is_found_and_says_so(kind: str) -> None:
    backbone = found(kind)
    assert (backbone.family, backbone.depth, backbone.layout.kind) == (kind, 3, "encoder")
    (note,) = backbone.notes
    assert f"'{kind}' has no row" in note
    assert f"3 of class {type(backbone.blocks[0]).__name__}" in note
    stack = backbone.stack_of(0)
    assert stack.lora_targets
    for name in (*stack.lora_targets, stack.feed_forward_output):
        assert isinstance(backbone.blocks[0].get_submodule(name), nn.Linear)
    assert "att" not in stack.feed_forward_output


@pytest.mark.parametrize("kind", FOUND)
def test_it_computes_what_transformers_does_and_padding_never_leaks(kind: str) -> None:
    backbone, batch = found(kind), tiny_batch()
    keep = batch["attention_mask"].bool()
    with torch.no_grad():
        hidden = backbone.encode(batch)
        own = backbone.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
        padded = backbone.encode(wider(batch, 4))[:, : keep.shape[1]]
    torch.testing.assert_close(hidden[keep], own[keep], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(padded[keep], hidden[keep], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("method", ["sherl", "lora", "adapter", "bitfit", "full"])
def test_methods_learn_on_it(method: str) -> None:
    settings = {"name": method, "reduction_factor": 2} if method == "sherl" else {"name": method}
    assert_learns(found("ernie"), settings, batch_for("bert"))


def test_prompts_are_refused() -> None:
    for method in ({"name": "prompt"}, {"name": "sherl", "reduction_factor": 4, "late_route": "prompt"}):
        with pytest.raises(UnsupportedBackboneError, match="found by structure"):
            method_from_dict(method).apply(found("ernie"), seed=0)


def test_it_is_made_without_values_and_loaded_from_a_folder(tmp_path: Any) -> None:
    with torch.device("meta"):
        assert backbone_from_config(config_of("ernie")).notes
    with FakeTensorMode():
        assert backbone_from_config(config_of("ernie")).depth == 3
    assert_loads_the_same(found("ernie"), tiny_batch(), tmp_path)


@pytest.mark.parametrize(
    ("kind", "settings", "why"),
    [
        ("albert", {"embedding_size": 12}, "no list of at least two alike blocks.*albert_layer_groups"),
        ("ernie", {"is_decoder": True}, "as a decoder"),
        ("squeezebert", {"embedding_size": 16}, "no linear layer"),
        ("nystromformer", {}, "padding changes the hidden states of tokens"),
        ("fnet", {}, "padding changes the hidden states of tokens"),
        ("longformer", {}, r"hidden states of 2 x 6 tokens are \(2, 512, 16\)"),
        ("xlm", {}, "lists of their own: attentions, layer_norm1, ffns"),
        ("perceiver", {}, "it reads 'inputs', neither input_ids nor pixel_values"),
        ("longt5", {}, "its encoder does not run without values|its encoder takes no additive masks"),
        ("big_bird", {"max_position_embeddings": 256}, "changes for good when it meets a short batch"),
    ],
)
def test_what_is_no_such_encoder_is_refused_with_the_reason(kind: str, settings: dict[str, Any], why: str) -> None:
    with pytest.raises(UnsupportedBackboneError, match=rf"(?s){kind}.*{why}.*A row says where the blocks are"):
        backbone_from_config(config_of(kind, **settings))


@pytest.mark.parametrize("architectures", [None, ["FunnelModel"]])
def test_funnel_which_pools_its_tokens_is_refused(architectures: list[str] | None) -> None:
    config = transformers.FunnelConfig(
        vocab_size=VOCABULARY,
        d_model=16,
        n_head=2,
        d_head=8,
        d_inner=24,
        block_sizes=[2, 2],
        architectures=architectures,
    )
    with pytest.raises(UnsupportedBackboneError, match=r"funnel.*tried by structure"):
        backbone_from_config(config)


def test_it_is_tried_with_words_that_are_no_special_tokens() -> None:
    """ESM-2's are the last of its 33, and it counts them over padding too."""
    settings = {"vocab_size": 33, "mask_token_id": 32, "token_dropout": True, "position_embedding_type": "rotary"}
    with seeded(0, torch.device("cpu")):
        backbone = backbone_from_config(config_of("esm", **settings))
    ids = Running(backbone, Tried("esm", "esm")).token_ids(20, 6)
    assert 32 not in ids
    assert len(ids.unique()) > 4


def test_rotary_positions_are_not_bounded_and_a_small_table_is_enough() -> None:
    backbone = found("gte")
    assert backbone.max_tokens is None
    with torch.no_grad():
        assert backbone.encode({"input_ids": torch.full((1, 60), 5)}).shape == (1, 60, 16)
    assert backbone_from_config(config_of("ernie", max_position_embeddings=6)).max_tokens == 6
    with pytest.raises(UnsupportedBackboneError, match="it takes 5 tokens at most, and 6 are what it is tried with"):
        backbone_from_config(config_of("ernie", max_position_embeddings=5))


def test_one_that_changes_itself_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers.models.ernie.modeling_ernie as ernie

    plain = ernie.ErnieEncoder.forward

    def changing(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.sparse = False
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(ernie.ErnieEncoder, "forward", changing)
    with pytest.raises(UnsupportedBackboneError, match=r"changes itself while it runs \(encoder.sparse\)"):
        found("ernie")


def test_a_block_that_runs_twice_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers.models.ernie.modeling_ernie as ernie

    plain = ernie.ErnieEncoder.forward

    def twice(self: Any, hidden_states: Any, *args: Any, **kwargs: Any) -> Any:
        hidden = plain(self, hidden_states, *args, **kwargs).last_hidden_state
        return plain(self, hidden, *args, **kwargs)

    monkeypatch.setattr(ernie.ErnieEncoder, "forward", twice)
    with pytest.raises(UnsupportedBackboneError, match="do not run once each"):
        found("ernie")


def test_patterns_name_modules_in_order() -> None:
    model = nn.ModuleDict({"a": nn.ModuleList([nn.Linear(1, 1), nn.ReLU()]), "b": nn.ModuleList([nn.ReLU()])})
    assert matching(model, "*.0") == ["a.0", "b.0"]
    assert matching(model, "a.-1") == ["a.1"]
    assert matching(model, "b|c.0") == ["b.0"]
    assert matching(model, "*.1") == ["a.1"]
    assert matching(model, "no.where") == ["no.where"]
    assert matching(model, "*.7") == []
