"""The cross-modal kind."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sherl.backbones import masks
from sherl.backbones.backbone import KINDS, Backbone, Batch
from sherl.backbones.families import CrossModalFamily
from sherl.backbones.images import pixels_of, side
from sherl.backbones.padding import counted_from_first_token
from sherl.errors import SpecError, UnsupportedBackboneError
from sherl.forms import TensorForm
from sherl.shapes import Bool, Float, Int

USUAL_REGIONS = 36
"""Regions of an image that detectors usually give."""
FEATURE_WIDTHS = ("visual_embedding_dim", "visual_feat_dim")
"""Settings that say how wide a region's features are."""


@KINDS.register("cross-modal")
class CrossModalBackbone(Backbone):
    """The cross-modal kind: one stream of a text's tokens and, behind them, an image's positions.

    The image is ``pixel_values`` float32 [batch, channels, height, width] (ViLT) or ``visual_embeds`` float
    [batch, regions, visual_width], features of regions that a detector has found (VisualBERT; of LXMERT ``visual_feats`` and
    ``visual_pos`` [batch, regions, 4], and its stream is the text's). All images of a batch have
    one size; ``visual_attention_mask`` [batch, regions] says which regions count.
    """

    layout: CrossModalFamily

    def encode(self, batch: Batch) -> Float[Tensor, "batch positions width"]:
        """The last hidden state of ``input_ids`` [batch, tokens] with ``attention_mask`` (default: all tokens) and an image.

        Memory depends on shapes alone, never on the masks' values.

        Raises:
            SpecError: text or image are missing, or of sizes that the model does not take; there is a pixel_mask; or the text
                has padding on the left and the model cannot.
        """
        given = dict(batch)
        wanted = ("input_ids", self.layout.image, *self.layout.needs)
        if missing := [name for name in wanted if name not in batch]:
            raise SpecError(
                f"The batch has no {' and no '.join(missing)}: a {self.family} model reads {' and '.join(wanted)}; "
                f"given were {', '.join(sorted(batch)) or 'no tensors'}."
            )
        if "pixel_mask" in batch:
            raise SpecError(
                "A pixel_mask was given. Images are read whole here, as the patches under a mask would be drawn by chance: "
                "bring all images of a batch to one size, and leave pixel_mask out."
            )
        tokens = batch["input_ids"].shape[1]
        if self.max_tokens is not None and tokens > self.max_tokens:
            raise SpecError(
                f"The input has {tokens} tokens, {self.family} takes at most {self.max_tokens}: tokenise with a smaller "
                "max_length."
            )
        given[self.layout.image] = self._image(batch)
        mask = masks.additive(self.keep(batch), self.dtype)
        with counted_from_first_token(self.model, self.layout, batch):
            return self.layout.hidden(self.model, given, mask)

    def inputs_form(self, rows: int, *, tokens: int, image_size: int | None = None) -> dict[str, TensorForm]:
        """Ids and mask [rows, tokens] and an image: pixels, or features of :data:`USUAL_REGIONS` regions."""
        form = super().inputs_form(rows, tokens=tokens)
        if self.layout.image == "pixel_values":
            size = side(self.config.image_size if image_size is None else image_size)
            return {**form, "pixel_values": TensorForm((rows, int(self.config.num_channels), *size), "float32")}
        width = next(int(getattr(self.config, key)) for key in FEATURE_WIDTHS if hasattr(self.config, key))
        form[self.layout.image] = TensorForm((rows, USUAL_REGIONS, width), "float32")
        return {**form, **{name: TensorForm((rows, USUAL_REGIONS, 4), "float32") for name in self.layout.needs}}

    def _image(self, batch: Batch) -> Tensor:
        if self.layout.image == "pixel_values":
            return pixels_of(batch, self.config, self.dtype, smallest=max(side(self.config.patch_size)))
        key = "visual_embedding_dim" if self.layout.image == "visual_embeds" else "visual_feat_dim"
        image, width = batch[self.layout.image], int(getattr(self.config, key))
        if image.ndim != 3 or image.shape[2] != width:
            raise SpecError(
                f"{self.layout.image} are {list(image.shape)}: [batch, regions, {width}] was expected ({key} of the "
                "configuration)."
            )
        return image.to(self.dtype)

    def pool(
        self, hidden: Float[Tensor, "batch positions width"], attention_mask: Int[Tensor, "batch _"]
    ) -> Float[Tensor, "batch width"]:
        """The first token that is no padding, which has seen text and image, as the pretrained poolers read; float32."""
        first = attention_mask.argmax(dim=1)
        return hidden[torch.arange(hidden.shape[0], device=hidden.device), first].float()

    def keep(self, batch: Batch) -> Bool[Tensor, "batch positions"]:
        """Which positions of the joint stream count: the text's without padding, then the image's."""
        texts = super().keep(batch)
        regions = self.layout.regions(self.model, dict(batch))
        images = batch.get("visual_attention_mask")
        seen = texts.new_ones((len(texts), regions)) if images is None or regions == 0 else images.to(torch.bool)
        return torch.cat([texts, seen], dim=1)

    def prompt_arguments(
        self, keep: Bool[Tensor, "_ keys"], hidden: Float[Tensor, "batch keys width"]
    ) -> list[dict[str, Any]]:
        """The mask of ``prompts + positions``, for every block.

        Raises:
            UnsupportedBackboneError: blocks of this family cannot carry prompts.
        """
        if self.layout.no_prompts is not None:
            raise UnsupportedBackboneError(
                f"Blocks of a {self.family} model cannot carry prompts: {self.layout.no_prompts}."
            )
        mask = masks.additive(keep, hidden.dtype)
        return [{"attention_mask": mask} for _ in self.blocks]

    def cut_prompts(
        self, hidden: Float[Tensor, "batch keys width"], count: int
    ) -> Float[Tensor, "batch positions width"]:
        """The text's and the image's positions alone."""
        return hidden[:, count:]

    @property
    def no_late_prompts(self) -> str | None:
        """Why prompts cannot enter at a late block; None where they can."""
        return self.layout.no_prompts

    @property
    def no_input_prompts(self) -> str | None:
        """Why prompts cannot enter at the first block's input; None where they can."""
        return self.layout.no_prompts
