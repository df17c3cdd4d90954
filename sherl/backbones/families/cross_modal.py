"""The families of the cross-modal kind.

LXMERT's blocks are its cross-modal ones; the encoders of text and image before them are a frozen front (they train in full
fine-tuning and BitFit). Its hidden states are those of the text, which has read the image: what is tapped, fused and
replaced is the language stream.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sherl.backbones import masks
from sherl.backbones.families.early import Early, first_of_one
from sherl.backbones.families.rows import FAMILIES, CrossModalFamily
from sherl.errors import SpecError


def _add(family: CrossModalFamily) -> CrossModalFamily:
    FAMILIES.register(family.name)(family)
    return family


def _vilt_embeddings(model: Any, batch: dict[str, Tensor]) -> Tensor:
    # The model's own embedding draws the order of the patches by chance, and looks at values for their number. All
    # patches of all images in their order are what it makes, up to the order, of a pixel_mask of ones.
    embeddings = model.embeddings
    patches = embeddings.patch_embeddings(batch["pixel_values"])
    height, width = patches.shape[2:]
    side = model.config.image_size // model.config.patch_size
    table = embeddings.position_embeddings
    grid = table[:, 1:].transpose(1, 2).reshape(1, -1, side, side)
    grid = functional.interpolate(grid, size=(height, width), mode="bilinear", align_corners=True)
    positions = torch.cat([table[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)
    front = embeddings.cls_token.expand(len(patches), -1, -1)
    images: Tensor = embeddings.dropout(torch.cat([front, patches.flatten(2).transpose(1, 2)], dim=1) + positions)
    return images


def _vilt_regions(model: Any, batch: dict[str, Tensor]) -> int:
    size = model.config.patch_size
    height, width = batch["pixel_values"].shape[2:]
    patches = (height // size) * (width // size)
    most = getattr(model.config, "max_image_length", -1)
    if isinstance(most, int) and 0 <= most < patches:
        raise SpecError(
            f"Images of {height} x {width} pixels have {patches} patches, and the configuration's max_image_length is {most}: "
            "the model would draw some by chance. Give smaller images."
        )
    return 1 + int(patches)


def _vilt_hidden(model: Any, batch: dict[str, Tensor], mask: Tensor) -> Tensor:
    texts = batch["input_ids"]
    images = _vilt_embeddings(model, batch)
    kinds = model.embeddings.token_type_embeddings.weight
    text = model.embeddings.text_embeddings(input_ids=texts, token_type_ids=batch.get("token_type_ids"))
    joined = torch.cat([text + kinds[0], images + kinds[1]], dim=1)
    hidden: Tensor = model.layernorm(model.encoder(joined, attention_mask=mask, return_dict=True).last_hidden_state)
    return hidden


def _visual_bert_regions(model: Any, batch: dict[str, Tensor]) -> int:
    del model
    return int(batch["visual_embeds"].shape[1])


def _visual_bert_hidden(model: Any, batch: dict[str, Tensor], mask: Tensor) -> Tensor:
    if model.config.bypass_transformer:
        raise SpecError(
            "This VisualBERT's configuration has bypass_transformer: its regions pass the blocks by, and there is no joint "
            "stream of tokens. Set bypass_transformer to False."
        )
    embedded = model.embeddings(
        input_ids=batch["input_ids"],
        token_type_ids=batch.get("token_type_ids"),
        visual_embeds=batch["visual_embeds"],
        visual_token_type_ids=batch.get("visual_token_type_ids"),
    )
    hidden: Tensor = model.encoder(embedded, attention_mask=mask, return_dict=True).last_hidden_state
    return hidden


def _no_regions(model: Any, batch: dict[str, Tensor]) -> int:
    del model, batch
    return 0


def _lxmert_hidden(model: Any, batch: dict[str, Tensor], mask: Tensor) -> Tensor:
    # the language stream of the last cross-modal block; the pooler of the model's own forward is nobody's
    regions = batch.get("visual_attention_mask")
    image, texts = batch["visual_feats"], batch["input_ids"]
    kinds = batch.get("token_type_ids")
    if kinds is None:  # the embeddings have no default of their own
        kinds = torch.zeros_like(texts)
    _, languages, _ = model.encoder(
        model.embeddings(texts, kinds),
        mask,
        image,
        batch["visual_pos"].to(image.dtype),
        None if regions is None else masks.additive(regions.to(torch.bool), image.dtype),
    )
    hidden: Tensor = languages[0][-1]
    return hidden


VILT = _add(
    CrossModalFamily(
        name="vilt",
        blocks="encoder.layer",
        lora_targets=("attention.attention.query", "attention.attention.value"),
        attention_outputs=("attention.output.dense",),
        feed_forward_output="output.dense",
        final_norm="layernorm",
        early=Early(output=first_of_one),
        image="pixel_values",
        regions=_vilt_regions,
        hidden=_vilt_hidden,
        attention=None,
        pooler=True,
    )
)
VISUAL_BERT = _add(
    replace(
        VILT,
        name="visual_bert",
        lora_targets=("attention.self.query", "attention.self.value"),
        final_norm=None,
        image="visual_embeds",
        regions=_visual_bert_regions,
        hidden=_visual_bert_hidden,
    )
)
LXMERT = _add(
    CrossModalFamily(
        name="lxmert",
        blocks="encoder.x_layers",
        lora_targets=(
            "visual_attention.att.query",
            "visual_attention.att.value",
            "lang_self_att.self.query",
            "lang_self_att.self.value",
        ),
        attention_outputs=("visual_attention.output.dense", "lang_self_att.output.dense"),
        feed_forward_output="lang_output.dense",
        image="visual_feats",
        no_features="each of its blocks hands on two streams, text and image, and hidden states are the text's alone",
        needs=("visual_pos",),
        regions=_no_regions,
        hidden=_lxmert_hidden,
        attention=None,
        # a ladder climbs the language stream; the image beside it is encoded by a narrow front of the side network's own
        beside_blocks=("encoder.visn_fc", "encoder.r_layers"),
        side_settings={"l_layers": 0},
        no_prompts="its blocks get text and image as two streams, each with a mask of its own",
    )
)
