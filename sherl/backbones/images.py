"""What the kinds that read images share: the form of a batch, the check of its pixels, and feature maps of other sizes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sherl.backbones.backbone import Backbone, Batch
from sherl.errors import SpecError
from sherl.forms import TensorForm, cast
from sherl.shapes import Float, Int

USUAL_SIZE = 224
"""Pixels a side of images for a model whose configuration names no size (convolutional networks)."""


class ImageBackbone(Backbone):
    """A kind whose input is images alone."""

    def inputs_form(self, rows: int, *, tokens: int, image_size: int | None = None) -> dict[str, TensorForm]:
        """float32 ``pixel_values`` [rows, channels, height, width] of this many pixels a side (None: as many as the model
        was made for)."""
        del tokens
        own = getattr(self.config, "image_size", USUAL_SIZE) if image_size is None else image_size
        return {"pixel_values": TensorForm((rows, int(getattr(self.config, "num_channels", 3)), *side(own)), "float32")}

    def pooled_mask(self, batch: Batch) -> Int[Tensor, "batch 1"]:
        """One for each image: :meth:`pool` looks at no mask, as nothing of an image is padding."""
        return torch.ones((batch["pixel_values"].shape[0], 1), dtype=torch.int64, device=batch["pixel_values"].device)

    @property
    def max_tokens(self) -> int | None:
        """None: images have a size, not a length."""
        return None


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
    return cast(pixels, dtype)


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
    return tokens.transpose(1, 2).view(tokens.shape[0], tokens.shape[2], *size)
