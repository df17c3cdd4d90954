"""Encoder-decoders that are tried by structure."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPastAndCrossAttentions

from sherl.backbones import masks
from sherl.backbones.encoder_decoder import EncoderDecoderBackbone
from sherl.backbones.families import EncoderDecoderFamily, Stack
from sherl.backbones.structure.blocks import (
    WITHOUT_PROMPTS,
    Tried,
    close,
    described,
    has_position_table,
    note_of,
)
from sherl.backbones.structure.running import Running
from sherl.insertion import other_forward


def encoder_decoder_row(model: Any, tried: Tried) -> EncoderDecoderFamily:
    """A row for an encoder-decoder that reads text, of a model of it without values, with its language head.

    Raises:
        UnsupportedBackboneError: it reads something else, or its encoder or decoder has no list of alike blocks.
    """
    config = model.config
    reads = getattr(model, "main_input_name", None)
    if reads != "input_ids":
        raise tried.refused(f"it is an encoder-decoder that reads {reads!r}, and only those that read text are tried")
    tried.words(config)
    paths = {id(module): name for name, module in model.named_modules()}
    parts = {"encoder": model.get_encoder(), "decoder": model.get_decoder()}
    if any(id(part) not in paths or not paths[id(part)] for part in parts.values()):
        raise tried.refused("its encoder and decoder (get_encoder, get_decoder) are no parts of it")
    encoder, of_encoder = _stack(model, paths[id(parts["encoder"])], "encoder", tried)
    decoder, of_decoder = _stack(model, paths[id(parts["decoder"])], "decoder", tried)
    return EncoderDecoderFamily(
        name=tried.kind,
        encoder=encoder,
        decoder=decoder,
        logits=own_logits,
        attention=None,
        no_prompts=WITHOUT_PROMPTS,
        positions="absolute" if has_position_table(model, config) else "relative",
        found=note_of(tried.kind, of_encoder, f"Of the decoder: {of_decoder}"),
    )


def _stack(model: Any, inside: str, name: str, tried: Tried) -> tuple[Stack, str]:
    """The blocks of the encoder or the decoder, and what is said of them."""
    config = model.config
    depth = getattr(config, f"{name}_layers", None)
    path, blocks = tried.longest_list(model, depth, inside)
    targets, end = tried.parts_of(path, blocks, config)
    stack = Stack(
        blocks=path,
        lora_targets=targets,
        attention_outputs=(),
        feed_forward_output=end,
        final_norm=_final_norm(model, path, name, tried),
    )
    return stack, described(path, blocks, targets, end)


def _final_norm(model: Any, path: str, name: str, tried: Tried) -> str | None:
    """The norm behind a stack's blocks; None where there is none."""

    def run(masked: bool) -> Tensor:
        keep = torch.ones(2, 6, dtype=torch.bool, device="meta")
        seen = masks.additive(keep, torch.float32) if masked else None
        inputs: dict[str, Any] = {"input_ids": keep.to(torch.int64), "attention_mask": seen, "return_dict": True}
        part = model.get_encoder()
        if name == "decoder":
            part = model.get_decoder()
            inputs |= {
                "attention_mask": masks.causal(6, 6, dtype=torch.float32, device=keep.device) if masked else None,
                "encoder_hidden_states": torch.empty(2, 6, int(model.config.hidden_size), device="meta"),
                "encoder_attention_mask": seen,
                "use_cache": False,
            }
        hidden: Tensor = part(**inputs).last_hidden_state
        return hidden

    return tried.norm_behind_masked(f"its {name}", model, path, run)


def own_logits(model: Any, hidden: Tensor) -> Tensor:
    """What the model's own forward makes of the decoder's hidden states: its head, with whatever scale or bias goes with it."""
    given = BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=hidden)
    ids = torch.zeros(hidden.shape[:2], dtype=torch.int64, device=hidden.device)
    read = BaseModelOutput(last_hidden_state=hidden)
    decoder: nn.Module = model.get_decoder()
    with other_forward(decoder, lambda *_args, **_kwargs: given):
        logits: Tensor = model(encoder_outputs=read, decoder_input_ids=ids, use_cache=False, return_dict=True).logits
    return logits


def check_encoder_decoder(running: Running) -> None:
    """Run small batches through a model whose row was found by structure, to see that it is such an encoder-decoder: the same as
    transformers computes, whatever stands in padding, with and without a cache.

    Raises:
        UnsupportedBackboneError: it is not; the message says in what.
    """
    backbone = running.backbone
    assert isinstance(backbone, EncoderDecoderBackbone)
    ids = running.token_ids(2, 6)
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    batch = {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": ids.flip(1)}
    hidden = running.through_blocks("2 x 6 tokens", batch, (2, 6, int(backbone.config.hidden_size)))
    logits = running.ran("a hidden state", lambda: backbone.vocabulary_logits(hidden))
    theirs = running.ran("2 x 6 tokens", lambda: backbone.model(**batch, use_cache=False).logits)
    if logits.shape != theirs.shape or not close(logits, theirs):
        raise running.refused("its logits are not those that transformers computes")
    other = {**batch, "input_ids": torch.where(mask.bool(), ids, ids[:1, :1])}
    if not close(running.encoded("other padding", other), hidden):
        raise running.refused("what stands in padding changes the hidden states of the decoder")
    later = {**batch, "decoder_input_ids": torch.cat([ids.flip(1)[:, :5], running.others(ids[:, :1])], dim=1)}
    if not close(running.encoded("another token", later)[:, :5], hidden[:, :5]):
        raise running.refused("a token of the decoder sees those behind it")

    def written(use_cache: bool) -> Tensor:
        return backbone.generate(batch, 3, finish=lambda states: states, whole_length=True, use_cache=use_cache)

    with_cache = running.ran("writing with a cache", lambda: written(True))
    if not torch.equal(with_cache, running.ran("writing", lambda: written(False))):
        raise running.refused("with a cache of keys and values it writes something else than without")
    running.require_read(batch, hidden)
