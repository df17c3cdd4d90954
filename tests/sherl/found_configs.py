"""Tiny configurations of architectures without a row, which are found by structure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

from sherl.backbones import FAMILIES, Backbone, backbone_from_config, load_backbone
from sherl.evaluation import eval_step
from sherl.methods import method_from_dict
from sherl.methods.base import seeded
from sherl.model import TaskModel, build_model
from sherl.spec import TrainingConfig
from sherl.training import make_optimizer, train_step
from tests.sherl.tiny import CLASSIFICATION
from tests.sherl.tiny_configs import PAD, VOCABULARY

TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 40,
    "pad_token_id": PAD,
    "initializer_range": 0.3,
}
WRITING = {**TEXT, "bos_token_id": 0, "eos_token_id": 2}
_GROUPED = {**WRITING, "num_key_value_heads": 1}
_TYPES = ["sliding_attention", "full_attention", "sliding_attention"]
DECODERS: dict[str, dict[str, Any]] = {
    "gpt_neox": WRITING,  # one matrix for queries, keys and values
    "gpt_neo": {**WRITING, "attention_types": [[["global", "local", "global"], 1]], "num_layers": 3, "window_size": 4},
    "gptj": {**WRITING, "rotary_dim": 4},  # norms in front of both parts at once
    "gpt_bigcode": WRITING,  # one key and value for all heads, a table of positions
    "gemma": {**_GROUPED, "head_dim": 8},
    "olmo2": _GROUPED,  # norms behind the parts
    "granite": {**_GROUPED, "logits_scaling": 4.0, "residual_multiplier": 0.5},
    "cohere2": {**_GROUPED, "sliding_window": 4, "layer_types": _TYPES, "logit_scale": 0.3},
    "starcoder2": {**_GROUPED, "sliding_window": 4},
    "falcon": {**WRITING, "new_decoder_architecture": True, "num_kv_heads": 1, "alibi": False},
    "stablelm": _GROUPED,
}
_PATCHES = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "image_size": 16,
    "patch_size": 4,
    "initializer_range": 0.3,
}
VISION: dict[str, dict[str, Any]] = {
    "beit": {**_PATCHES, "use_relative_position_bias": True},
    "dinov2_with_registers": _PATCHES,
    "dinov3_vit": {**_PATCHES, "num_register_tokens": 2},  # rotary positions of patches
    "ijepa": _PATCHES,  # no class token
    "vit_msn": _PATCHES,
    "aimv2_vision_model": _PATCHES,
}


_STACKS = {
    "vocab_size": VOCABULARY,
    "d_model": 16,
    "encoder_layers": 3,
    "decoder_layers": 3,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "max_position_embeddings": 40,
    "init_std": 0.3,
    "pad_token_id": PAD,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
}
ENCODER_DECODERS: dict[str, dict[str, Any]] = {
    "mbart": _STACKS,  # norms behind both stacks
    "marian": _STACKS,  # a table of sinusoids, norms behind the parts, a bias of the head
    "m2m_100": _STACKS,  # positions are counted from the first token that is no padding
    "umt5": {  # a bias of relative positions in every block
        "vocab_size": VOCABULARY, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 3, "num_decoder_layers": 3,
        "num_heads": 2, "pad_token_id": PAD, "eos_token_id": 2, "decoder_start_token_id": PAD, "initializer_factor": 1.0,
    },
}  # fmt: skip


def assert_learns(backbone: Backbone, method: dict[str, Any], batch: dict[str, torch.Tensor]) -> TaskModel:
    """Twenty steps on one batch with two classes must lower its loss."""
    model = build_model(backbone, method_from_dict(method), CLASSIFICATION, seed=0)
    training = TrainingConfig(learning_rate=1e-2, batch_size=len(batch["labels"]))
    optimizer, scheduler = make_optimizer(model, training, total_steps=20)
    before = float(model.loss(eval_step(model, batch), batch["labels"]))
    for _ in range(20):
        train_step(model, batch, optimizer, scheduler, training)
    assert float(model.loss(eval_step(model, batch), batch["labels"])) < before
    return model


def assert_loads_the_same(backbone: Backbone, batch: dict[str, torch.Tensor], folder: Path) -> None:
    """Saved to a folder and loaded from there it is found again, and computes the same."""
    backbone.model.save_pretrained(folder)
    loaded = load_backbone(str(folder))
    assert loaded.notes == backbone.notes
    with torch.no_grad():
        torch.testing.assert_close(loaded.encode(batch), backbone.encode(batch))


def config_of(kind: str, settings: dict[str, Any]) -> Any:
    return transformers.AutoConfig.for_model(kind, **settings)


def found(kind: str, settings: dict[str, Any], *, dtype: torch.dtype = torch.float32) -> Backbone:
    """A backbone of this architecture with random weights, the same in every call."""
    assert kind not in FAMILIES
    with seeded(0, torch.device("cpu")):
        return backbone_from_config(config_of(kind, settings), dtype=dtype)
