"""Decoders that are tried by structure."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from sherl.backbones import masks
from sherl.backbones.decoder import DecoderBackbone
from sherl.backbones.families import DecoderFamily
from sherl.backbones.structure.blocks import Tried, close, described, has_position_table, note_of
from sherl.backbones.structure.running import Running
from sherl.insertion import other_forward

_KNOWN_TYPES = {"full_attention", "sliding_attention"}
_WINDOW = 3
"""Tokens that a window reaches over while it is tried: the true one is longer than the batch."""


def decoder_row(model: Any, tried: Tried) -> DecoderFamily:
    """A row for a decoder, of a model of it without values, with its language head.

    Raises:
        UnsupportedBackboneError: it has no list of alike blocks, no norm behind it, or takes no positions.
    """
    config = model.config
    path, blocks = tried.longest_list(model, getattr(config, "num_hidden_layers", None))
    targets, end = tried.parts_of(path, blocks, config)
    tried.words(config)
    base = model.base_model
    if base is model:
        raise tried.refused("its language head is no part beside the blocks' model (base_model)")
    missing = {"attention_mask", "position_ids", "past_key_values"} - set(
        inspect.signature(type(base).forward).parameters
    )
    if missing:
        raise tried.refused(
            f"its blocks' model takes no {' and no '.join(sorted(missing))}: positions are given with padding on the "
            "left, and masks and a cache to write with"
        )
    windows = _windows_of(config, tried)
    return DecoderFamily(
        name=tried.kind,
        blocks=path,
        lora_targets=targets,
        feed_forward_output=end,
        final_norm=_final_norm(model, path, windows, tried),
        attention=None,
        positions="from_padding" if has_position_table(base, config) else "rotary",
        windows=windows,
        logits=own_logits,
        found=note_of(
            tried.kind, described(path, blocks, targets, end), "It was taken for a decoder, as it writes text."
        ),
    )


def _final_norm(model: Any, path: str, windows: masks.Windows, tried: Tried) -> str:
    """The norm behind the blocks."""

    def run(masked: bool) -> Tensor:
        keep = torch.ones(2, 6, dtype=torch.bool, device="meta")
        mask = masks.for_streams(model.config, keep, 6, torch.float32, windows) if masked else None
        hidden: Tensor = model.base_model(
            input_ids=keep.to(torch.int64),
            attention_mask=mask,
            position_ids=masks.positions_of(keep),
            use_cache=False,
            return_dict=True,
        ).last_hidden_state
        return hidden

    norm = tried.norm_behind_masked("its blocks' model", model, path, run)
    if norm is None:
        raise tried.refused("its last hidden state does not come out of a norm behind the blocks")
    return norm


@dataclass
class _Given(BaseModelOutputWithPastAndCrossAttentions):
    """What language models of any sort look for in what their blocks give."""

    router_logits: Any = None
    aux_loss: Any = None


def own_logits(model: Any, hidden: Tensor) -> Tensor:
    """What the model's own forward makes of hidden states: its head, with whatever scale or cap goes with it."""
    given = _Given(last_hidden_state=hidden)
    ids = torch.zeros(hidden.shape[:2], dtype=torch.int64, device=hidden.device)
    with other_forward(model.base_model, lambda *_args, **_kwargs: given):
        logits: Tensor = model(input_ids=ids, use_cache=False, return_dict=True).logits
    return logits


def _windows_of(config: Any, tried: Tried) -> masks.Windows:
    types = set(getattr(config, "layer_types", None) or ())
    if strange := types - _KNOWN_TYPES:
        raise tried.refused(
            f"some of its blocks are of type {', '.join(sorted(strange))}, and full_attention and sliding_attention are "
            "what masks are made for"
        )
    if types == {"full_attention"}:
        return "none"  # a model with one type may take no mask by type
    if types:
        return "by_type"
    return "none" if getattr(config, "sliding_window", None) is None else "all"


def check_decoder(running: Running) -> None:
    """Run small batches through a model whose row was found by structure, to see that it is such a decoder: the same as
    transformers computes, on whichever side padding stands, with and without a cache, and within windows.

    Raises:
        UnsupportedBackboneError: it is not; the message says in what.
    """
    backbone = running.backbone
    assert isinstance(backbone, DecoderBackbone)
    _compare(running, backbone, windowed=False)
    if backbone.layout.windows != "none" and getattr(backbone.config, "sliding_window", None) is not None:
        true = backbone.config.sliding_window
        backbone.config.sliding_window = _WINDOW
        try:
            _compare(running, backbone, windowed=True)
        finally:
            backbone.config.sliding_window = true


def _compare(running: Running, backbone: DecoderBackbone, *, windowed: bool) -> None:
    ids = running.token_ids(2, 6)
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    batch = {"input_ids": ids, "attention_mask": mask}
    keep = mask.bool()
    hidden = running.through_blocks("2 x 6 tokens", batch, (2, 6, int(backbone.config.hidden_size)))
    logits = running.ran("a hidden state", lambda: backbone.vocabulary_logits(hidden))
    theirs = running.ran(
        "2 x 6 tokens", lambda: backbone.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    )
    if logits.shape != theirs.shape or not close(logits[keep], theirs[keep]):
        where = f"windows of {_WINDOW} tokens" if windowed else "padding on the right"
        raise running.refused(f"with {where} its logits are not those that transformers computes")
    left = ids.clone()
    left[1] = torch.cat([ids[1, 4:], ids[1, :4]])
    shifted = running.encoded("padding on the left", {"input_ids": left, "attention_mask": mask.flip(1)})
    if not close(shifted[1, 2:], hidden[1, :4]):
        raise running.refused("with padding on the left its hidden states are others than with padding on the right")
    later = ids.clone()
    later[0, 5] = running.others(ids)[0, 5]
    changed = running.encoded("another token", {"input_ids": later, "attention_mask": mask})
    if not close(changed[0, :5], hidden[0, :5]):
        raise running.refused("a token sees those behind it, as a decoder's do not")
    whole = keep[:1]
    cache = DynamicCache()

    def in_two_parts() -> Tensor:
        first = backbone.read(ids[:1, :4], whole[:, :4], cache)
        return torch.cat([first, backbone.read(ids[:1, 4:], whole, cache)], dim=1)

    if not close(running.ran("a batch in two parts, with a cache,", in_two_parts), hidden[:1]):
        raise running.refused("with a cache of keys and values its hidden states are others than without")
    running.require_read(batch, hidden)
