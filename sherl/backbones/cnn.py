"""The cnn kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from torch.utils._python_dispatch import _disable_current_modes

from sherl.backbones.backbone import KINDS, Batch
from sherl.backbones.families import ConvolutionalFamily
from sherl.backbones.images import ImageBackbone, map_as_tokens, pixels_of, pooled_to, tokens_as_map
from sherl.errors import UnsupportedBackboneError
from sherl.features import Place, features_of
from sherl.shapes import Bool, Float, Int

_NO_PROMPTS = "its blocks read feature maps, and no position of a map can stand in front of the others"


@KINDS.register("cnn")
class ConvolutionalBackbone(ImageBackbone):
    """The cnn kind: convolutional networks (SHERL, section 3.3 and fig. 3b).

    A block is a stage (Conv2 to Conv5 of a ResNet), as in the paper, where the model has stages; of MobileNet and
    EfficientNet, flat lists, each of their blocks. Hidden states are feature maps [batch, channels, height, width], of
    another width and size from block to block; as features for a late block they are brought to the size of its input by
    pooling (:func:`sherl.backbones.images.pooled_to`). The last hidden state is given as one vector for each position.
    """

    layout: ConvolutionalFamily

    def __init__(
        self, model: Any, layout: ConvolutionalFamily, *, source: str | None = None, folder: Path | None = None
    ) -> None:
        super().__init__(model, layout, source=source, folder=folder)
        self._widths = tuple(layout.widths(model))
        self._stem_sizes: dict[tuple[int, int], int] = {}

    def encode(self, batch: Batch) -> Float[Tensor, "batch positions channels"]:
        """The last feature map, one vector for each position, of ``pixel_values`` float32 [batch, channels, height, width].

        Raises:
            SpecError: there are no images, or they have other channels.
        """
        maps: Tensor = self.model(
            pixel_values=pixels_of(batch, self.config, self.dtype), return_dict=True
        ).last_hidden_state
        return map_as_tokens(maps)

    def pool(
        self, hidden: Float[Tensor, "batch positions channels"], attention_mask: Int[Tensor, "batch _"]
    ) -> Float[Tensor, "batch channels"]:
        """The average over all positions, through the norm behind it where the family has one; float32."""
        del attention_mask
        pooled = hidden.mean(dim=1)
        if self.layout.pooled_norm is not None:
            pooled = self.model.get_submodule(self.layout.pooled_norm)(pooled)
        return pooled.float()

    def keep(self, batch: Batch) -> Bool[Tensor, "batch positions"]:
        """All positions of the first block's input."""
        pixels = batch["pixel_values"]
        stored = features_of(batch).get(Place("blocks", 0))
        if stored is not None:  # the stem does not run then, and may have no weights
            return torch.ones((pixels.shape[0], stored[0, 0].numel()), dtype=torch.bool, device=pixels.device)
        size = (int(pixels.shape[2]), int(pixels.shape[3]))
        if size not in self._stem_sizes:
            self._stem_sizes[size] = self._positions_behind_stem(int(pixels.shape[1]), size)
        return torch.ones((pixels.shape[0], self._stem_sizes[size]), dtype=torch.bool, device=pixels.device)

    def _positions_behind_stem(self, channels: int, size: tuple[int, int]) -> int:
        # strides, paddings and roundings differ by family: the stem itself is asked, on tensors without values
        stem = self.model.get_submodule(self.layout.stem)
        with _disable_current_modes(), torch.no_grad(), torch.device("meta"):
            tensors = {
                name: torch.empty(tensor.shape, dtype=tensor.dtype)
                for name, tensor in [*stem.named_parameters(), *stem.named_buffers()]
            }
            maps: Tensor = functional_call(stem, tensors, (torch.empty((1, channels, *size), dtype=self.dtype),))
        return int(maps.shape[2] * maps.shape[3])

    def width_of(self, layer: int) -> int:
        """Channels of a block's input (0-based)."""
        return self._widths[layer]

    @property
    def width(self) -> int:
        """D, the channels of the last feature map."""
        return self._widths[-1]

    @property
    def has_stages(self) -> bool:
        """Whether blocks differ in width or size; they do."""
        return True

    @property
    def output_width(self) -> int:
        """Channels of what the last block gives, before the convolution that some families have behind it."""
        if self.layout.behind_blocks is None:
            return self.width
        return int(self.model.get_submodule(self.layout.behind_blocks).in_channels)

    def as_tokens(self, hidden: Tensor, like: Tensor) -> Float[Tensor, "batch tokens own_width"]:
        """A feature map, brought to the height and width of ``like`` by pooling, as one vector for each position."""
        return map_as_tokens(pooled_to(hidden, (int(like.shape[2]), int(like.shape[3]))))

    def as_hidden(self, tokens: Float[Tensor, "batch tokens width"], like: Tensor) -> Tensor:
        """Vectors for each position of ``like`` as a feature map of its height and width."""
        return tokens_as_map(tokens, (int(like.shape[2]), int(like.shape[3])))

    def prompt_arguments(self, keep: Tensor, hidden: Tensor) -> list[dict[str, Any]]:
        """There are none.

        Raises:
            UnsupportedBackboneError: always, as a convolution cannot carry prompts.
        """
        del keep, hidden
        raise UnsupportedBackboneError(f"Blocks of a {self.family} model cannot carry prompts: {_NO_PROMPTS}.")

    def cut_prompts(self, hidden: Tensor, count: int) -> Tensor:
        """There are none.

        Raises:
            UnsupportedBackboneError: always, as a convolution cannot carry prompts.
        """
        del hidden, count
        raise UnsupportedBackboneError(f"Blocks of a {self.family} model cannot carry prompts: {_NO_PROMPTS}.")

    @property
    def no_late_prompts(self) -> str | None:
        """Why prompts cannot enter at a late block."""
        return _NO_PROMPTS

    @property
    def no_input_prompts(self) -> str | None:
        """Why prompts cannot enter at the first block's input."""
        return _NO_PROMPTS
