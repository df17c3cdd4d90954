"""Where a method reaches into a pretrained model: hooks that see the inputs of its blocks and may replace them.

The hooks live for one forward pass. Between passes the model is untouched, and an error in the middle of a pass leaves
nothing behind.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn

from sherl.errors import UnsupportedBackboneError


class BlockCall:
    """The arguments of one call of a block, by name, however the caller passed them."""

    def __init__(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.block = block
        self.args = list(args)
        self.kwargs = dict(kwargs)
        self._names = _argument_names(cast(Hashable, type(block)))

    @property
    def hidden(self) -> Tensor:
        """The hidden states, a block's first argument: [batch, tokens, width].

        Raises:
            UnsupportedBackboneError: the first argument is no tensor.
        """
        hidden = self.get(self._names[0])
        if not isinstance(hidden, Tensor):
            raise UnsupportedBackboneError(
                f"A {type(self.block).__name__} got {type(hidden).__name__} as its first argument, "
                f"{self._names[0]!r}; hidden states were expected there."
            )
        return hidden

    @hidden.setter
    def hidden(self, hidden: Tensor) -> None:
        self.set(self._names[0], hidden)

    def get(self, name: str) -> Any:
        """An argument; None if it was not passed."""
        place = self._place(name)
        return self.args[place] if place is not None else self.kwargs.get(name)

    def set(self, name: str, value: Any) -> None:
        """Replace an argument, or pass it in addition."""
        place = self._place(name)
        if place is not None:
            self.args[place] = value
        else:
            self.kwargs[name] = value

    def _place(self, name: str) -> int | None:
        if name not in self._names:
            return None
        place = self._names.index(name)
        return place if place < len(self.args) else None


@cache
def _argument_names(block: Hashable) -> tuple[str, ...]:
    # Of the class, not the instance: an instance's forward may be wrapped (activation checkpointing).
    forward = cast("type[nn.Module]", block).forward
    return tuple(inspect.signature(forward).parameters)[1:]


OnCall = Callable[[int, BlockCall], None]


@contextmanager
def block_calls(blocks: Mapping[int, nn.Module], on_call: OnCall) -> Iterator[None]:
    """Call ``on_call(index, call)`` just before each of these blocks runs, until the ``with`` ends.

    What it changes in the call is what the block gets. To record an input is to read ``call.hidden``; to replace it is
    to set it.
    """

    def hook_of(index: int) -> Callable[..., tuple[tuple[Any, ...], dict[str, Any]]]:
        def hook(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            call = BlockCall(block, args, kwargs)
            on_call(index, call)
            return tuple(call.args), call.kwargs

        return hook

    with ExitStack() as stack:
        for index, block in blocks.items():
            handle = block.register_forward_pre_hook(hook_of(index), with_kwargs=True)
            stack.callback(handle.remove)
        yield


@contextmanager
def other_forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Let a module compute something else until the ``with`` ends; its own forward does not run."""
    own = vars(module).get("forward")
    vars(module)["forward"] = forward
    try:
        yield
    finally:
        if own is None:
            vars(module).pop("forward", None)
        else:
            vars(module)["forward"] = own


@contextmanager
def early_route(blocks: Sequence[nn.Module], first_late: int) -> Iterator[None]:
    """Run everything before block ``first_late`` under no_grad, the rest as the caller has it.

    ``first_late = len(blocks)`` puts the whole model under no_grad, 0 nothing of it.
    """
    if first_late == 0:
        yield
        return
    asked = torch.is_grad_enabled()
    handle = None
    if first_late < len(blocks):
        # Registered before any other hook on that block, so that those run with gradients again.
        handle = blocks[first_late].register_forward_pre_hook(lambda *_: torch.set_grad_enabled(asked) and None)
    try:
        torch.set_grad_enabled(False)
        yield
    finally:
        torch.set_grad_enabled(asked)
        if handle is not None:
            handle.remove()
