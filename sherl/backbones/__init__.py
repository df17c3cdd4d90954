"""Pretrained models as they are: families are rows, kinds are classes."""

from __future__ import annotations

from sherl.backbones.backbone import Backbone, Batch, EncoderBackbone
from sherl.backbones.families import FAMILIES, Family
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
    "Backbone",
    "Batch",
    "EncoderBackbone",
    "Family",
    "backbone_from_config",
    "load_backbone",
    "load_config",
    "load_tokenizer",
    "resolve_source",
]
