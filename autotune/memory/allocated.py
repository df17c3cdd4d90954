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
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

from autotune.memory.events import PARTS, Event, Part
from autotune.memory.unwatched import AS_UNWATCHED, Kernel, holders_of_backward

Trackable = torch.nn.Module | torch.Tensor | Mapping[Any, Any] | Iterable[Any]


class _Storage(weakref.ref[torch.UntypedStorage]):
    """A weak reference to a live storage, with what was counted for it."""

    __slots__ = ("id", "key", "nbytes", "part")

    id: int
    key: int
    nbytes: int
    part: Part


class TensorMemory:
    """Follows live tensor bytes inside ``with TensorMemory() as memory: ...``.

    peak_bytes: the highest sum of live storages so far. live_bytes: the sum now. events: every birth and death in
    order, where ``record_events`` asks for them, else None. Storages that existed before count from when they are
    entered with :meth:`track`. All figures stand still once the block is left.

    kernels: operators whose results are made by something else, with what they make meanwhile counted too.

    It sees the thread that entered it and the CPU backward that this thread starts, as dispatch modes do.

    Raises:
        RuntimeError: one object is entered a second time; the figures of two blocks would be mixed.
    """

    def __init__(self, *, record_events: bool = False, kernels: Mapping[Any, Kernel] | None = None) -> None:
        self.live_bytes = 0
        self.peak_bytes = 0
        self._log: list[tuple[int, int]] | None = [] if record_events else None  # id, change of the live bytes
        self._labels: dict[int, Part] = {}
        self._next_id = 0
        self._parts: dict[Part, int] = dict.fromkeys(PARTS, 0)
        self._peak_parts = dict(self._parts)
        self._live: dict[int, _Storage] = {}
        self._birth_part: Part = "activations"
        holders_of_backward()  # counted once, and not within a backward
        self._mode = _Following(self._see, kernels or {})
        self._handles: list[Any] = []
        self._entered = False

    @property
    def peak_parts(self) -> dict[Part, int]:
        """Bytes of each part at the moment when the live bytes were highest; they sum to ``peak_bytes``."""
        return dict(self._peak_parts)

    @property
    def events(self) -> list[Event] | None:
        """Every birth and death so far, in order; None where they are not recorded."""
        if self._log is None:
            return None
        return [
            Event("alloc" if change >= 0 else "free", number, abs(change), self._labels[number])
            for number, change in self._log
        ]

    @contextmanager
    def bearing(self, part: Part) -> Iterator[None]:
        """What is born inside is called this."""
        before = self.bear(part)
        try:
            yield
        finally:
            self.bear(before)

    def bear(self, part: Part) -> Part:
        """What is born from now on is called this; returns what it was called before."""
        before, self._birth_part = self._birth_part, part
        return before

    def __enter__(self) -> TensorMemory:
        if self._entered:
            raise RuntimeError(
                "This TensorMemory was entered before, and its figures belong to that block. Make a new one."
            )
        self._entered = True
        # what is born inside any optimizer's step is its state (and its temporaries)
        self._handles.append(register_optimizer_step_pre_hook(self._step_begins))
        self._handles.append(register_optimizer_step_post_hook(self._step_ends))
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

    def _step_begins(self, *_: Any) -> None:
        self.bear("optimizer")

    def _step_ends(self, *_: Any) -> None:
        self.bear("activations")

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
            self._begin(entry)
        elif known.nbytes != nbytes:
            # resized in place: the new block exists before the old one goes, but only inside the kernel
            self._end(known)
            known.nbytes, known.part = nbytes, part or known.part
            self._begin(known)
        elif part is not None and known.part != part:
            self._parts[known.part] -= nbytes
            self._parts[part] += nbytes
            known.part = self._labels[known.id] = part
            self._note_peak()

    def _forget(self, entry: weakref.ref[torch.UntypedStorage]) -> None:
        assert isinstance(entry, _Storage)  # the only references that carry this callback
        if self._live.get(entry.key) is entry:
            del self._live[entry.key]
            self._end(entry)

    def _begin(self, entry: _Storage) -> None:
        entry.id = self._next_id
        self._next_id += 1
        self._labels[entry.id] = entry.part
        self._change(entry, entry.nbytes)
        self._note_peak()

    def _end(self, entry: _Storage) -> None:
        if self._log is None:
            del self._labels[entry.id]
        self._change(entry, -entry.nbytes)

    def _change(self, entry: _Storage, nbytes: int) -> None:
        self.live_bytes += nbytes
        self._parts[entry.part] += nbytes
        if self._log is not None and nbytes:  # a storage of no bytes asks nothing of an allocator
            self._log.append((entry.id, nbytes))

    def _note_peak(self) -> None:
        if self.live_bytes >= self.peak_bytes:  # equal too: a storage that was given its name at the peak shows it
            self.peak_bytes = self.live_bytes
            self._peak_parts = self._parts.copy()


_ASK_DEVICE = torch.ops.prim.device.default


class _Following(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no types here
    """Shows every operator's result to ``see``; what stands in ``kernels`` is called instead of an operator."""

    def __init__(self, see: Callable[[Any], None], kernels: Mapping[Any, Kernel]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no types here
        self._see_result = see
        self._kernels = {**AS_UNWATCHED, **kernels}
        self._in_kernel = False

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
        if func in self._kernels and not self._in_kernel:
            return self._replaced(func, args, kwargs)
        if _is_composite(func):
            # Under inference_mode composite operators arrive whole; taken apart, their temporaries are seen too.
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        self._see_result(result)
        return result

    def _replaced(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._in_kernel = True
        try:
            with self:
                return self._kernels[func](func, args, kwargs)
        finally:
            self._in_kernel = False


@functools.cache
def _is_composite(func: Any) -> bool:
    # "prim" operators (a tensor's device, its layout) are no kernels and make no tensors
    if not isinstance(func, torch._ops.OpOverload) or func.namespace == "prim":
        return False
    # what has a kernel of its own is not taken apart where it runs (the gradient of silu)
    own_kernel = torch._C._dispatch_has_kernel_for_dispatch_key(func._schema.name + _overload(func), "CPU")
    return func._can_decompose() and not own_kernel


def _overload(func: torch._ops.OpOverload[..., Any]) -> str:
    return f".{func._schema.overload_name}" if func._schema.overload_name else ""


def _pieces(tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The strided tensors that a sparse or jagged one is made of; none for layouts that hold no storages."""
    if tensor.layout is torch.sparse_coo:
        return tensor._indices(), tensor._values()
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return tensor.crow_indices(), tensor.col_indices(), tensor.values()
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return tensor.ccol_indices(), tensor.row_indices(), tensor.values()
    return ()
