"""Reading the hidden states of a stack as they come by: h_0 (what its first block gets) ... h_N (what its last gives)."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from sherl.backbones import Backbone
from sherl.insertion import BlockCall, block_calls

OnState = Callable[[int, Tensor], None]
OnLast = Callable[[Tensor], "Tensor | None"]


@contextmanager
def hidden_states(
    backbone: Backbone, stack: range, wanted: Container[int], on_state: OnState, on_last: OnLast | None = None
) -> Iterator[None]:
    """Call ``on_state(n, h_n)`` for the wanted n of each pass through a stack, until the ``with`` ends.

    stack: its blocks, counted over the whole backbone; n counts in the stack, len(stack) is the last block's output.
    on_last: called after that with the last block's output; what it gives (None: nothing) takes the output's place.
    """
    blocks: dict[int, nn.Module] = {layer - stack.start: backbone.blocks[layer] for layer in stack}

    def on_call(place: int, call: BlockCall) -> None:
        if place in wanted:
            on_state(place, call.hidden)

    def on_end(_block: nn.Module, _inputs: Any, output: Any) -> Any:
        hidden = output if isinstance(output, Tensor) else output[0]
        if len(stack) in wanted:
            on_state(len(stack), hidden)
        changed = None if on_last is None else on_last(hidden)
        if changed is None:
            return None
        return changed if isinstance(output, Tensor) else (changed, *output[1:])

    with block_calls(blocks, on_call), ExitStack() as hooks:
        hooks.callback(blocks[len(stack) - 1].register_forward_hook(on_end).remove)
        yield


def width_at(backbone: Backbone, stack: range, place: int) -> int:
    """Width of h_n of a stack."""
    if place < len(stack):
        return backbone.width_of(stack.start + place)
    return backbone.output_width if stack.stop == backbone.depth else backbone.width_of(stack.stop - 1)


def stacks_of(backbone: Backbone) -> list[range]:
    """The blocks of each stack, counted over the whole backbone, in the order in which they run."""
    return list(backbone.stacks.values())


def stack_names(backbone: Backbone) -> list[str]:
    """What its stacks are called, in the order of :func:`stacks_of`."""
    return list(backbone.stacks)
