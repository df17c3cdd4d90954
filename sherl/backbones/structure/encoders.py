"""Encoders of text that are tried by structure."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from sherl.backbones import masks
from sherl.backbones.families import EncoderFamily
from sherl.backbones.structure.blocks import WITHOUT_PROMPTS, Tried, close, described, has_position_table, note_of
from sherl.backbones.structure.running import Running
from sherl.shapes import Int


def encoder_row(model: Any, tried: Tried) -> EncoderFamily:
    """A row for a text encoder, of a model of it without values.

    Raises:
        UnsupportedBackboneError: it has no list of alike blocks, or none that adapters could stand in.
    """
    config = model.config
    path, blocks = tried.longest_list(model, getattr(config, "num_hidden_layers", None))
    targets, end = tried.parts_of(path, blocks, config)
    tried.words(config)
    arguments = inspect.signature(type(model).forward).parameters
    return EncoderFamily(
        name=tried.kind,
        blocks=path,
        lora_targets=targets,
        feed_forward_output=end,
        masks=masks.for_flags,
        no_prompts=WITHOUT_PROMPTS,
        positions="absolute" if has_position_table(model, config) else "relative",
        position_offset=_position_offset(model),
        attention=None,
        token_types="token_type_ids" in arguments,
        pooler="add_pooling_layer" in inspect.signature(type(model).__init__).parameters,
        found=note_of(
            tried.kind,
            described(path, blocks, targets, end),
            "Memory may depend on the padding of a batch, as the model makes its masks itself.",
        ),
    )


def _position_offset(model: nn.Module) -> int:
    """Rows of the position table before the first token's: behind the padding's, where it has one."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            return 0 if module.padding_idx is None else module.padding_idx + 1
    return 0


def check_encoder(running: Running) -> None:
    """Run small batches through a model whose row was found by structure, to see that it is a text encoder.

    Raises:
        UnsupportedBackboneError: it is not; the message says in what.
    """
    backbone = running.backbone
    ids = running.token_ids(2, 6)
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    batch = {"input_ids": ids, "attention_mask": mask}
    hidden = running.through_blocks("2 x 6 tokens", batch, (2, 6, int(backbone.config.hidden_size)))
    if why := _wrong_with_masks(running, ids, mask, hidden):
        raise running.refused(why)
    running.require_read(batch, hidden)


def _wrong_with_masks(
    running: Running, ids: Int[Tensor, "2 6"], mask: Int[Tensor, "2 6"], hidden: Tensor
) -> str | None:
    backbone, keep = running.backbone, mask.bool()
    other = ids.clone()
    other[1, 4:] = ids[0, :2]
    tried = {"what stands in": (other, mask)}
    room = 3 if backbone.max_tokens is None else min(3, backbone.max_tokens - 6)
    if room > 0:
        more = torch.cat([ids, ids[:, :room]], dim=1), torch.cat([mask, torch.zeros_like(mask[:, :room])], dim=1)
        tried["more"] = more
    for name, (new_ids, new_mask) in tried.items():
        changed = running.encoded("other padding", {"input_ids": new_ids, "attention_mask": new_mask})[:, :6]
        if not close(changed[keep], hidden[keep]):
            return (
                f"{name} padding changes the hidden states of tokens, although attention_mask says that it is padding"
            )
    other = ids.clone()
    other[0, 5] = running.others(ids)[0, 5]
    changed = running.encoded("another token", {"input_ids": other, "attention_mask": mask})
    if torch.equal(changed[0, 0], hidden[0, 0]):
        return "a token does not see those behind it, as an encoder's do"
    return None
