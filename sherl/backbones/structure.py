"""An architecture without a row, tried by structure: the longest list of alike blocks, read as a text encoder.

What is guessed is checked twice. :func:`row_by_structure` looks at the modules of a model without values. Once there are
weights, :func:`check_found` runs a small batch through the model: every block must run once, in order, on hidden states
[batch, tokens, width]; padding must not reach the tokens; and tokens must see those behind them. What fails is refused, with
what was found and what a row would have to say.
"""

from __future__ import annotations

import inspect
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes
from transformers import initialization
from transformers.models.auto import modeling_auto

from sherl.backbones import masks
from sherl.backbones.backbone import Backbone
from sherl.backbones.families import FAMILIES, EncoderFamily
from sherl.errors import UnsupportedBackboneError
from sherl.insertion import BlockCall, block_calls
from sherl.shapes import Int

WHAT_A_ROW_SAYS = (
    "A row says where the blocks are, which linear layers LoRA and adapters take, and how masks are made: see "
    "sherl.backbones.families, and docs/your_own_backbone.md for an example."
)
_QUERIES = ("q", "query", "q_proj", "q_lin", "query_proj", "wq")
_VALUES = ("v", "value", "v_proj", "v_lin", "value_proj", "wv")
_JOINT = ("qkv", "qkv_proj", "Wqkv", "query_key_value", "in_proj")
_ATTENTION_INPUTS = frozenset([*_QUERIES, *_VALUES, *_JOINT])
# of what a change of padding may do to a token's hidden state, which is of the size of 1
_ROUNDING = 1e-3


@dataclass(frozen=True, kw_only=True)
class FoundFamily(EncoderFamily):
    """A row that was found by structure; ``note`` says what was found."""

    note: str


def row_by_structure(config: Any, source: str) -> FoundFamily:
    """A row for a text encoder that sherl does not know.

    Raises:
        UnsupportedBackboneError: the model is no text encoder, or has no list of alike blocks.
    """
    kind = str(getattr(config, "model_type", "")) or "nameless"
    _refuse_other_kinds(config, kind, source)
    with _disable_current_modes(), torch.device("meta"), initialization.no_init_weights():
        try:
            model = transformers.AutoModel.from_config(config)
        except (ValueError, ImportError, TypeError) as error:  # TypeError: of two classes, funnel
            raise _refused(kind, source, f"transformers makes no model of it ({_short(error)})") from error
    if getattr(model, "main_input_name", "") != "input_ids":
        raise _refused(kind, source, f"it reads {getattr(model, 'main_input_name', 'something else')!r}, no input_ids")
    path, blocks = _longest_list(model, kind, source)
    linears = [name for name, module in blocks[0].named_modules() if isinstance(module, nn.Linear)]
    width = int(getattr(config, "hidden_size", 0))
    ends = [name for name in linears if blocks[0].get_submodule(name).out_features == width]
    if not ends:
        raise _refused(
            kind, source, f"the blocks at {path!r} have no linear layer that gives hidden_size ({width}) numbers"
        )
    # by definition, not by execution, modules are in order: the attention's own last layer may come behind the others
    end = ([name for name in ends if "att" not in name] or ends)[-1]
    targets = tuple(name for name in linears if name.rpartition(".")[2] in _ATTENTION_INPUTS)
    arguments = inspect.signature(type(model).forward).parameters
    note = (
        f"{kind!r} has no row: it was read by structure. Blocks: {len(blocks)} of class {type(blocks[0]).__name__} at "
        f"{path!r}; LoRA on {', '.join(targets) or 'nothing'}; adapters on {end!r}. Memory may depend on the padding "
        "of a batch, as the model makes its masks itself."
    )
    return FoundFamily(
        name=kind,
        blocks=path,
        lora_targets=targets,
        feed_forward_output=end,
        masks=masks.for_flags,
        no_prompts="its row was found by structure, which does not say what blocks must be given with prompts in front",
        positions="absolute" if hasattr(config, "max_position_embeddings") else "relative",
        position_offset=_position_offset(model),
        attention=None,
        token_types="token_type_ids" in arguments,
        pooler="add_pooling_layer" in inspect.signature(type(model).__init__).parameters,
        note=note,
    )


def _refuse_other_kinds(config: Any, kind: str, source: str) -> None:
    if getattr(config, "is_encoder_decoder", False):
        raise _refused(kind, source, "it is an encoder-decoder, and only text encoders are tried by structure")
    if getattr(config, "is_decoder", False):
        raise _refused(kind, source, "its configuration sets it up as a decoder (is_decoder)")
    writes = kind in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if writes and kind not in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        raise _refused(kind, source, "it is a model that writes text, and only text encoders are tried by structure")


