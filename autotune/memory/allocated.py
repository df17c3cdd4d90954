"""The peak of live tensor bytes, exact to the byte, of whatever runs inside a ``with`` block.

A dispatch mode sees the result of every operator, remembers the storages under the results and hears through weak
references when a storage dies. Storages are counted, not tensors: a view costs nothing, and what autograd saved for
backward lives as long as it really does. It works alike on real CPU tensors and on fake ones
(:class:`torch._subclasses.fake_tensor.FakeTensorMode`), where nothing is computed and nothing is held.

What it cannot see: buffers that an operator's kernel takes and gives back inside itself, storages resized behind the
dispatcher's back (``untyped_storage().resize_``) until an operator returns them again, and tensors made without an
operator (``torch.from_numpy``), which are entered with :meth:`TensorMemory.track`.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

Part = Literal["weights", "gradients", "optimizer", "inputs", "activations"]
PARTS: tuple[Part, ...] = ("weights", "gradients", "optimizer", "inputs", "activations")

Trackable = torch.nn.Module | torch.Tensor | Mapping[Any, Any] | Iterable[Any]


@dataclass(frozen=True, slots=True)
class Event:
    """One change of the live bytes: ``change`` is above zero where a storage was born, below where one died."""

    change: int
    part: Part


class _Storage(weakref.ref[torch.UntypedStorage]):
    """A weak reference to a live storage, with what was counted for it."""

    __slots__ = ("key", "nbytes", "part")

    key: int
    nbytes: int
    part: Part


class TensorMemory:
    """Follows live tensor bytes inside ``with TensorMemory() as memory: ...``.

    peak_bytes: the highest sum of live storages so far. live_bytes: the sum now. events: every birth and death in
    order, where ``record_events`` asks for them, else None. Storages that existed before count from when they are
    entered with :meth:`track`. All figures stand still once the block is left.

    It sees the thread that entered it and the CPU backward that this thread starts, as dispatch modes do.

    Raises:
        RuntimeError: one object is entered a second time; the figures of two blocks would be mixed.
    """

    def __init__(self, *, record_events: bool = False) -> None:
        self.live_bytes = 0
        self.peak_bytes = 0
        self.events: list[Event] | None = [] if record_events else None
        self._parts: dict[Part, int] = dict.fromkeys(PARTS, 0)
        self._peak_parts = dict(self._parts)
        self._live: dict[int, _Storage] = {}
        self._birth_part: Part = "activations"
        self._mode = _Following(self._see)
        self._handles: list[Any] = []
        self._entered = False

    @property
    def peak_parts(self) -> dict[Part, int]:
        """Bytes of each part at the moment when the live bytes were highest; they sum to ``peak_bytes``."""
        return dict(self._peak_parts)

    def __enter__(self) -> TensorMemory:
        if self._entered:
            raise RuntimeError(
                "This TensorMemory was entered before, and its figures belong to that block. Make a new one."
            )
        self._entered = True
        # what is born inside any optimizer's step is its state (and its temporaries)
        self._handles.append(register_optimizer_step_pre_hook(lambda *_: self._bear("optimizer")))
        self._handles.append(register_optimizer_step_post_hook(lambda *_: self._bear("activations")))
        self._mode.__enter__()  # type: ignore[no-untyped-call]  # torch has no types here
        return self

    def __exit__(self, *error: Any) -> None:
        self._mode.__exit__(*error)  # type: ignore[no-untyped-call]  # torch has no types here
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._live.clear()  # drops the weak references, so that later deaths change nothing

    def track(self, *things: Trackable, part: Part | None = None) -> None:
        """Enter storages that exist already: of modules (parameters, buffers, gradients), tensors, optimizers, or
        mappings and iterables of these. Each storage counts once, however often it is entered.

        part: what they are called in ``peak_parts``; by default "weights" for modules, "optimizer" for optimizers'
        state and "inputs" for the rest. A storage that is known already is renamed.
        """
        for thing in things:
            if isinstance(thing, torch.Tensor):
                self._count(thing, part or "inputs")
            elif isinstance(thing, torch.nn.Module):
                self._track_module(thing, part)
            elif isinstance(thing, torch.optim.Optimizer):
                self.track(thing.state.values(), part=part or "optimizer")
            elif isinstance(thing, Mapping):
                self.track(*thing.values(), part=part)
            elif isinstance(thing, Iterable) and not isinstance(thing, (str, bytes)):
                self.track(*thing, part=part)

    def _track_module(self, module: torch.nn.Module, part: Part | None) -> None:
        for parameter in module.parameters():
            self._count(parameter, part or "weights")
            if parameter.grad is not None:
                self._count(parameter.grad, "gradients")
            if parameter.requires_grad:
                self._handles.append(parameter.register_post_accumulate_grad_hook(self._name_gradient))  # type: ignore[no-untyped-call]  # torch has no types here
        for buffer in module.buffers():
            self._count(buffer, part or "weights")

    def _name_gradient(self, parameter: torch.Tensor) -> None:
        if parameter.grad is not None:
            self._count(parameter.grad, "gradients")

    def _bear(self, part: Part) -> None:
        self._birth_part = part

    def _see(self, result: Any) -> None:
        """Count the storages of an operator's result: a tensor, a nest of sequences of tensors, or anything else."""
        if isinstance(result, torch.Tensor):
            self._count(result, None)
        elif isinstance(result, (list, tuple)):
            for item in result:
                self._see(item)

    def _count(self, tensor: torch.Tensor, part: Part | None) -> None:
        try:
            storage = tensor.untyped_storage()
        except NotImplementedError:  # no strided tensor; asking each for its layout first would take longer
            for piece in _pieces(tensor):
                self._count(piece, part)
            return
        key, nbytes = storage._cdata, storage.nbytes()
        known = self._live.get(key)
        if known is None:
            entry = _Storage(storage, self._forget)
            entry.key, entry.nbytes, entry.part = key, nbytes, part or self._birth_part
            self._live[key] = entry
            self._change(nbytes, entry.part)
        elif known.nbytes != nbytes or (part is not None and known.part != part):
            # resized in place (the new block exists before the old one goes, but only inside the kernel), or renamed
            self._change(-known.nbytes, known.part)
            known.nbytes, known.part = nbytes, part or known.part
            self._change(nbytes, known.part)

    def _forget(self, entry: weakref.ref[torch.UntypedStorage]) -> None:
        assert isinstance(entry, _Storage)  # the only references that carry this callback
        if self._live.get(entry.key) is entry:
            del self._live[entry.key]
            self._change(-entry.nbytes, entry.part)

    def _change(self, nbytes: int, part: Part) -> None:
        self.live_bytes += nbytes
        self._parts[part] += nbytes
        if self.events is not None:
            self.events.append(Event(nbytes, part))
        if self.live_bytes >= self.peak_bytes:  # equal too: a storage that was given its name at the peak shows it
            self.peak_bytes = self.live_bytes
            self._peak_parts = self._parts.copy()


_ASK_DEVICE = torch.ops.prim.device.default


class _Following(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no types here
    """Shows every operator's result to ``see``."""

    def __init__(self, see: Callable[[Any], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no types here
        self._see_result = see

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # torch's guard against compiling this would cost more than all the rest of it

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        if func is _ASK_DEVICE:  # two thirds of all calls under fake tensors
            device = getattr(args[0], "fake_device", None)
            return func(*args) if device is None else device
        kwargs = kwargs or {}
        if _is_composite(func):
            # Under inference_mode composite operators arrive whole; taken apart, their temporaries are seen too.
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        self._see_result(result)
        return result


@functools.cache
def _is_composite(func: Any) -> bool:
    # "prim" operators (a tensor's device, its layout) are no kernels and make no tensors
    return isinstance(func, torch._ops.OpOverload) and func.namespace != "prim" and func._can_decompose()


def _pieces(tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The strided tensors that a sparse or jagged one is made of; none for layouts that hold no storages."""
    if tensor.layout is torch.sparse_coo:
        return tensor._indices(), tensor._values()
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return tensor.crow_indices(), tensor.col_indices(), tensor.values()
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return tensor.ccol_indices(), tensor.row_indices(), tensor.values()
    return ()
