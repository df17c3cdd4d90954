"""A ladder's side network: the backbone's own architecture from a configuration whose widths are divided."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from sherl.backbones import Backbone, backbone_from_config
from sherl.backbones.paths import matching
from sherl.backbones.rotary import fit_factors
from sherl.errors import SpecError, UnsupportedBackboneError
from sherl.methods.recording import stacks_of
from sherl.shapes import Float

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
    if rotary and (head_width := _head_width(config)) is not None:
        fit_factors(config, head_width)
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


def _head_width(config: Any) -> int | None:
    """Width of a head; None where the configuration names neither it nor what it follows from."""
    own = next((getattr(config, key) for key in HEAD_WIDTHS if isinstance(getattr(config, key, None), int)), None)
    width = next((getattr(config, key) for key in WIDTHS if isinstance(getattr(config, key, None), int)), None)
    heads = next((getattr(config, key) for key in HEADS if isinstance(getattr(config, key, None), int)), None)
    return own if own is not None or width is None or heads is None else width // heads


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
    Initial values come from torch's global generator. Batch norms become :class:`MapNorm`.

    Raises:
        UnsupportedBackboneError: the family's configuration has no width that could be divided, or its blocks are of
            different widths and some are to be dropped.
        SpecError: the divided width suits no attention, or leaves a layer no channel.
    """
    config = divided_config(backbone, factor)
    types = getattr(config, "layer_types", None)
    if isinstance(types, list) and len(kept) == 1:
        rest = [place for place in range(len(types)) if place not in kept[0]]
        config.layer_types = [types[place] for place in [*kept[0], *rest] if place < len(types)]
    full = _made(config, backbone)
    if isinstance(full, str):
        raise SpecError(
            f"Method ladder: with reduction_factor {factor} the side network of this {backbone.family} model cannot be made: "
            f"{full}. Take a smaller one: {_smaller(backbone, factor)} fits."
        )
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
        for path in matching(full.model, stack.blocks):
            del full.model.get_submodule(path)[len(layers) :]
    _free_of_batches(full.model)
    side = type(full)(full.model, full.layout)
    side.model.requires_grad_(False)
    return side


def _empty(backbone: Backbone) -> list[str]:
    return [name for name, parameter in backbone.model.named_parameters() if parameter.numel() == 0]


def _made(config: Any, whole: Backbone) -> Backbone | str:
    """A backbone of this configuration, or why its widths are too small for one. whole: the one whose widths were divided."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Initializing zero-element tensors")  # said below, with the layer's name
            made = backbone_from_config(config, dtype=whole.dtype, family=whole.layout)
    except UnsupportedBackboneError:
        raise
    except (ValueError, ZeroDivisionError) as error:  # a rule of the architecture: groups, tables of sinusoids
        return f"its architecture takes no such widths ({str(error).strip().rstrip('.')})"
    # what the whole one has none of (registers) is no matter of width
    name = next((name for name in _empty(made) if name not in _empty(whole)), None)
    return made if name is None else f"{name} would have no channel"


class MapNorm(nn.Module):
    """In a batch norm's place: each image's map is normalised by its own mean and variance, over all channels.

    A side network starts without statistics, and those of a batch would differ with its micro-batches.
    """

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__()
        self.eps = norm.eps
        self.weight = nn.Parameter(torch.ones_like(norm.weight))
        self.bias = nn.Parameter(torch.zeros_like(norm.bias))

    def forward(
        self, maps: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """The same shape."""
        even = functional.layer_norm(maps, maps.shape[1:], eps=self.eps)
        return even * self.weight[:, None, None] + self.bias[:, None, None]


def _free_of_batches(model: nn.Module) -> None:
    for path, norm in list(model.named_modules()):
        if isinstance(norm, _BatchNorm):
            model.set_submodule(path, MapNorm(norm))


def _smaller(backbone: Backbone, factor: int) -> int:
    """A factor that gives a side network: the first that does of a half, a quarter, ... of this one."""
    while factor > 1:
        factor //= 2
        try:
            config = divided_config(backbone, factor)
        except SpecError:  # an odd width, where rotary positions need an even one
            continue
        with torch.device("meta"):
            made = _made(config, backbone)
        if not isinstance(made, str):
            break
    return factor


def side_parameters(side: Backbone) -> dict[str, nn.Parameter]:
    """What of a side network is of use, by names in its model: of blocks, of final norms, of what the row names."""
    paths = [side.block_path(layer) for layer in range(side.depth)]
    paths += [stack.final_norm for stack in side.layout.stacks if stack.final_norm is not None]
    paths += [path for pattern in side.layout.beside_blocks for path in matching(side.model, pattern)]
    fixed = side.layout.fixed
    return {
        name: parameter
        for name, parameter in side.model.named_parameters()
        if any(name.startswith(f"{path}.") for path in paths) and name not in fixed
    }


def side_batch(
    backbone: Backbone, batch: Mapping[str, Tensor], source: Tensor, targets: Tensor | None
) -> dict[str, Tensor]:
    """What the side network is run on: token ids without meaning, the masks of the backbone's batch, its image or sound.

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
        given["attention_mask"] = keep[:, : ids.shape[1]].to(ids.dtype)  # of a joint stream the text's: it stands first
        given.pop("token_type_ids", None)
    if targets is not None:
        given["decoder_input_ids"] = source.new_zeros(targets.shape[:2], dtype=torch.int64)
    return given