def _longest_list(model: nn.Module, kind: str, source: str) -> tuple[str, nn.ModuleList]:
    lists = {name: module for name, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    alike = {
        name: blocks
        for name, blocks in lists.items()
        if len({type(block) for block in blocks}) == 1 and not isinstance(blocks[0], nn.ModuleList | nn.Linear)
    }
    if not alike or max(map(len, alike.values())) < 2:
        found = "; ".join(f"{len(blocks)} at {name!r}" for name, blocks in lists.items()) or "none"
        raise _refused(kind, source, f"it has no list of at least two alike blocks (lists found: {found})")
    path = max(alike, key=lambda name: len(alike[name]))
    parent = path.rpartition(".")[0]
    beside = [
        name
        for name, blocks in alike.items()
        if name != path and name.rpartition(".")[0] == parent and len(blocks) == len(alike[path])
    ]
    if beside:
        raise _refused(kind, source, f"the parts of its blocks lie in lists of their own: {', '.join([path, *beside])}")
    depth = getattr(model.config, "num_hidden_layers", None)
    if isinstance(depth, int) and depth != len(alike[path]):
        raise _refused(
            kind,
            source,
            f"its longest list of blocks, {path!r}, has {len(alike[path])}, and the configuration says {depth}",
        )
    return path, alike[path]


def _position_offset(model: nn.Module) -> int:
    """Rows of the position table before the first token's: behind the padding's, where it has one."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            return 0 if module.padding_idx is None else module.padding_idx + 1
    return 0


def check_found(backbone: Backbone, source: str) -> None:
    """Run small batches through a model whose row was found by structure, to see that it is what it was taken for.

    Raises:
        UnsupportedBackboneError: it is not; the message says in what.
    """
    kind = backbone.family

    def refused(why: str) -> UnsupportedBackboneError:
        return _refused(kind, source, f"{why} (found: {backbone.block_path(0)} and {backbone.depth - 1} more)")

    generator = torch.Generator().manual_seed(0)
    words = getattr(backbone.config, "vocab_size", None)
    if not isinstance(words, int) or words < 2:
        raise refused("its configuration says no vocab_size")
    ids = torch.randint(words // 2, words, (2, 6), generator=generator).to(backbone.device)
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    calls: Counter[int] = Counter()
    shapes: list[tuple[int, ...]] = []

    def on_call(layer: int, call: BlockCall) -> None:
        calls[layer] += 1
        shapes.append(tuple(call.hidden.shape))

    with torch.no_grad():
        try:
            with block_calls(dict(enumerate(backbone.blocks)), on_call):
                hidden = backbone.encode({"input_ids": ids, "attention_mask": mask})
        except (TypeError, ValueError, RuntimeError, IndexError, AttributeError) as error:
            raise refused(f"a batch of 2 x 6 tokens does not run through it: {_short(error)}") from error
        wanted = (2, 6, int(backbone.config.hidden_size))
        if list(calls.items()) != [(layer, 1) for layer in range(backbone.depth)]:
            raise refused("its blocks do not run once each, one after the other")
        if odd := sorted({shape for shape in [*shapes, tuple(hidden.shape)] if shape != wanted}):
            raise refused(
                f"hidden states of 2 x 6 tokens are {odd[0]}, and [batch, tokens, width] {wanted} was expected"
            )
        if why := _wrong_with_masks(backbone, ids, mask, hidden):
            raise refused(why)
        if not _reads_what_is_replaced(backbone, ids, mask, hidden):
            raise refused("what is put in place of its last block's input does not reach the last hidden state")


def _wrong_with_masks(
    backbone: Backbone, ids: Int[Tensor, "2 6"], mask: Int[Tensor, "2 6"], hidden: Tensor
) -> str | None:
    keep = mask.bool()
    other = ids.clone()
    other[1, 4:] = ids[0, :2]
    longer = torch.cat([ids, ids[:, :3]], dim=1), torch.cat([mask, torch.zeros_like(mask[:, :3])], dim=1)
    for name, (new_ids, new_mask) in {"what stands in": (other, mask), "more": longer}.items():
        changed = backbone.encode({"input_ids": new_ids, "attention_mask": new_mask})[:, :6]
        if not _close(changed[keep], hidden[keep]):
            return (
                f"{name} padding changes the hidden states of tokens, although attention_mask says that it is padding"
            )
    other = ids.clone()
    other[0, 5] = ids[0, 0]
    changed = backbone.encode({"input_ids": other, "attention_mask": mask})
    if torch.equal(changed[0, 0], hidden[0, 0]):
        return "a token does not see those behind it, as an encoder's do"
    return None


def _reads_what_is_replaced(backbone: Backbone, ids: Tensor, mask: Tensor, hidden: Tensor) -> bool:
    def replace(_layer: int, call: BlockCall) -> None:
        call.hidden = call.hidden.flip(2)

    last = backbone.depth - 1
    with block_calls({last: backbone.blocks[last]}, replace):
        changed = backbone.encode({"input_ids": ids, "attention_mask": mask})
    return not torch.allclose(changed, hidden)


def _close(one: Tensor, other: Tensor) -> bool:
    rounding = _ROUNDING if one.dtype == torch.float32 else 30 * _ROUNDING
    return bool((one - other).abs().max() <= rounding * other.abs().max())


def _refused(kind: str, source: str, why: str) -> UnsupportedBackboneError:
    return UnsupportedBackboneError(
        f"{source!r} is a {kind!r} model, which sherl has no row for. Known are: {', '.join(FAMILIES.names())}. It was tried by "
        f"structure, and {why}. {WHAT_A_ROW_SAYS}"
    )


def _short(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200].rstrip(".") if lines else type(error).__name__
