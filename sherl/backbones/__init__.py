"""Pretrained models as they are: families are rows, kinds are classes."""

from __future__ import annotations

from sherl.backbones.backbone import KINDS, Backbone, Batch
from sherl.backbones.decoder import DecoderBackbone
from sherl.backbones.encoder import EncoderBackbone
from sherl.backbones.encoder_decoder import EncoderDecoderBackbone
from sherl.backbones.families import FAMILIES, DecoderFamily, EncoderDecoderFamily, EncoderFamily, Family, Stack
from sherl.backbones.loading import (
    DEFAULT_BACKBONE,
    backbone_from_config,
    load_backbone,
    load_config,
    load_tokenizer,
    resolve_source,
)

__all__ = [
    "DEFAULT_BACKBONE",
    "FAMILIES",
    "KINDS",
    "Backbone",
    "Batch",
    "DecoderBackbone",
    "DecoderFamily",
    "EncoderBackbone",
    "EncoderDecoderBackbone",
    "EncoderDecoderFamily",
    "EncoderFamily",
    "Family",
    "Stack",
    "backbone_from_config",
    "load_backbone",
    "load_config",
    "load_tokenizer",
    "resolve_source",
]
