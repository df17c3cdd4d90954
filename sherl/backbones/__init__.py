"""Pretrained models as they are: families are rows, kinds are classes."""

from __future__ import annotations

from sherl.backbones.backbone import KINDS, Backbone, Batch
from sherl.backbones.cnn import ConvolutionalBackbone
from sherl.backbones.cross_modal import CrossModalBackbone
from sherl.backbones.decoder import DecoderBackbone
from sherl.backbones.encoder import EncoderBackbone
from sherl.backbones.encoder_decoder import EncoderDecoderBackbone
from sherl.backbones.families import (
    FAMILIES,
    ConvolutionalFamily,
    CrossModalFamily,
    DecoderFamily,
    EncoderDecoderFamily,
    EncoderFamily,
    Family,
    Stack,
    VisionFamily,
)
from sherl.backbones.light import Without, lighten
from sherl.backbones.loading import backbone_from_config, load_backbone, quiet_fakes, require_runs
from sherl.backbones.sources import (
    DEFAULT_BACKBONE,
    config_from_dict,
    load_config,
    load_tokenizer,
    resolve_source,
    tokenizer_in,
)
from sherl.backbones.vision import VisionBackbone
from sherl.backbones.weights import require_weights

__all__ = [
    "DEFAULT_BACKBONE",
    "FAMILIES",
    "KINDS",
    "Backbone",
    "Batch",
    "ConvolutionalBackbone",
    "ConvolutionalFamily",
    "CrossModalBackbone",
    "CrossModalFamily",
    "DecoderBackbone",
    "DecoderFamily",
    "EncoderBackbone",
    "EncoderDecoderBackbone",
    "EncoderDecoderFamily",
    "EncoderFamily",
    "Family",
    "Stack",
    "VisionBackbone",
    "VisionFamily",
    "Without",
    "backbone_from_config",
    "config_from_dict",
    "lighten",
    "load_backbone",
    "load_config",
    "load_tokenizer",
    "quiet_fakes",
    "require_runs",
    "require_weights",
    "resolve_source",
    "tokenizer_in",
]
