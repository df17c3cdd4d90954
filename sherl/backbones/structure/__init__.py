"""An architecture without a row, tried by structure: the longest list of alike blocks, read as an encoder of text, a decoder, an
encoder-decoder or a transformer over an image's patches.

What is guessed is checked twice. :func:`row_by_structure` looks at the modules of a model without values. Once there are
weights, :func:`check_found` runs small batches through the model: every block must run once, in order, on hidden states
[batch, tokens, width], and what else the kind promises must hold. What fails is refused, with what was found and what a row
would have to say.
"""

from __future__ import annotations

from typing import Any

import torch
import transformers
from transformers.models.auto import modeling_auto

from sherl.backbones.backbone import Backbone
from sherl.backbones.families import Family
from sherl.backbones.structure.blocks import Tried
from sherl.backbones.structure.decoders import check_decoder, decoder_row
from sherl.backbones.structure.encoder_decoders import check_encoder_decoder, encoder_decoder_row
from sherl.backbones.structure.encoders import check_encoder, encoder_row
from sherl.backbones.structure.running import Running
from sherl.backbones.structure.vision import check_vision, vision_row

_CHECKS = {
    "encoder": check_encoder,
    "decoder": check_decoder,
    "encoder-decoder": check_encoder_decoder,
    "vision": check_vision,
}


_found: dict[str, Family] = {}
"""Rows by their whole configuration: a prediction asks for a model's row once for each price."""


def row_by_structure(config: Any, source: str) -> Family:
    """A row for a model that sherl does not know; its ``found`` says what was found.

    Raises:
        UnsupportedBackboneError: the model is of no kind that is tried, or has no list of alike blocks.
    """
    key = config.to_json_string(use_diff=False)
    if key not in _found:
        _found[key] = _row_of(config, source)
    return _found[key]


def _row_of(config: Any, source: str) -> Family:
    kind = str(getattr(config, "model_type", "")) or "nameless"
    tried = Tried(kind, source)
    if (attention := getattr(config, "attention_type", None)) not in (None, "original_full"):
        raise tried.refused(
            f"its attention ({attention!r}) changes for good when it meets a short batch: set attention_type='original_full' in "
            "its configuration"
        )
    parts = [name for name in getattr(config, "sub_configs", None) or {} if getattr(config, name, None) is not None]
    if parts and getattr(config, "hidden_size", None) is None:
        raise tried.refused(f"it is made of several models ({', '.join(parts)}): save the one to be tuned by itself")
    if getattr(config, "is_encoder_decoder", False):
        return encoder_decoder_row(tried.made(transformers.AutoModelForSeq2SeqLM, config), tried)
    masked = kind in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    if kind in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not masked:
        return decoder_row(tried.made(transformers.AutoModelForCausalLM, config), tried)
    if getattr(config, "is_decoder", False):
        raise tried.refused("its configuration sets it up as a decoder (is_decoder)")
    model = tried.made(transformers.AutoModel, config)
    reads = getattr(model, "main_input_name", None)
    if reads == "input_ids":
        return encoder_row(model, tried)
    if reads == "pixel_values":
        return vision_row(model, tried)
    raise tried.refused(f"it reads {reads!r}, neither input_ids nor pixel_values")


def check_found(backbone: Backbone, source: str) -> None:
    """Run small batches through a model with weights whose row was found by structure.

    Raises:
        UnsupportedBackboneError: it is not what it was taken for; the message says in what.
    """
    running = Running(backbone, Tried(backbone.family, source))
    before = _settings_of(backbone)
    with torch.no_grad():
        _CHECKS[backbone.layout.kind](running)
    if changed := sorted(name for name, value in _settings_of(backbone).items() if before.get(name) != value):
        raise running.refused(f"it changes itself while it runs ({', '.join(changed[:3])})")


def _settings_of(backbone: Backbone) -> dict[str, Any]:
    """Numbers, words and switches of a model's modules."""
    return {
        f"{path}.{name}": value
        for path, module in backbone.model.named_modules()
        for name, value in vars(module).items()
        if isinstance(value, bool | int | float | str)
    }
