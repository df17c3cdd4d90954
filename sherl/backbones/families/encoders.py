"""The families of the encoder kind."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from sherl.backbones import masks, prompts
from sherl.backbones.families.early import Early, alone, before_attention, first_of_one
from sherl.backbones.families.rows import FAMILIES, EncoderFamily


def _deberta_hidden(model: Any, inputs: dict[str, Any]) -> Tensor:
    # The model's own forward asks its encoder for every hidden state and so keeps all of them alive.
    embedded = model.embeddings(
        input_ids=inputs["input_ids"], token_type_ids=inputs.get("token_type_ids"), mask=inputs["attention_mask"]
    )
    encoded = model.encoder(embedded, inputs["attention_mask"], output_hidden_states=False)
    hidden: Tensor = encoded.last_hidden_state
    return hidden


def _add(family: EncoderFamily) -> EncoderFamily:
    FAMILIES.register(family.name)(family)
    return family


BERT = _add(
    EncoderFamily(
        name="bert",
        blocks="encoder.layer",
        lora_targets=("attention.self.query", "attention.self.value"),
        attention_outputs=("attention.output.dense",),
        feed_forward_output="output.dense",
        masks=masks.for_scores,
        prompts=prompts.behind_mask,
        early=Early(output=alone, front=("embeddings",)),
        token_types=True,
    )
)
ELECTRA = _add(
    replace(BERT, name="electra", pooler=False, early=Early(output=alone, front=("embeddings", "embeddings_project")))
)
ROBERTA = _add(replace(BERT, name="roberta", token_types=False, positions="from_padding", position_offset=2))
XLM_ROBERTA = _add(replace(ROBERTA, name="xlm-roberta"))
CAMEMBERT = _add(replace(ROBERTA, name="camembert"))
DISTILBERT = _add(
    EncoderFamily(
        name="distilbert",
        blocks="transformer.layer",
        lora_targets=("attention.q_lin", "attention.v_lin"),
        attention_outputs=("attention.out_lin",),
        feed_forward_output="ffn.lin2",
        masks=masks.for_scores,
        prompts=prompts.behind_mask,
        early=Early(output=alone, front=("embeddings",)),
        pooler=False,
    )
)
MPNET = _add(
    EncoderFamily(
        name="mpnet",
        blocks="encoder.layer",
        lora_targets=("attention.attn.q", "attention.attn.v"),
        attention_outputs=("attention.attn.o",),
        feed_forward_output="output.dense",
        masks=masks.for_scores,
        prompts=prompts.behind_position_bias,
        early=Early(output=first_of_one, front=("embeddings",)),
        beside_blocks=("encoder.relative_attention_bias",),
        positions="from_padding",
        position_offset=2,
        attention="eager",
    )
)
DEBERTA_V2 = _add(
    EncoderFamily(
        name="deberta-v2",
        blocks="encoder.layer",
        lora_targets=("attention.self.query_proj", "attention.self.value_proj"),
        attention_outputs=("attention.output.dense",),
        feed_forward_output="output.dense",
        masks=masks.for_flags,
        prompts=prompts.behind_relative_positions,
        early=Early(output=before_attention, front=("embeddings", "encoder.conv")),
        beside_blocks=("encoder.rel_embeddings", "encoder.LayerNorm"),
        side_settings={"conv_kernel_size": 0},  # the convolution reads the embeddings, which a side network has not
        positions="relative",
        token_types=True,
        pooler=False,
        attention="eager",
        hidden=_deberta_hidden,
    )
)
MODERNBERT = _add(
    EncoderFamily(
        name="modernbert",
        blocks="layers",
        lora_targets=("attn.Wqkv",),
        attention_outputs=("attn.Wo",),
        feed_forward_output="mlp.Wo",
        final_norm="final_norm",
        masks=masks.for_windows,
        prompts=prompts.behind_rotary_positions,
        early=Early(output=alone, front=("embeddings",)),
        positions="rotary",
        pooler=False,
    )
)
CLIP_TEXT = _add(
    EncoderFamily(
        name="clip_text_model",
        blocks="encoder.layers",
        lora_targets=("self_attn.q_proj", "self_attn.v_proj"),
        attention_outputs=("self_attn.out_proj",),
        feed_forward_output="mlp.fc2",
        final_norm="final_layer_norm",
        masks=masks.for_causal,
        prompts=prompts.behind_causal_mask,
        early=Early(output=alone, front=("embeddings",)),
        causal=True,
        pooling="end",
        pooler=False,
        model_class="CLIPTextModel",
    )
)
# Its authors pad to 64 tokens without a mask and read the last position, whatever stands there. Without an attention_mask
# that is what happens here too; with one, the last token that is no padding is read. Both go through the pretrained head.
SIGLIP_TEXT = _add(
    replace(
        CLIP_TEXT,
        name="siglip_text_model",
        masks=masks.for_scores,
        prompts=prompts.behind_mask,
        causal=False,
        pooling="last",
        pooled_by="head",
        model_class="SiglipTextModel",
    )
)
SIGLIP2_TEXT = _add(replace(SIGLIP_TEXT, name="siglip2_text_model", model_class="Siglip2TextModel"))
