"""Data for fine-tuning: sources, checks, splits by text, and tokenised parts that give length-bucketed batches."""

from __future__ import annotations

from sherl.data.encoded import EncodedPart
from sherl.data.glue import GLUE
from sherl.data.image_part import ImagePart
from sherl.data.image_settings import ImageSettings, image_settings
from sherl.data.images import prepare_images
from sherl.data.packaged import PACKAGED
from sherl.data.part import Batch, Part
from sherl.data.preparation import prepare, prepare_with
from sherl.data.prepared import PreparedData
from sherl.data.settings import DataSpec
from sherl.data.sources import DEFAULT_DATA

__all__ = [
    "DEFAULT_DATA",
    "GLUE",
    "PACKAGED",
    "Batch",
    "DataSpec",
    "EncodedPart",
    "ImagePart",
    "ImageSettings",
    "Part",
    "PreparedData",
    "image_settings",
    "prepare",
    "prepare_images",
    "prepare_with",
]
