"""LongRoPE, as of Phi 3 128k and Phi 4 mini: two sets of rotary angles, of which the longest row of a batch decides."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from sherl.backbones import Backbone, backbone_from_config
from sherl.errors import SpecError, UnsupportedBackboneError
from sherl.methods import Tuned, method_from_dict
from sherl.methods.base import seeded
from tests.sherl.tiny_configs import PAD, VOCABULARY

BOUND = 14
SETTINGS = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2,
    "num_key_value_heads": 1, "intermediate_size": 24, "pad_token_id": PAD, "bos_token_id": 0, "eos_token_id": None,
    "max_position_embeddings": 64,
}  # fmt: skip
METHODS: list[dict[str, Any]] = [
    {"name": "sherl", "reduction_factor": 2},
    {"name": "lora"},
    {"name": "ladder", "reduction_factor": 2},
]
every_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: str(method["name"]))


def rope(angles: int, **more: Any) -> dict[str, Any]:
    factors = [1.0 + place for place in range(angles)]
    return {
        "rope_type": "longrope", "rope_theta": 1e4, "short_factor": factors, "long_factor": [9 * one for one in factors],
        "original_max_position_embeddings": BOUND, **more,
    }  # fmt: skip


def phi3(**changes: Any) -> Backbone:
    settings = {**SETTINGS, "original_max_position_embeddings": BOUND, "rope_parameters": rope(8), **changes}
    with seeded(0, torch.device("cpu")), torch.no_grad():
        backbone = backbone_from_config(transformers.Phi3Config(**settings))
        for parameter in backbone.model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3)
    return backbone


def tokens(rows: int, count: int) -> Tensor:
    return torch.randint(3, VOCABULARY, (rows, count), generator=torch.Generator().manual_seed(count))


def states(tuned: Tuned, ids: Tensor, mask: Tensor | None = None) -> Tensor:
    with torch.no_grad():
        hidden: Tensor = tuned({"input_ids": ids, "attention_mask": torch.ones_like(ids) if mask is None else mask})
    return hidden


@every_method
def test_up_to_the_bound_it_is_a_decoder_like_the_others(method: dict[str, Any]) -> None:
    backbone = phi3()
    assert backbone.max_tokens == BOUND
    tuned = method_from_dict(method).apply(backbone, seed=0)
    ids = tokens(2, 8)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    whole = BOUND + 1 - ids.shape[1]  # the last token is written and not read
    written = tuned.generate(batch, whole)
    assert torch.equal(written, tuned.generate(batch, whole, use_cache=False))
    first = states(tuned, ids[:1])
    longer = torch.cat([ids[:1], tokens(1, BOUND - 8)], dim=1)
    torch.testing.assert_close(states(tuned, longer)[:, :8], first)
    padded, mask = torch.nn.functional.pad(ids[:1], (0, BOUND - 8)), torch.ones_like(longer)
    mask[:, 8:] = 0
    beside = states(tuned, torch.cat([padded, longer]), torch.cat([mask, torch.ones_like(mask)]))
    torch.testing.assert_close(beside[:1, :8], first)


def test_what_is_longer_is_refused_and_a_note_says_why() -> None:
    backbone = phi3()
    (note,) = backbone.notes
    assert "up to 14 tokens, those that are written among them, and not up to the 64 of its configuration" in note
    tuned = method_from_dict({"name": "lora"}).apply(backbone, seed=0)
    states(tuned, tokens(1, BOUND))
    with pytest.raises(SpecError, match=r"has 15 tokens, phi3 takes at most 14: tokenise with a smaller max_length"):
        states(tuned, tokens(1, BOUND + 1))
    with pytest.raises(SpecError, match=r"has 15 tokens, phi3 takes at most 14: 7 of these are written"):
        tuned.generate({"input_ids": tokens(1, 8)}, 8)


def test_prompts_take_some_of_the_bound() -> None:
    tuned = method_from_dict({"name": "prompt", "num_prompts": 4}).apply(phi3(), seed=0)
    states(tuned, tokens(1, BOUND - 4))
    with pytest.raises(SpecError, match="has 11 tokens beside 4 prompts, phi3 takes at most 14"):
        states(tuned, tokens(1, BOUND - 3))


def test_other_decoders_that_have_it_are_bounded_too() -> None:
    with seeded(0, torch.device("cpu")):
        backbone = backbone_from_config(transformers.LlamaConfig(**SETTINGS, rope_parameters=rope(8)))
    assert backbone.max_tokens == BOUND
    assert phi3(rope_parameters=None).max_tokens is None


@pytest.mark.parametrize("kind", ["granite", "modernbert"])
def test_angles_that_change_at_any_length_are_refused_whatever_the_architecture(kind: str) -> None:
    dynamic = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    given = {"full_attention": dynamic, "sliding_attention": dynamic} if kind == "modernbert" else dynamic
    config = transformers.AutoConfig.for_model(kind, rope_parameters=given)
    with pytest.raises(
        UnsupportedBackboneError, match=rf"{kind} model whose rotary angles change with the longest row"
    ):
        backbone_from_config(config)


@pytest.mark.parametrize(("partial", "angles", "factor"), [(1.0, 8, 2), (1.0, 8, 4), (0.75, 6, 2), (0.75, 6, 8)])
def test_a_ladder_beside_it_learns(partial: float, angles: int, factor: int) -> None:
    backbone = phi3(rope_parameters=rope(angles, partial_rotary_factor=partial))
    tuned = method_from_dict({"name": "ladder", "reduction_factor": factor}).apply(backbone, seed=0)
    side = tuned.route.side.config.rope_parameters  # type: ignore[union-attr]  # a ladder's route has one
    if partial == 1.0:  # a narrower head's angles span the same range
        assert side["short_factor"] == [1.0 + place for place in range(0, 8, factor)]
    tuned.train()
    tuned({"input_ids": tokens(2, 6)}).square().mean().backward()
    assert any(
        parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in tuned.trainable().values()
    )
