"""The families of the vision kind.

Pooling is what transformers' own image classifiers do: the class token of ViT, DeiT, DINOv2 and CLIP; the mean over all
positions of SigLIP (its attention pooling is a head of its pre-training, and left out) and Swin.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sherl.backbones.families.early import Early, alone, before_attention, first_of_one
from sherl.backbones.families.rows import FAMILIES, VisionFamily


def _add(family: VisionFamily) -> VisionFamily:
    FAMILIES.register(family.name)(family)
    return family


def _swin_widths(model: Any) -> list[int]:
    config = model.config
    return [int(config.embed_dim) * 2**stage for stage, depth in enumerate(config.depths) for _ in range(depth)]


VIT = _add(
    VisionFamily(
        name="vit",
        blocks="layers",
        lora_targets=("attention.q_proj", "attention.v_proj"),
        attention_outputs=("attention.o_proj",),
        feed_forward_output="mlp.fc2",
        final_norm="layernorm",
        early=Early(output=alone, front=("embeddings",)),
        pooling="class",
        front=1,
        sizes="argument",
        pooler=True,
    )
)
DEIT = _add(replace(VIT, name="deit", front=2))
DINOV2 = _add(
    replace(
        VIT, name="dinov2", blocks="encoder.layer", feed_forward_output="mlp.fc2|down_proj", sizes="any", pooler=False
    )
)
CLIP_VISION = _add(
    VisionFamily(
        name="clip_vision_model",
        blocks="encoder.layers",
        lora_targets=("self_attn.q_proj", "self_attn.v_proj"),
        attention_outputs=("self_attn.out_proj",),
        feed_forward_output="mlp.fc2",
        final_norm="post_layernorm",
        early=Early(output=alone, front=("embeddings", "pre_layrnorm")),
        norm_in_model=False,
        pooling="class",
        front=1,
        sizes="argument",
        model_class="CLIPVisionModel",
    )
)
SIGLIP_VISION = _add(
    replace(
        CLIP_VISION,
        name="siglip_vision_model",
        norm_in_model=True,
        pooling="mean",
        front=0,
        model_class="SiglipVisionModel",
        settings={"vision_use_head": False},
    )
)
SWIN = _add(
    replace(
        VIT,
        name="swin",
        blocks="encoder.layers.*.blocks",
        early=Early(output=before_attention),  # its embeddings also say how many patches there are
        beside_blocks=("encoder.layers.*.downsample",),
        pooling="mean",
        front=0,
        widths=_swin_widths,
        no_prompts="they look at windows of a square grid of patches, in which prompts would have no place",
    )
)
SWIN_V2 = _add(
    replace(
        SWIN,
        name="swinv2",
        lora_targets=("attention.self.query", "attention.self.value"),
        attention_outputs=("attention.output.dense",),
        feed_forward_output="output.dense",
        early=Early(output=first_of_one),
        attention=None,
        made_of_values=True,
    )
)
