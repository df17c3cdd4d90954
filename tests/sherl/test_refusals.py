"""Architectures that cannot be taken as they come: why, and what to do instead; what is advised works."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from sherl.backbones import load_backbone
from sherl.backbones.loading import backbone_from_config
from sherl.errors import UnsupportedBackboneError
from sherl.methods.base import seeded
from tests.sherl.tiny import tiny_config

IMAGES = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16,
    "patch_size": 4,
}  # fmt: skip
TEXTS = {"gemma3": "gemma3_text", "llava": "llama"}


def with_images(kind: str, *, tied: bool) -> Any:
    """A model that reads texts and images."""
    text = tiny_config(TEXTS[kind])
    text.tie_word_embeddings = tied
    images = transformers.SiglipVisionConfig(**IMAGES, vision_use_head=False)
    more = {"mm_tokens_per_image": 4} if kind == "gemma3" else {}
    config = transformers.AutoConfig.for_model(
        kind, text_config=text.to_dict(), vision_config=images.to_dict(), tie_word_embeddings=tied, **more
    )
    with seeded(0, torch.device("cpu")):
        return transformers.AutoModelForImageTextToText.from_config(config).eval()


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("kind", TEXTS)
def test_the_text_model_of_one_with_images_is_had_as_the_message_says(kind: str, tied: bool, tmp_path: Path) -> None:
    whole = with_images(kind, tied=tied)
    whole.save_pretrained(tmp_path / "whole")
    with pytest.raises(UnsupportedBackboneError, match=rf"'{kind}' model.*text model is a '{TEXTS[kind]}'") as refusal:
        load_backbone(str(tmp_path / "whole"))
    recipe = str(refusal.value).partition("give that folder: ")[2]
    assert "transformers.AutoTokenizer" in recipe
    lines = [line for line in recipe.split("; ") if "AutoTokenizer" not in line]  # there is none here
    exec("\n".join(lines), {"transformers": transformers, "folder": tmp_path / "text"})
    text = load_backbone(str(tmp_path / "text"))
    assert text.family == TEXTS[kind]
    batch = {"input_ids": torch.randint(5, 30, (2, 7)), "attention_mask": torch.ones(2, 7, dtype=torch.int64)}
    with torch.no_grad():
        torch.testing.assert_close(text.vocabulary_logits(text.encode(batch)), whole(**batch).logits)


def test_the_text_encoder_of_siglip_2_is_had_as_the_message_says(tmp_path: Path) -> None:
    images = {key: value for key, value in IMAGES.items() if key != "image_size"}
    text = tiny_config("siglip2_text_model").to_dict()
    whole = transformers.Siglip2Model(transformers.Siglip2Config(text_config=text, vision_config=images)).eval()
    whole.save_pretrained(tmp_path / "whole")
    with pytest.raises(
        UnsupportedBackboneError, match=r"siglip2.*any form.*whose model_type is siglip.*Siglip2TextModel"
    ):
        load_backbone(str(tmp_path / "whole"))
    transformers.Siglip2TextModel.from_pretrained(tmp_path / "whole").save_pretrained(tmp_path / "text")
    ids = torch.randint(4, 30, (2, 6))
    alone = load_backbone(str(tmp_path / "text"))
    assert alone.family == "siglip2_text_model"
    with torch.no_grad():
        pooled = alone.pool(alone.encode({"input_ids": ids}), torch.ones_like(ids))
        torch.testing.assert_close(pooled, whole.text_model(input_ids=ids).pooler_output)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("siglip2_vision_model", r"cannot be tuned: it reads patches of images of any form.*siglip2-base-patch16-224"),
        (
            "albert",
            r"1 at 'encoder.albert_layer_groups'.*: its 12 layers are blocks that run again and again.*take bert",
        ),
        ("mobilenet_v1", r"feature map \[1, 1024, 7, 7\].*A ConvolutionalFamily says.*\(stem\).*\(widths\)"),
        ("bit", r"feature map \[1, 2048, 7, 7\].*A ConvolutionalFamily says"),
        ("levit", r"'levit' model, which sherl has no row for"),
    ],
)
def test_the_reason_is_the_architectures_own(kind: str, message: str) -> None:
    with pytest.raises(UnsupportedBackboneError, match=message):
        backbone_from_config(transformers.AutoConfig.for_model(kind))


def test_two_blocks_that_run_again_are_no_twelve() -> None:
    with pytest.raises(
        UnsupportedBackboneError, match=r"has 2, and the configuration says 12: its 12 layers are blocks that"
    ):
        backbone_from_config(transformers.AutoConfig.for_model("albert", num_hidden_groups=2))
