"""A ladder's side network: the backbone's own architecture from a configuration whose widths are divided."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sherl.backbones import Backbone, backbone_from_config
from sherl.errors import SpecError, UnsupportedBackboneError
from sherl.methods.recording import stacks_of

DIVIDED = frozenset({
    "hidden_size", "d_model", "dim", "n_embd", "embed_dim", "embedding_size", "hidden_sizes", "word_embed_proj_dim",
    "intermediate_size", "d_ff", "hidden_dim", "ffn_dim", "n_inner", "encoder_ffn_dim", "decoder_ffn_dim",
    "d_kv", "head_dim", "width_coefficient", "depth_multiplier",
})  # fmt: skip
"""Keys of configurations that hold a width, of whatever family; a row's ``side_settings`` goes before them."""

MULTIPLIERS = ("width_coefficient", "depth_multiplier")  # of all channels: EfficientNet's and MobileNet's
WIDTHS = ("hidden_size", "d_model", "dim", "n_embd", "embed_dim")
HEAD_WIDTHS = ("d_kv", "head_dim")
HEADS = (
    "num_attention_heads", "n_heads", "num_heads", "n_head", "encoder_attention_heads", "decoder_attention_heads",
)  # fmt: skip


def divided_config(backbone: Backbone, factor: int) -> Any:
    """The backbone's configuration with its widths divided, and a vocabulary of two: what the embeddings give is not read.

    Heads stay as many as they were, each narrower; where the divided width does not hold so many, they are fewer.

    Raises:
        SpecError: rotary positions need heads of an even width, and the divided width has none.
    """
    config = copy.deepcopy(backbone.config)
    plain = config.to_dict()
    for key in sorted(DIVIDED & plain.keys()):
        value = plain[key]
        if isinstance(value, list):
            setattr(config, key, [max(1, one // factor) for one in value])
        elif key in MULTIPLIERS and isinstance(value, int | float):
            setattr(config, key, value / factor)
        elif isinstance(value, int):
            setattr(config, key, max(1, value // factor))
    own_head_width = next((key for key in HEAD_WIDTHS if isinstance(plain.get(key), int)), None)
    rotary = backbone.layout.positions == "rotary"
    if own_head_width is not None:
        width = int(getattr(config, own_head_width))
        setattr(config, own_head_width, max(2, width - width % 2) if rotary else width)
    else:
        _fit_heads(config, plain, factor, rotary=rotary)
    for key, value in {"vocab_size": 2, "pad_token_id": 0}.items():
        if key in plain:
            setattr(config, key, value)
    for key, value in backbone.layout.side_settings.items():
        setattr(config, key, value)
    return config


def _fit_heads(config: Any, plain: Mapping[str, Any], factor: int, *, rotary: bool) -> None:
    width = next((int(getattr(config, key)) for key in WIDTHS if isinstance(plain.get(key), int)), None)
    if width is None:
        return
    for key in HEADS:
        heads = plain.get(key)
        if isinstance(heads, list):  # by stage, each twice as wide as the one before
            first = int(getattr(config, "embed_dim", width))
            setattr(config, key, [math.gcd(one, first * 2**stage) for stage, one in enumerate(heads)])
        elif isinstance(heads, int):
            setattr(config, key, _heads_within(heads, width, factor, rotary=rotary))
    groups = plain.get("num_key_value_heads")
    if isinstance(groups, int) and isinstance(plain.get("num_attention_heads"), int):
        config.num_key_value_heads = math.gcd(groups, config.num_attention_heads)


def _heads_within(heads: int, width: int, factor: int, *, rotary: bool) -> int:
    for count in range(heads, 0, -1):
        if heads % count == 0 and width % count == 0 and not (rotary and width // count % 2):
            return count
    raise SpecError(
        f"Method ladder: with reduction_factor {factor} the side network is {width} wide, and its rotary positions need heads "
        "of an even width: take a reduction_factor that leaves an even width."
    )


def side_network(backbone: Backbone, factor: int, kept: Sequence[Sequence[int]]) -> Backbone:
    """A backbone of the same kind and family, its widths divided, with as many blocks in each stack as are kept.

    Only its blocks, final norms and what the row names beside them are of use; the rest is frozen and not read.
    Initial values come from torch's global generator.

    Raises:
        UnsupportedBackboneError: the family's configuration has no width that could be divided, or its blocks are of
            different widths and some are to be dropped.
        SpecError: the divided width suits no attention.
    """
    config = divided_config(backbone, factor)
    types = getattr(config, "layer_types", None)
    if isinstance(types, list) and len(kept) == 1:
        rest = [place for place in range(len(types)) if place not in kept[0]]
        config.layer_types = [types[place] for place in [*kept[0], *rest] if place < len(types)]
    full = backbone_from_config(config, dtype=backbone.dtype)
    if factor > 1 and full.width_of(full.depth - 1) >= backbone.width_of(backbone.depth - 1):
        raise UnsupportedBackboneError(
            f"Method ladder: no narrower side network can be made of this {backbone.family} model: its configuration has no "
            "key that sherl knows to be a width, or its family rounds widths up again. Name what is to be changed in its "
            "row's side_settings, or take unipt."
        )
    for stack, own, layers in zip(backbone.layout.stacks, stacks_of(backbone), kept, strict=True):
        if len(layers) == len(own):
            continue
        if backbone.has_stages:
            raise UnsupportedBackboneError(
                f"Method ladder: blocks of a {backbone.family} model differ in width, so none of them can be left out of "
                "the side network: leave kept_layers at all."
            )
        blocks = full.model.get_submodule(stack.blocks)
        del blocks[len(layers) :]
    side = type(full)(full.model, full.layout)
    side.model.requires_grad_(False)
    return side


def side_parameters(side: Backbone) -> dict[str, nn.Parameter]:
    """What of a side network is of use, by names in its model: of blocks, of final norms, of what the row names."""
    paths = [side.block_path(layer) for layer in range(side.depth)]
    paths += [stack.final_norm for stack in side.layout.stacks if stack.final_norm is not None]
    paths += [path for path in side.layout.beside_blocks if _has(side.model, path)]
    fixed = side.layout.fixed
    return {
        name: parameter
        for name, parameter in side.model.named_parameters()
        if any(name.startswith(f"{path}.") for path in paths) and name not in fixed
    }


def _has(model: nn.Module, path: str) -> bool:
    return path in dict(model.named_modules())


def side_batch(
    backbone: Backbone, batch: Mapping[str, Tensor], source: Tensor, targets: Tensor | None
) -> dict[str, Tensor]:
    """What the side network is run on: token ids without meaning, the masks of the backbone's batch.

    source, targets: hidden states [batch, tokens, _] of the first stack and, of an encoder-decoder, of the second, which say
    how many tokens there are: of text that is being written, more than the batch has.
    """
    given = {name: tensor for name, tensor in batch.items() if name != "labels"}
    if "input_ids" in given:
        ids, keep = given["input_ids"], backbone.keep(batch)
        more = source.shape[1] - ids.shape[1] if backbone.is_causal(0) else 0
        if more > 0:
            ids = nn.functional.pad(ids, (0, more))
            keep = nn.functional.pad(keep, (0, more), value=True)
        given["input_ids"] = ids.new_zeros(ids.shape)
        given["attention_mask"] = keep.to(ids.dtype)
        given.pop("token_type_ids", None)
    if targets is not None:
        given["decoder_input_ids"] = source.new_zeros(targets.shape[:2], dtype=torch.int64)
    return given
