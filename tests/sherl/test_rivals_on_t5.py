"""What the rivals train on T5-base, by its configuration alone, beside the shares that SHERL's table 1 gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import T5Config

from sherl.backbones import backbone_from_config
from sherl.errors import UnsupportedBackboneError
from sherl.methods import method_from_dict
from tests.sherl.texts import text_backbone, text_batch, text_model

# width 768, feed-forward 3072; 12 + 12 blocks, 12 + 24 attentions; each count is written out here
COUNTS: dict[str, tuple[dict[str, Any], int]] = {
    "full": ({"name": "full"}, 222_903_552),
    "adapter": ({"name": "adapter", "inner_width": 48}, 24 * (2 * 768 * 48 + 48 + 768)),
    "adapters behind attention": (
        {"name": "adapter", "inner_width": 48, "placement": "attention_and_feed_forward"},
        (24 + 36) * (2 * 768 * 48 + 48 + 768),
    ),
    "adapters behind self-attention": (
        {"name": "adapter", "inner_width": 48, "placement": "self_attention_and_feed_forward"},
        (24 + 24) * (2 * 768 * 48 + 48 + 768),
    ),
    "lora": ({"name": "lora", "rank": 32}, 36 * 2 * 32 * (768 + 768)),
    "prompt": ({"name": "prompt", "num_prompts": 100}, 100 * 768),
    "bitfit": (
        {"name": "bitfit", "add_missing": True},
        # four layers of 768 an attention, then 3072 and 768, and the norms in front: two in the encoder, three beyond
        12 * (4 * 768 + 3072 + 768 + 2 * 768) + 12 * (8 * 768 + 3072 + 768 + 3 * 768),
    ),
}


@pytest.mark.parametrize("case", list(COUNTS))
def test_trainable_parameters(case: str) -> None:
    settings, expected = COUNTS[case]
    with torch.device("meta"):
        backbone = backbone_from_config(T5Config(d_model=768, d_ff=3072, num_layers=12, num_heads=12))
        tuned = method_from_dict(settings).apply(backbone, seed=0)
    assert sum(parameter.numel() for parameter in tuned.trainable().values()) == expected


def test_added_biases_start_at_nothing_and_are_taken_off() -> None:
    batch = text_batch()
    untouched = text_backbone()
    batch = untouched.teaching(batch)
    with torch.no_grad():
        expected = untouched.encode(batch)
    model = text_model({"name": "bitfit", "add_missing": True})
    backbone = model.tuned.backbone
    keys = list(backbone.model.state_dict())
    with torch.no_grad():
        assert torch.equal(model.tuned(batch), expected)
        for bias in model.tuned.trainable().values():
            bias.add_(0.1)
        assert not torch.allclose(model.tuned(batch), expected, atol=1e-2)
    assert keys == list(untouched.model.state_dict())
    model.tuned.remove()
    with torch.no_grad():
        assert torch.equal(backbone.encode(batch), expected)


def test_without_added_ones_a_model_that_has_no_bias_is_refused() -> None:
    with pytest.raises(UnsupportedBackboneError, match=r"t5 model have none.*add_missing"):
        text_model("bitfit")


def test_prompts_reach_the_decoder_and_padding_does_not() -> None:
    from tests.sherl.tiny import wider

    for name in ("t5", "bart"):
        model = text_model({"name": "prompt", "num_prompts": 4}, name)
        batch = text_batch()
        padded = {**wider({k: v for k, v in batch.items() if k != "labels"}, 5), "labels": batch["labels"]}
        with torch.no_grad():
            plain = model(batch)
            torch.testing.assert_close(model(padded), plain, atol=1e-5, rtol=1e-5)
            model.tuned.trainable()["prompt.vectors"].add_(1.0)
            assert not torch.allclose(model(batch), plain, atol=1e-3)
