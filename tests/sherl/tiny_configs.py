"""Configurations of tiny models, one for each family."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import transformers

VOCABULARY = 40
PAD = 1
WIDTH = 16
BINS, FRAMES = 6, 16

_BERT_LIKE = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 40,
    "type_vocab_size": 2,
    "pad_token_id": PAD,
    "hidden_dropout_prob": 0.2,
    "attention_probs_dropout_prob": 0.2,
    # the default range leaves a tiny model nearly linear: differences would drown in rounding
    "initializer_range": 0.3,
}


def _bert_like(config: type) -> Callable[[int], Any]:
    return lambda depth: config(**_BERT_LIKE, num_hidden_layers=depth)


def _distilbert(depth: int) -> Any:
    return transformers.DistilBertConfig(
        vocab_size=VOCABULARY, dim=WIDTH, n_heads=2, n_layers=depth, hidden_dim=24, max_position_embeddings=40,
        pad_token_id=PAD, dropout=0.2, attention_dropout=0.2, initializer_range=0.3,
    )  # fmt: skip


def _electra(depth: int) -> Any:
    return transformers.ElectraConfig(**_BERT_LIKE, embedding_size=12, num_hidden_layers=depth)


def _deberta(depth: int) -> Any:
    # as the published v3 models are set up: log buckets, shared keys, normalised relative embeddings, a convolution
    return transformers.DebertaV2Config(
        **{**_BERT_LIKE, "type_vocab_size": 0}, num_hidden_layers=depth, relative_attention=True, position_buckets=8,
        max_relative_positions=-1, norm_rel_ebd="layer_norm", share_att_key=True, pos_att_type="p2c|c2p",
        position_biased_input=False, conv_kernel_size=3,
    )  # fmt: skip


def _modernbert(depth: int) -> Any:
    # blocks 1, 2, 4, ... see a window of 3 tokens to each side
    return transformers.ModernBertConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=24, num_hidden_layers=depth,
        num_attention_heads=2, local_attention=6, max_position_embeddings=40, pad_token_id=PAD, cls_token_id=0,
        sep_token_id=2, bos_token_id=0, eos_token_id=2, attention_dropout=0.2, mlp_dropout=0.2,
        embedding_dropout=0.2, initializer_range=0.3,
    )  # fmt: skip


def _t5_like(config: type, **settings: Any) -> Callable[[int], Any]:
    return lambda depth: config(
        vocab_size=VOCABULARY, d_model=WIDTH, d_kv=8, d_ff=24, num_layers=depth, num_decoder_layers=depth, num_heads=2,
        relative_attention_num_buckets=8, relative_attention_max_distance=12, dropout_rate=0.2, initializer_factor=1.0,
        pad_token_id=PAD, eos_token_id=2, decoder_start_token_id=PAD, **settings,
    )  # fmt: skip


def _bart_like(config: type) -> Callable[[int], Any]:
    return lambda depth: config(
        vocab_size=VOCABULARY, d_model=WIDTH, encoder_layers=depth, decoder_layers=depth, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24, max_position_embeddings=40, dropout=0.2,
        attention_dropout=0.2, init_std=0.3, pad_token_id=PAD, bos_token_id=0, eos_token_id=2, decoder_start_token_id=2,
        forced_eos_token_id=None,
    )  # fmt: skip


def _whisper(depth: int) -> Any:
    return transformers.WhisperConfig(
        vocab_size=VOCABULARY, num_mel_bins=BINS, d_model=WIDTH, encoder_layers=depth, decoder_layers=depth,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24, dropout=0.2,
        attention_dropout=0.2, max_source_positions=FRAMES // 2, max_target_positions=40, init_std=0.3, pad_token_id=PAD,
        bos_token_id=0, eos_token_id=2, decoder_start_token_id=2, suppress_tokens=None, begin_suppress_tokens=None,
    )  # fmt: skip


def _gpt2(depth: int) -> Any:
    return transformers.GPT2Config(
        vocab_size=VOCABULARY, n_positions=40, n_embd=WIDTH, n_layer=depth, n_head=2, n_inner=24, resid_pdrop=0.2,
        embd_pdrop=0.2, attn_pdrop=0.2, initializer_range=0.3, pad_token_id=PAD, bos_token_id=0, eos_token_id=2,
    )  # fmt: skip


def _opt(depth: int, **settings: Any) -> Any:
    return transformers.OPTConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=depth, ffn_dim=24, num_attention_heads=2,
        max_position_embeddings=40, dropout=0.2, attention_dropout=0.2, init_std=0.3, pad_token_id=PAD, bos_token_id=0,
        eos_token_id=2, **{"word_embed_proj_dim": WIDTH, **settings},
    )  # fmt: skip


def _llama_like(config: type, **settings: Any) -> Callable[[int], Any]:
    # two query heads share one pair of keys and values
    usual = {
        "vocab_size": VOCABULARY, "hidden_size": WIDTH, "intermediate_size": 24, "num_attention_heads": 2,
        "num_key_value_heads": 1, "max_position_embeddings": 40, "attention_dropout": 0.2, "initializer_range": 0.3,
        "pad_token_id": PAD, "bos_token_id": 0, "eos_token_id": 2,
    }  # fmt: skip
    return lambda depth: config(**usual, num_hidden_layers=depth, **settings)


def _by_type(config: type, **settings: Any) -> Callable[[int], Any]:
    # of three blocks the middle one sees everything, the others three tokens back
    kinds = ("sliding_attention", "full_attention", "sliding_attention")
    return lambda depth: _llama_like(
        config, sliding_window=4, layer_types=[kinds[layer % 3] for layer in range(depth)], **settings
    )(depth)


OPT_350M = lambda depth: _opt(depth, word_embed_proj_dim=12, do_layer_norm_before=False)  # noqa: E731
"""Word embeddings narrower than the blocks, norms behind the parts and none at the end, as in opt-350m."""


_PATCHES = {
    "hidden_size": WIDTH,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "image_size": 8,
    "patch_size": 2,
    "initializer_range": 0.3,
}
_DROPOUTS = {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.2}


def _vit_like(config: type, **settings: Any) -> Callable[[int], Any]:
    return lambda depth: config(**{**_PATCHES, **settings}, num_hidden_layers=depth)


def _clip_text_like(config: type) -> Callable[[int], Any]:
    return lambda depth: config(
        vocab_size=VOCABULARY, hidden_size=WIDTH, num_attention_heads=2, intermediate_size=24, num_hidden_layers=depth,
        max_position_embeddings=40, attention_dropout=0.2, initializer_range=0.3, initializer_factor=2.0,
        pad_token_id=PAD, bos_token_id=0, eos_token_id=3, projection_size=WIDTH,
    )  # fmt: skip


def _joint(config: type, **settings: Any) -> Callable[[int], Any]:
    return lambda depth: config(**{**_BERT_LIKE, **settings}, num_hidden_layers=depth)


def _lxmert(depth: int) -> Any:
    # each of its blocks has three parts: of larger weights the first token's own identity would be lost in them
    return transformers.LxmertConfig(
        **{**_BERT_LIKE, "initializer_range": 0.15}, x_layers=depth, l_layers=1, r_layers=1, visual_feat_dim=12
    )


def _swin(depth: int) -> Any:
    return transformers.SwinConfig(
        image_size=16, patch_size=2, embed_dim=8, depths=[1, depth - 1], num_heads=[1, 2], window_size=2,
        drop_path_rate=0.0, initializer_range=0.3, **_DROPOUTS,
    )  # fmt: skip


def _swinv2(depth: int) -> Any:
    return transformers.Swinv2Config(
        image_size=16, patch_size=2, embed_dim=8, depths=[1, depth - 1], num_heads=[1, 2], window_size=2,
        drop_path_rate=0.0, initializer_range=0.3, **_DROPOUTS,
    )  # fmt: skip


def _stages(config: type, **settings: Any) -> Callable[[int], Any]:
    return lambda depth: config(**{"hidden_sizes": [8, 16, 16, 24][:depth], "depths": [2, 1, 1, 1][:depth], **settings})


def _convnext_like(config: type) -> Callable[[int], Any]:
    def made(depth: int) -> Any:
        sizes = {"num_stages": depth, "patch_size": 2, "initializer_range": 0.3}
        if config is transformers.ConvNextConfig:
            sizes["layer_scale_init_value"] = 0.5
        return _stages(config, **sizes)(depth)

    return made


def _mobilenet(depth: int) -> Any:
    del depth  # its blocks are always 16
    # through 16 blocks of random weights a rounding that crosses a ReLU's corner changes gradients by a per cent
    return transformers.MobileNetV2Config(depth_multiplier=0.25, initializer_range=0.3, hidden_act="silu")


def _efficientnet(depth: int) -> Any:
    return transformers.EfficientNetConfig(
        width_coefficient=0.25, depth_coefficient=1.0, depth_divisor=8, in_channels=[32, 32, 64, 64][:depth],
        out_channels=[32, 64, 64, 64][:depth], kernel_sizes=[3] * depth, strides=[1, 2, 1, 1][:depth],
        num_block_repeats=[1] * depth, expand_ratios=[1, 2, 2, 2][:depth], hidden_dim=320, initializer_range=0.3,
    )  # fmt: skip


CONFIGS: dict[str, Callable[[int], Any]] = {
    "bert": _bert_like(transformers.BertConfig),
    "roberta": _bert_like(transformers.RobertaConfig),
    "xlm-roberta": _bert_like(transformers.XLMRobertaConfig),
    "camembert": _bert_like(transformers.CamembertConfig),
    "distilbert": _distilbert,
    "electra": _electra,
    "mpnet": _bert_like(transformers.MPNetConfig),
    "deberta-v2": _deberta,
    "modernbert": _modernbert,
    "t5": _t5_like(transformers.T5Config),
    "mt5": _t5_like(transformers.MT5Config),
    "bart": _bart_like(transformers.BartConfig),
    "pegasus": _bart_like(transformers.PegasusConfig),
    "whisper": _whisper,
    "gpt2": _gpt2,
    "opt": _opt,
    "llama": _llama_like(transformers.LlamaConfig),
    "mistral": _llama_like(transformers.MistralConfig, sliding_window=4, head_dim=8),
    "qwen2": _by_type(transformers.Qwen2Config, use_sliding_window=True),
    "qwen3": _by_type(transformers.Qwen3Config, use_sliding_window=True, head_dim=8),
    "gemma2": _by_type(
        transformers.Gemma2Config,
        head_dim=8,
        query_pre_attn_scalar=8,
        attn_logit_softcapping=2.0,
        final_logit_softcapping=3.0,
    ),
    "gemma3_text": _by_type(transformers.Gemma3TextConfig, head_dim=8, query_pre_attn_scalar=8),
    "smollm3": _by_type(transformers.SmolLM3Config, use_sliding_window=True, no_rope_layers=[1, 0, 1, 1, 0, 1]),
    "phi": _llama_like(transformers.PhiConfig, resid_pdrop=0.2, embd_pdrop=0.2),
    "phi3": _llama_like(transformers.Phi3Config, sliding_window=4, resid_pdrop=0.2, embd_pdrop=0.2),
    "clip_text_model": _clip_text_like(transformers.CLIPTextConfig),
    "siglip_text_model": _clip_text_like(transformers.SiglipTextConfig),
    "siglip2_text_model": _clip_text_like(transformers.Siglip2TextConfig),
    "vit": _vit_like(transformers.ViTConfig, **_DROPOUTS),
    "deit": _vit_like(transformers.DeiTConfig, **_DROPOUTS),
    "dinov2": _vit_like(transformers.Dinov2Config, mlp_ratio=2, **_DROPOUTS),
    "clip_vision_model": _vit_like(transformers.CLIPVisionConfig, attention_dropout=0.2, initializer_factor=2.0),
    "siglip_vision_model": _vit_like(transformers.SiglipVisionConfig, attention_dropout=0.2),
    "swin": _swin,
    "swinv2": _swinv2,
    "vilt": _joint(transformers.ViltConfig, image_size=8, patch_size=2),
    "lxmert": _lxmert,
    "visual_bert": _joint(transformers.VisualBertConfig, visual_embedding_dim=12),
    "resnet": _stages(transformers.ResNetConfig, embedding_size=8),
    "regnet": _stages(transformers.RegNetConfig, embedding_size=16, hidden_sizes=[16, 16, 24], groups_width=4),
    "convnext": _convnext_like(transformers.ConvNextConfig),
    "convnextv2": _convnext_like(transformers.ConvNextV2Config),
    "mobilenet_v2": _mobilenet,
    "efficientnet": _efficientnet,
}

FLAN = _t5_like(transformers.T5Config, feed_forward_proj="gated-gelu", tie_word_embeddings=False)
"""T5 v1.1 and FLAN: a gated feed-forward part, and a head of its own; the ``model_type`` is t5."""
