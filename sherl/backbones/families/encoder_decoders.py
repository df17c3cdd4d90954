"""The families of the encoder-decoder kind."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from sherl.backbones.families.early import Early, alone, with_position_bias
from sherl.backbones.families.rows import FAMILIES, EncoderDecoderFamily, Stack


def _add(family: EncoderDecoderFamily) -> EncoderDecoderFamily:
    FAMILIES.register(family.name)(family)
    return family


def _bart_front(stack: str) -> tuple[str, ...]:
    inside = ("embed_tokens", "embed_positions", "layernorm_embedding")
    return (*(f"model.{stack}.{name}" for name in inside), "model.shared")


def _t5_logits(model: Any, hidden: Tensor) -> Tensor:
    # T5 scales what its tied head sees; T5 v1.1 and FLAN, with a head of their own, do not
    scaled = hidden * model.config.d_model**-0.5 if model.config.scale_decoder_outputs else hidden
    logits: Tensor = model.lm_head(scaled)
    return logits


def _mt5_logits(model: Any, hidden: Tensor) -> Tensor:
    logits: Tensor = model.lm_head(hidden)
    return logits


def _biased_logits(model: Any, hidden: Tensor) -> Tensor:
    logits: Tensor = model.lm_head(hidden) + model.final_logits_bias
    return logits


def _projected_logits(model: Any, hidden: Tensor) -> Tensor:
    logits: Tensor = model.proj_out(hidden)
    return logits


_T5_EARLY = Early(output=with_position_bias, stays=("layer.0.SelfAttention.relative_attention_bias",))

T5 = _add(
    EncoderDecoderFamily(
        name="t5",
        encoder=Stack(
            blocks="encoder.block",
            lora_targets=("layer.0.SelfAttention.q", "layer.0.SelfAttention.v"),
            attention_outputs=("layer.0.SelfAttention.o",),
            feed_forward_output="layer.1.DenseReluDense.wo",
            final_norm="encoder.final_layer_norm",
            early=replace(_T5_EARLY, front=("encoder.embed_tokens", "shared")),
        ),
        decoder=Stack(
            blocks="decoder.block",
            lora_targets=(
                "layer.0.SelfAttention.q",
                "layer.0.SelfAttention.v",
                "layer.1.EncDecAttention.q",
                "layer.1.EncDecAttention.v",
            ),
            attention_outputs=("layer.0.SelfAttention.o", "layer.1.EncDecAttention.o"),
            feed_forward_output="layer.2.DenseReluDense.wo",
            final_norm="decoder.final_layer_norm",
            early=replace(_T5_EARLY, front=("decoder.embed_tokens", "shared")),
        ),
        logits=_t5_logits,
        untied_head=lambda config: not config.scale_decoder_outputs,
        positions="relative",
    )
)
MT5 = _add(replace(T5, name="mt5", logits=_mt5_logits, untied_head=lambda _config: True))
BART = _add(
    EncoderDecoderFamily(
        name="bart",
        encoder=Stack(
            blocks="model.encoder.layers",
            lora_targets=("self_attn.q_proj", "self_attn.v_proj"),
            attention_outputs=("self_attn.out_proj",),
            feed_forward_output="fc2",
            early=Early(output=alone, front=_bart_front("encoder")),
        ),
        decoder=Stack(
            blocks="model.decoder.layers",
            lora_targets=("self_attn.q_proj", "self_attn.v_proj", "encoder_attn.q_proj", "encoder_attn.v_proj"),
            attention_outputs=("self_attn.out_proj", "encoder_attn.out_proj"),
            feed_forward_output="fc2",
            early=Early(output=alone, front=_bart_front("decoder")),
        ),
        logits=_biased_logits,
    )
)
PEGASUS = _add(
    replace(
        BART,
        name="pegasus",
        fixed=("model.encoder.embed_positions.weight", "model.decoder.embed_positions.weight"),
        encoder=replace(BART.encoder, final_norm="model.encoder.layer_norm"),
        decoder=replace(BART.decoder, final_norm="model.decoder.layer_norm"),
    )
)
# Its encoder halves the number of frames in a convolution; what is no speech is silence, not padding: there is no mask.
WHISPER = _add(
    replace(
        PEGASUS,
        name="whisper",
        # its convolutions turn what they give around: they run, and are small
        encoder=replace(PEGASUS.encoder, early=Early(output=alone)),
        fixed=("model.encoder.embed_positions.weight",),
        position_table="max_target_positions",
        logits=_projected_logits,
        frames=lambda config: 2 * int(config.max_source_positions),
    )
)
