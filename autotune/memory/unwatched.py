"""What torch's backward does in place where nobody follows it, and out of place where a dispatch mode is on.

A mode that follows tensors would so see more of them than there are in a run that is not followed. These operators are
therefore done in place where backward would, on real tensors and on fake ones alike.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# Makes an operator's result in another way than the operator itself would; see :mod:`autotune.memory.cuda_ops`.
Kernel = Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]

aten = torch.ops.aten


def holders_of_backward() -> tuple[int, int, int]:
    """How many hold a gradient that backward alone holds, while an operator is called with it: in C++, its storage there, and in
    Python, as this torch and this Python count."""
    return _counted()


@functools.cache
def _counted() -> tuple[int, int, int]:
    with torch.inference_mode(False), torch.enable_grad():
        leaf = torch.zeros(1, device="cpu", requires_grad=True)
        look = _Look()
        with look:
            torch.autograd.backward(leaf.sin() + leaf.cos())
    (alone,) = look.seen
    return alone


class _Look(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no types here
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no types here
        self.seen: list[tuple[int, int, int]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        if func is aten.add.Tensor and _in_formula():
            self.seen.append(_holders(args))
        return func(*args, **(kwargs or {}))


def _in_formula() -> bool:
    """Whether backward computes a gradient now (and does not run a checkpointed block again)."""
    return torch._C._current_graph_task_id() != -1 and not torch.is_grad_enabled()


def _holders(args: tuple[Any, ...]) -> tuple[int, int, int]:
    tensor = args[0]
    storage = torch._C._storage_Use_Count(tensor.untyped_storage()._cdata)
    return tensor._use_count(), storage, sys.getrefcount(tensor)


def _added(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Backward adds a second gradient of a tensor to the first one, in place where nothing else holds that."""
    tensors = len(args) == 2 and not kwargs and all(isinstance(one, torch.Tensor) for one in args)
    if tensors and _in_formula() and args[0].layout is torch.strided and _holders(args) == holders_of_backward():
        return args[0].add_(args[1])
    return func(*args, **kwargs)


def _filled(instead: Any) -> Kernel:
    """A formula that fills fresh zeros."""

    def kernel(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return (instead if _in_formula() else func)(*args, **kwargs)

    return kernel


AS_UNWATCHED: dict[Any, Kernel] = {
    aten.add.Tensor: _added,
    aten.scatter_add.default: _filled(aten.scatter_add_.default),  # of gather
    aten.scatter.src: _filled(aten.scatter_.src),  # of max and min along a dimension
    aten.index_put.default: _filled(aten.index_put_.default),  # of an index
    aten.index_add.default: _filled(aten.index_add_.default),  # of index_select
}
