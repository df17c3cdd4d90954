"""What is kept for backward: activation checkpointing, block by block, put on and taken off again."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


class _CheckpointedForward:
    """A block's forward that keeps only the block's input and runs again in backward."""

    def __init__(self, block: nn.Module) -> None:
        self.block = block
        # The instance's own forward, where somebody else put one there, else the class's.
        self.original: Callable[..., Any] = block.forward
        self.was_on_instance = "forward" in vars(block)
        self.enabled = True
        # inspect.signature follows it: libraries look at a block's forward to see what it takes
        self.__wrapped__ = self.original

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.enabled and self.block.training and torch.is_grad_enabled():
            return checkpoint(self.original, *args, use_reentrant=False, preserve_rng_state=True, **kwargs)
        return self.original(*args, **kwargs)


class Checkpointing:
    """Activation checkpointing on blocks of a model, until :meth:`remove` (or the end of a ``with``).

    A block in training mode with gradients on keeps its input and runs a second time in backward, with the same
    random numbers: gradients are those of a run without checkpointing, also with dropout. In evaluation mode nothing
    changes. The module tree, state-dict keys and hooks are left alone; hooks on the block itself stay outside of what
    runs twice.
    """

    def __init__(self, blocks: Iterable[nn.Module]) -> None:
        self._wrapped: list[_CheckpointedForward] = []
        for block in blocks:
            wrapped = _CheckpointedForward(block)
            vars(block)["forward"] = wrapped
            self._wrapped.append(wrapped)

    @property
    def blocks(self) -> tuple[nn.Module, ...]:
        """The blocks it is on; empty after :meth:`remove`."""
        return tuple(wrapped.block for wrapped in self._wrapped)

    def remove(self) -> None:
        """Take it off: every block has its own forward again. A second call does nothing."""
        for wrapped in self._wrapped:
            # Where somebody wrapped the forward once more, theirs stays on top and ours only passes through.
            wrapped.enabled = False
            if vars(wrapped.block).get("forward") is not wrapped:
                continue
            if wrapped.was_on_instance:
                vars(wrapped.block)["forward"] = wrapped.original
            else:
                del vars(wrapped.block)["forward"]
        self._wrapped.clear()

    def __enter__(self) -> Checkpointing:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()


def checkpoint_blocks(blocks: Iterable[nn.Module]) -> Checkpointing:
    """Put activation checkpointing on ``blocks``; the handle takes it off again."""
    return Checkpointing(blocks)
