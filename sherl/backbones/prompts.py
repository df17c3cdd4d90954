"""What late blocks must be given when learned vectors (prompts) stand in front of their input.

Prompts enter at the first late block, so the model has made masks, relative biases and rotary angles for the tokens
alone. Each rule here makes those arguments again for ``prompts + tokens`` positions. Prompts take the positions just
before the first token, so what tokens see of each other does not change. A rule returns one dictionary of keyword
arguments for each block of the model.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sherl.backbones import masks
from sherl.shapes import Bool, Float


def behind_mask(
    model: nn.Module,
    blocks: Any,
    keep: Bool[Tensor, "batch keys"],
    hidden: Float[Tensor, "batch keys width"],
) -> list[dict[str, Any]]:
    """Blocks that know positions only through their input (BERT and its kin): the mask is all there is."""
    del model
    mask = masks.additive(keep, hidden.dtype)
    return [{"attention_mask": mask} for _ in blocks]


def behind_causal_mask(
    model: Any,
    blocks: Any,
    keep: Bool[Tensor, "batch keys"],
    hidden: Float[Tensor, "batch keys width"],
) -> list[dict[str, Any]]:
    """Blocks in which a position sees those before it (CLIP's text encoder): all tokens see all prompts."""
    mask = masks.for_causal(model.config, keep, hidden.dtype)
    return [{"attention_mask": mask} for _ in blocks]


def behind_position_bias(
    model: Any,
    blocks: Any,
    keep: Bool[Tensor, "batch keys"],
    hidden: Float[Tensor, "batch keys width"],
) -> list[dict[str, Any]]:
    """MPNet: one bias by relative position, computed by the encoder and handed to every block."""
    arguments = {
        "attention_mask": masks.additive(keep, hidden.dtype),
        "position_bias": model.encoder.compute_position_bias(hidden),
    }
    return [arguments for _ in blocks]


def behind_relative_positions(
    model: Any,
    blocks: Any,
    keep: Bool[Tensor, "batch keys"],
    hidden: Float[Tensor, "batch keys width"],
) -> list[dict[str, Any]]:
    """DeBERTa: a table of relative positions; a mask over pairs of positions."""
    arguments = {
        "attention_mask": model.encoder.get_attention_mask(keep.to(torch.int64)),
        "relative_pos": model.encoder.get_rel_pos(hidden),
    }
    return [arguments for _ in blocks]


def behind_rotary_positions(
    model: Any,
    blocks: Any,
    keep: Bool[Tensor, "batch keys"],
    hidden: Float[Tensor, "batch keys width"],
) -> list[dict[str, Any]]:
    """ModernBERT: rotary angles for each type of block, and a window in the blocks of the sliding type.

    A rotation depends on differences of positions alone, so counting from the first prompt changes nothing between
    tokens; in a block with a window a prompt is seen by the tokens near it, as a token there would be.
    """
    positions = torch.arange(hidden.shape[1], device=hidden.device)[None]
    by_type = masks.for_windows(model.config, keep, hidden.dtype)
    angles = {kind: model.rotary_emb(hidden, positions, kind) for kind in sorted(set(model.config.layer_types))}
    return [
        {"attention_mask": by_type[block.attention_type], "position_embeddings": angles[block.attention_type]}
        for block in blocks
    ]
