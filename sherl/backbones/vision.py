"""The vision kind."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sherl.backbones.backbone import KINDS, Batch
from sherl.backbones.families import VisionFamily
from sherl.backbones.images import ImageBackbone, map_as_tokens, pixels_of, pooled_to, side, tokens_as_map
from sherl.errors import SpecError, UnsupportedBackboneError
from sherl.shapes import Bool, Float, Int


@KINDS.register("vision")
class VisionBackbone(ImageBackbone):
    """The vision kind: transformers over patches of an image.

    Blocks of Swin are those of all its stages: their inputs differ in width and in the number of patches, and a feature
    of an early stage is brought to a later one's grid by pooling (:func:`sherl.backbones.images.pooled_to`).
    """

    layout: VisionFamily

    def __init__(
        self, model: Any, layout: VisionFamily, *, source: str | None = None, folder: Path | None = None
    ) -> None:
        super().__init__(model, layout, source=source, folder=folder)
        widths = None if layout.widths is None else layout.widths(model)
        self._widths = tuple(widths) if widths is not None else (int(self.config.hidden_size),) * self.depth

    def encode(self, batch: Batch) -> Float[Tensor, "batch tokens width"]:
        """The last hidden state, behind the final norm, of ``pixel_values`` float32 [batch, channels, height, width].

        Images of another size than the pretrained position table's are taken by interpolating the table.

        Raises:
            SpecError: there are no images, they have other channels, or a size that the model cannot take.
        """
        smallest = max(side(self.config.patch_size))
        pixels = pixels_of(batch, self.config, self.dtype, smallest=smallest)
        size = (int(pixels.shape[2]), int(pixels.shape[3]))
        if self._is_hierarchical and size[0] != size[1]:
            raise SpecError(
                f"A {self.family} model brings stages of other sizes together, which needs square images; "
                f"{size[0]} x {size[1]} pixels were given. Crop or pad them."
            )
        own = side(self.config.image_size)
        if size != own and self._takes_own_size_alone:
            raise SpecError(
                f"This {self.family} model takes images of {own[0]} x {own[1]} pixels alone, its position table is not "
                f"interpolated; {size[0]} x {size[1]} were given."
            )
        options = {}
        if self.layout.sizes == "argument" and size != own:
            options["interpolate_pos_encoding"] = True
        hidden: Tensor = self.model(pixel_values=pixels, return_dict=True, **options).last_hidden_state
        if not self.layout.norm_in_model and self.layout.final_norm is not None:
            hidden = self.model.get_submodule(self.layout.final_norm)(hidden)
        return hidden

    def pool(
        self, hidden: Float[Tensor, "batch tokens width"], attention_mask: Int[Tensor, "batch _"]
    ) -> Float[Tensor, "batch width"]:
        """The class token, or the mean of all positions, as the family's row says; float32. Nothing is padding."""
        del attention_mask
        return (hidden[:, 0] if self.layout.pooling == "class" else hidden.mean(dim=1)).float()

    def keep(self, batch: Batch) -> Bool[Tensor, "batch tokens"]:
        """All positions of the first block's input: the patches and, in front, what else the model puts there."""
        pixels = batch["pixel_values"]
        height, width = side(self.config.patch_size)
        rounded = math.ceil if self._is_hierarchical else math.floor  # Swin pads images, the others cut them off
        patches = rounded(pixels.shape[2] / height) * rounded(pixels.shape[3] / width)
        return torch.ones((pixels.shape[0], patches + self.layout.front), dtype=torch.bool, device=pixels.device)

    def width_of(self, layer: int) -> int:
        """Width of a block's input (0-based)."""
        return self._widths[layer]

    @property
    def width(self) -> int:
        """D, the width of the last hidden state."""
        return int(self.config.hidden_size)

    def as_tokens(self, hidden: Tensor, like: Tensor) -> Float[Tensor, "batch tokens own_width"]:
        """A block's input for each position of ``like``: as it is, or, from a stage of another grid, pooled to ``like``'s."""
        if hidden.shape[1] == like.shape[1]:
            return hidden
        grid, wanted = math.isqrt(hidden.shape[1]), math.isqrt(like.shape[1])
        return map_as_tokens(pooled_to(tokens_as_map(hidden, (grid, grid)), (wanted, wanted)))

    def prompt_arguments(
        self, keep: Bool[Tensor, "_ keys"], hidden: Float[Tensor, "batch keys width"]
    ) -> list[dict[str, Any]]:
        """Nothing: the blocks take no masks, and know positions through their input alone.

        Raises:
            UnsupportedBackboneError: blocks of this family cannot carry prompts.
        """
        del keep, hidden
        if self.layout.no_prompts is not None:
            raise UnsupportedBackboneError(
                f"Blocks of a {self.family} model cannot carry prompts: {self.layout.no_prompts}."
            )
        return [{} for _ in self.blocks]

    def cut_prompts(self, hidden: Float[Tensor, "batch keys width"], count: int) -> Float[Tensor, "batch tokens width"]:
        """The image's positions alone."""
        return hidden[:, count:]

    @property
    def no_late_prompts(self) -> str | None:
        """Why prompts cannot enter at a late block; None where they can."""
        return self.layout.no_prompts

    @property
    def no_input_prompts(self) -> str | None:
        """Why prompts cannot enter at the first block's input; None where they can."""
        return self.layout.no_prompts

    @property
    def _takes_own_size_alone(self) -> bool:
        """Whether its position table cannot be interpolated: transformers takes the grid of every table for a square."""
        if self.layout.sizes != "argument":
            return self.layout.sizes == "own"
        has_table = getattr(self.config, "use_absolute_embeddings", True)  # Swin may have none
        sizes = map(side, (self.config.image_size, self.config.patch_size))
        return has_table and any(height != width for height, width in sizes)

    @property
    def _is_hierarchical(self) -> bool:
        return self.layout.widths is not None
