"""How early blocks are stood in for where their hidden states are stored (:mod:`sherl.backbones.standing`): what a row says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sherl.insertion import BlockCall

Output = Callable[[Any, BlockCall, Tensor], Any]


@dataclass(frozen=True, kw_only=True)
class Early:
    """What stands in for the early blocks of a stack.

    output: what a block that does not compute gives, of the block, its call and a hidden state: that state in the form of the
        block's own output.
    front: paths of modules that only the first block's input, or what lies between early blocks, is computed with (token
        tables, a stem); a module that several stacks name belongs to all of them. Where hidden states are stored each gives
        one of these instead; of what they are added to or normed by nothing is read.
    stays: paths inside a block of what the late blocks of its stack are given by it beside hidden states.
    """

    output: Output
    front: tuple[str, ...] = ()
    stays: tuple[str, ...] = ()


def alone(block: Any, call: BlockCall, hidden: Tensor) -> Tensor:
    """Of blocks that give hidden states and nothing else."""
    del block, call
    return hidden


def first_of_one(block: Any, call: BlockCall, hidden: Tensor) -> tuple[Tensor]:
    """Of blocks that give them in a tuple."""
    del block, call
    return (hidden,)


def before_attention(block: Any, call: BlockCall, hidden: Tensor) -> tuple[Tensor, None]:
    """Of blocks that give them with attention weights, which nobody asked for."""
    del block, call
    return hidden, None


def with_position_bias(block: Any, call: BlockCall, hidden: Tensor) -> tuple[Tensor, Tensor | None, None]:
    """T5: the first block makes the position bias that all blocks behind it add to their scores.

    The bias of cross-attention is zeros, which any block makes for itself.
    """
    bias = call.get("position_bias")
    attention = block.layer[0].SelfAttention
    if bias is None and attention.has_relative_attention_bias and attention.relative_attention_bias.weight.numel():
        tokens = call.hidden.shape[1]
        bias = attention.compute_bias(tokens, tokens, device=hidden.device)
    return hidden, bias, None
