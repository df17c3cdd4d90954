"""Decoders without a row: what is found of them, what they compute, and which are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from sherl.backbones import backbone_from_config
from sherl.backbones.decoder import DecoderBackbone
from sherl.errors import SpecError, UnsupportedBackboneError
from sherl.methods import method_from_dict
from sherl.sharing import why_not
from sherl.spec import TaskSpec
from tests.sherl.found_configs import DECODERS, WRITING, assert_learns, assert_loads_the_same, config_of, found
from tests.sherl.tiny import tiny_batch

LANGUAGE = TaskSpec(kind="language-modelling", metric="neg_perplexity")
every_decoder = pytest.mark.parametrize("kind", DECODERS)


def decoder(kind: str) -> DecoderBackbone:
    backbone = found(kind, DECODERS[kind])
    assert isinstance(backbone, DecoderBackbone)
    return backbone


@every_decoder
def test_it_is_found_and_says_so(kind: str) -> None:
    backbone = decoder(kind)
    assert (backbone.family, backbone.depth) == (kind, 3)
    (note,) = backbone.notes
    assert f"'{kind}' has no row" in note
    assert "taken for a decoder" in note
    stack = backbone.stack_of(0)
    assert stack.lora_targets
    for name in stack.lora_targets:
        assert any(part in name for part in ("q", "v", "att"))
    assert "att" not in stack.feed_forward_output
    assert "norm" in type(backbone.final_norm_of(stack)).__name__.lower()


@every_decoder
def test_it_computes_what_transformers_does_on_either_side_of_padding(kind: str) -> None:
    backbone, batch = decoder(kind), tiny_batch()
    keep = batch["attention_mask"].bool()
    with torch.no_grad():
        hidden = backbone.encode(batch)
        logits = backbone.vocabulary_logits(hidden)
        own = backbone.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        left = {name: value.flip(1) for name, value in batch.items() if name != "labels"}
        for row, count in enumerate(keep.sum(dim=1).tolist()):
            left["input_ids"][row, -count:] = batch["input_ids"][row, :count]
        shifted = backbone.encode(left)
    torch.testing.assert_close(logits[keep], own[keep], atol=1e-4, rtol=1e-4)
    for row, count in enumerate(keep.sum(dim=1).tolist()):
        torch.testing.assert_close(shifted[row, -count:], hidden[row, :count], atol=1e-4, rtol=1e-4)


@every_decoder
def test_it_writes_what_transformers_writes(kind: str) -> None:
    backbone = decoder(kind)
    batch = {name: value[:1] for name, value in tiny_batch(rows=1, padded=False).items()}
    written = backbone.generate(batch, 6, finish=lambda hidden: hidden, whole_length=True)
    without = backbone.generate(batch, 6, finish=lambda hidden: hidden, whole_length=True, use_cache=False)
    assert torch.equal(written, without)
    theirs = backbone.model.generate(
        input_ids=batch["input_ids"], max_new_tokens=6, do_sample=False, pad_token_id=1, use_cache=True
    )[:, batch["input_ids"].shape[1] :]
    assert written[0, : theirs.shape[1]].tolist() == theirs[0].tolist()


@pytest.mark.parametrize(
    "method",
    [
        {"name": "sherl", "reduction_factor": 2, "insertion": "multi", "start_layer": -2, "late_route": {"name": "lora", "rank": 2}},
        {"name": "unipt", "reduction_factor": 2},
        {"name": "ladder", "reduction_factor": 2},
        {"name": "lora"},
        {"name": "adapter", "inner_width": 4},
        {"name": "prompt", "num_prompts": 2},
        {"name": "full"},
    ],
    ids=lambda method: str(method["name"]),
)  # fmt: skip
@pytest.mark.parametrize("kind", ["gpt_neox", "cohere2"])
def test_methods_learn_on_it_and_leave_it_as_it_was(kind: str, method: dict[str, Any]) -> None:
    backbone, batch = decoder(kind), tiny_batch(rows=4)
    before = {name: value.clone() for name, value in backbone.model.state_dict().items()}
    model = assert_learns(backbone, method, batch)
    model.tuned.remove()
    after = backbone.model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_it_loads_from_a_folder_and_stores_no_hidden_states(tmp_path: Any) -> None:
    backbone = decoder("gpt_neox")
    assert_loads_the_same(backbone, tiny_batch(), tmp_path)
    assert why_not(method_from_dict({"name": "sherl"}), LANGUAGE, backbone) is not None


_MIXTURE = {**WRITING, "num_key_value_heads": 1, "num_local_experts": 4, "num_experts_per_tok": 2}


@pytest.mark.parametrize(
    ("kind", "settings", "why"),
    [
        (
            "mixtral",
            _MIXTURE,
            "does not run without values, so its memory could not be predicted",
        ),
        ("falcon", {**WRITING, "alibi": True}, "takes no additive masks"),
        ("bloom", {"vocab_size": 80, "hidden_size": 16, "n_layer": 2, "n_head": 2}, "takes no position_ids"),
        ("mamba", {"vocab_size": 80, "hidden_size": 16, "num_hidden_layers": 2}, "takes no past_key_values"),
        (
            "recurrent_gemma",
            {**WRITING, "num_key_value_heads": 1, "lru_width": 16},
            "of type linear_attention, and full_attention",
        ),
        ("xlnet", {"vocab_size": 80, "d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 24}, "no past_key_values"),
        ("groupvit", {}, "made of several models .*vision_config"),
    ],
)
def test_what_is_no_such_decoder_is_refused_with_the_reason(kind: str, settings: dict[str, Any], why: str) -> None:
    with pytest.raises(UnsupportedBackboneError, match=rf"(?s){kind}.*{why}.*A row says where the blocks are"):
        backbone_from_config(config_of(kind, settings))


def test_one_that_sees_later_tokens_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers.models.olmo2.modeling_olmo2 as olmo2

    plain = olmo2.Olmo2Attention.forward

    def ahead(self: Any, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        output, weights = plain(self, hidden_states, *args, **kwargs)
        return (output + hidden_states.roll(-1, dims=1) if self.layer_idx == 0 else output), weights

    monkeypatch.setattr(olmo2.Olmo2Attention, "forward", ahead)
    with pytest.raises(UnsupportedBackboneError, match="a token sees those behind it"):
        decoder("olmo2")


def test_one_whose_windows_are_not_the_masks_own_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers.models.starcoder2.modeling_starcoder2 as starcoder2

    # its own masks have no window
    monkeypatch.setattr(starcoder2, "create_sliding_window_causal_mask", starcoder2.create_causal_mask)
    with pytest.raises(UnsupportedBackboneError, match="with windows of 3 tokens its logits are not those"):
        found("starcoder2", {**DECODERS["starcoder2"], "sliding_window": 30})


@pytest.mark.parametrize("kind", ["gptj", "gpt_neo", "gpt_bigcode"])
def test_positions_beyond_its_table_are_refused(kind: str) -> None:
    """GPT-J's table is computed, and lies in its attention."""
    backbone = decoder(kind)
    assert backbone.max_tokens == 40
    with pytest.raises(SpecError, match=r"41 tokens, .* takes at most 40"):
        backbone.encode({"input_ids": torch.full((1, 41), 5)})


def test_its_own_head_scales_what_it_gives() -> None:
    backbone, batch = decoder("granite"), tiny_batch()
    with torch.no_grad():
        hidden = backbone.encode(batch)
        head = backbone.model.get_output_embeddings()
        assert isinstance(head, nn.Linear)
        torch.testing.assert_close(backbone.vocabulary_logits(hidden), head(hidden) / 4.0)


def test_a_norm_without_a_scale_cannot_be_replaced_by_a_new_one() -> None:
    backbone = found("olmo", DECODERS["olmo2"])
    with pytest.raises(UnsupportedBackboneError, match=r"final_norm 'new'.*olmo model has none there with a scale"):
        method_from_dict({"name": "sherl", "reduction_factor": 4, "final_norm": "new"}).apply(backbone, seed=0)
