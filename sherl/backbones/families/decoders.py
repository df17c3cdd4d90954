"""The families of the decoder kind."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sherl.backbones.families.early import Early, alone
from sherl.backbones.families.rows import FAMILIES, DecoderFamily
from sherl.insertion import other_forward


def _add(family: DecoderFamily) -> DecoderFamily:
    FAMILIES.register(family.name)(family)
    return family


def _opt_hidden(model: Any, inputs: dict[str, Any]) -> Tensor:
    # Where word embeddings are narrower than the blocks (opt-350m), the decoder ends in a projection to their width: it
    # is part of the head here, as methods and pooling work on the blocks' width.
    decoder = model.get_decoder()
    if decoder.project_out is None:
        hidden: Tensor = decoder(**inputs).last_hidden_state
        return hidden
    with other_forward(decoder.project_out, lambda states: states):
        wide: Tensor = decoder(**inputs).last_hidden_state
        return wide


def _opt_logits(model: Any, hidden: Tensor) -> Tensor:
    project = model.get_decoder().project_out
    logits: Tensor = model.lm_head(hidden if project is None else project(hidden))
    return logits


def _capped_logits(model: Any, hidden: Tensor) -> Tensor:
    logits: Tensor = model.lm_head(hidden)
    cap = model.config.final_logit_softcapping
    return logits if cap is None else torch.tanh(logits / cap) * cap


GPT2 = _add(
    DecoderFamily(
        name="gpt2",
        blocks="transformer.h",
        lora_targets=("attn.c_attn",),
        attention_outputs=("attn.c_proj",),
        feed_forward_output="mlp.c_proj",
        final_norm="transformer.ln_f",
        early=Early(output=alone, front=("transformer.wte", "transformer.wpe")),
        positions="from_padding",
    )
)
OPT = _add(
    DecoderFamily(
        name="opt",
        blocks="model.decoder.layers",
        lora_targets=("self_attn.q_proj", "self_attn.v_proj"),
        attention_outputs=("self_attn.out_proj",),
        feed_forward_output="fc2",
        final_norm="model.decoder.final_layer_norm",
        early=Early(
            output=alone,
            front=("model.decoder.embed_tokens", "model.decoder.embed_positions", "model.decoder.project_in"),
        ),
        positions="from_padding",
        hidden=_opt_hidden,
        logits=_opt_logits,
    )
)
LLAMA = _add(
    DecoderFamily(
        name="llama",
        blocks="model.layers",
        lora_targets=("self_attn.q_proj", "self_attn.v_proj"),
        attention_outputs=("self_attn.o_proj",),
        feed_forward_output="mlp.down_proj",
        final_norm="model.norm",
        early=Early(output=alone, front=("model.embed_tokens",)),
        positions="rotary",
    )
)
MISTRAL = _add(replace(LLAMA, name="mistral", windows="all"))
QWEN2 = _add(replace(LLAMA, name="qwen2", windows="by_type"))
QWEN3 = _add(replace(LLAMA, name="qwen3", windows="by_type"))
SMOLLM3 = _add(replace(LLAMA, name="smollm3", windows="by_type"))
# Gemma 2 caps its attention scores, which no fused kernel does
GEMMA2 = _add(replace(LLAMA, name="gemma2", windows="by_type", attention="eager", logits=_capped_logits))
GEMMA3_TEXT = _add(replace(LLAMA, name="gemma3_text", windows="by_type", logits=_capped_logits))
PHI = _add(
    replace(
        LLAMA,
        name="phi",
        attention_outputs=("self_attn.dense",),
        feed_forward_output="mlp.fc2",
        final_norm="model.final_layernorm",
    )
)
PHI3 = _add(replace(LLAMA, name="phi3", windows="all", lora_targets=("self_attn.qkv_proj",)))
