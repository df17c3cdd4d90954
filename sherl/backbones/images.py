"""What the kinds that read images share: the check of a batch's pixels, and feature maps of other sizes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sherl.backbones.backbone import Batch
from sherl.errors import SpecError
from sherl.forms import TensorForm
from sherl.shapes import Float

USUAL_SIZE = 224
"""Pixels a side of images for a model whose configuration names no size (convolutional networks)."""


def pixels_of(
    batch: Batch, config: Any, dtype: torch.dtype, *, smallest: int = 1
) -> Float[Tensor, "batch channels height width"]:
    """The images of a batch in the precision of the weights.

    Raises:
        SpecError: there are none, they have other channels than the model, or they are smaller than ``smallest``.
    """
    if "pixel_values" not in batch:
        raise SpecError(
            "The batch has no images: this model reads 'pixel_values', float32 [batch, channels, height, width]; "
            f"given were {', '.join(sorted(batch)) or 'no tensors'}."
        )
    pixels = batch["pixel_values"]
    channels = int(getattr(config, "num_channels", 3))
    if pixels.ndim != 4 or pixels.shape[1] != channels:
        raise SpecError(
            f"pixel_values are {list(pixels.shape)}: [batch, {channels}, height, width] was expected "
            f"({channels} channels, as the configuration says)."
        )
    if min(pixels.shape[2:]) < smallest:
        raise SpecError(
            f"The images are {pixels.shape[2]} x {pixels.shape[3]} pixels: give at least {smallest} x {smallest}."
        )
    return pixels.to(dtype)


def pixels_form(config: Any, rows: int, image_size: int | None) -> dict[str, TensorForm]:
    """The form of ``pixel_values``; image_size: pixels a side, None for the configuration's own."""
    own = getattr(config, "image_size", USUAL_SIZE) if image_size is None else image_size
    channels = int(getattr(config, "num_channels", 3))
    return {"pixel_values": TensorForm((rows, channels, *side(own)), "float32")}


def side(size: int | tuple[int, int] | list[int]) -> tuple[int, int]:
    """Height and width of what a configuration gives as one number or as two."""
    if isinstance(size, int):
        return size, size
    return int(size[0]), int(size[1])


def pooled_to(
    maps: Float[Tensor, "batch channels height width"], size: tuple[int, int]
) -> Float[Tensor, "batch channels new_height new_width"]:
    """Feature maps brought to another size: the maximum plus the average over each cell, as in SHERL's released code.

    Where the sizes do not divide, cells overlap by a pixel (adaptive pooling). Maps of the size are given back as they are.
    """
    if tuple(maps.shape[2:]) == size:
        return maps
    return functional.adaptive_max_pool2d(maps, size) + functional.adaptive_avg_pool2d(maps, size)


def map_as_tokens(maps: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch positions channels"]:
    """One vector for each position of a map, row by row; a view."""
    return maps.flatten(2).transpose(1, 2)


def tokens_as_map(
    tokens: Float[Tensor, "batch positions channels"], size: tuple[int, int]
) -> Float[Tensor, "batch channels height width"]:
    """The inverse of :func:`map_as_tokens` for maps of a height and width; a view."""
    return tokens.transpose(1, 2).view(len(tokens), tokens.shape[2], *size)
