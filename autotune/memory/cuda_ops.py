"""A step that is traced on fake CPU tensors, priced as a GPU would run it.

A fake CUDA backward aborts the process on a CPU build of torch, so the trace stays on the CPU and what differs is
translated. docs/memory.md lists the operators that the project's methods and families run and says of each whether
it differs; these do:

- attention: :mod:`autotune.memory.attention`
- dropout: one operator that keeps a boolean mask, where the CPU keeps one of the activations' dtype
- layer norm in half precision: the kept mean and deviation are float32
- the gradient of an embedding table of more than 3072 looked-up rows: sorted indices and partial sums
- the gradient of a softmax: the product of gradient and output
- the joint norm of the gradients: partial sums
- sums and means: partial results of several blocks of threads (:mod:`autotune.memory.reductions`)
- matrix products: cuBLAS and cuBLASLt are given workspaces for each thread, at its first product; forward and backward are two threads
- batches: a step copies its own to the device and lets it go
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Variable
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from autotune.memory.allocated import TensorMemory
from autotune.memory.attention import attention
from autotune.memory.gpu import GpuKind
from autotune.memory.reductions import buffers
from autotune.memory.unwatched import Kernel

aten = torch.ops.aten

_PRODUCTS = (aten.mm.default, aten.addmm.default, aten.bmm.default, aten.baddbmm.default)
_SUMS = (aten.sum.default, aten.sum.dim_IntList, aten.mean.default, aten.mean.dim)
_SIMPLE_EMBEDDING_ROWS = 3072  # up to here the kernel needs no sorting
_NORM_CHUNK = 65536


class CudaPricing:
    """Inside, what a ``TensorMemory`` made with ``kernels`` follows is what a GPU of this kind would hold."""

    def __init__(self, gpu: GpuKind) -> None:
        self._gpu = gpu
        self._workspaces: dict[tuple[bool, str], Tensor] = {}
        self._functions = _Functions(gpu)
        self._stack = ExitStack()
        self.kernels: dict[Any, Kernel] = {
            aten.native_layer_norm.default: _layer_norm,
            aten.native_dropout.default: _masked,
            aten.embedding_dense_backward.default: _embedding_backward,
            aten._foreach_norm.Scalar: _joint_norm,
            aten._softmax_backward_data.default: _softmax_backward,
            **dict.fromkeys(_PRODUCTS, self._product),
            **dict.fromkeys(_SUMS, self._sum),
        }
        self.memory = TensorMemory(record_events=True, kernels=self.kernels)

    def __enter__(self) -> CudaPricing:
        self._functions.memory = self.memory
        self._stack.enter_context(self._functions)
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()
        self._workspaces.clear()

    def _product(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = func(*args, **kwargs)
        in_backward = torch._C._current_graph_task_id() != -1
        for name, size in self._spaces(func, args):
            if size and (in_backward, name) not in self._workspaces:
                with self.memory.bearing("workspace"):
                    self._workspaces[in_backward, name] = torch.empty(size, dtype=torch.uint8)
        return result

    def _spaces(self, func: Any, args: tuple[Any, ...]) -> list[tuple[str, int]]:
        """The workspaces that a product calls for: a vector that is added makes it cuBLASLt's."""
        gpu = self._gpu
        by_lt = func is aten.addmm.default and args[0].dim() == 1
        if not by_lt or not gpu.separate_lt_bytes:
            return [("cublas", gpu.workspace_bytes)]
        first = [("cublas", gpu.workspace_bytes)] if gpu.lt_takes_both else []
        return [*first, ("cublaslt", gpu.separate_lt_bytes)]

    def _sum(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = func(*args, **kwargs)
        tensor = args[0]
        dims = args[1] if len(args) > 1 and args[1] is not None else ()
        accumulated = {torch.float64: 8, torch.int64: 8}.get(result.dtype, 4)
        with self.memory.bearing("workspace"):
            held = [
                torch.empty(size, dtype=torch.uint8)
                for size in buffers(tensor, dims, self._gpu, accumulated_bytes=accumulated)
            ]
        del held
        return result


class _Functions(TorchFunctionMode):
    """Above autograd, since these differ in what is kept for backward."""

    def __init__(self, gpu: GpuKind) -> None:
        super().__init__()
        self._gpu = gpu
        self.memory: TensorMemory | None = None
        self._instead: dict[Any, Callable[..., Any]] = {
            functional.dropout: _dropout,
            functional.scaled_dot_product_attention: self._attention,
            Tensor.backward: self._backward,
            Tensor.to: self._to,
        }

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        instead = self._instead.get(func)
        return (func if instead is None else instead)(*args, **(kwargs or {}))

    def _attention(self, *args: Any, **kwargs: Any) -> Tensor:
        return attention(self._gpu, *args, **kwargs)

    def _backward(self, loss: Tensor, gradient: Tensor | None = None, **_: Any) -> None:
        gradient = torch.ones_like(loss) if gradient is None else gradient
        with self:  # blocks that run again in backward are priced alike
            # torch.autograd.backward would be shown to this mode, and run with it switched off
            Variable._execution_engine.run_backward(
                (loss,), (gradient,), False, False, (), allow_unreachable=True, accumulate_grad=True
            )

    def _to(self, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if args and isinstance(args[0], torch.device) and kwargs.get("non_blocking"):
            assert self.memory is not None
            with self.memory.bearing("inputs"):
                return tensor.clone()  # a batch on its way to the device
        return tensor.to(*args, **kwargs)


def _dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:  # torch's names
    if not training or p == 0 or p == 1 or inplace or input.numel() == 0:
        return functional.dropout(input, p, training, inplace)
    return torch.native_dropout(input, p, True)[0]


def _masked(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    del func, kwargs
    mask = torch.empty_like(args[0], dtype=torch.bool)  # the mask comes first
    return torch.empty_like(args[0]), mask


def _layer_norm(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    input, shape = args[0], args[1]
    if input.dtype is torch.float32:
        return func(*args, **kwargs)
    lead = input.dim() - len(shape)
    kept = [*input.shape[:lead], *([1] * len(shape))]
    output = torch.empty_like(input, memory_format=torch.contiguous_format)
    mean, deviation = (input.new_empty(kept, dtype=torch.float32) for _ in range(2))
    return output, mean, deviation


def _embedding_backward(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    grad, indices, num_rows = args[0], args[1], args[2]
    looked_up = indices.numel()
    if looked_up <= _SIMPLE_EMBEDDING_ROWS:
        return func(*args, **kwargs)
    numbers = [indices.new_empty(looked_up) for _ in range(2)]
    meanwhile = [indices.new_empty(looked_up), indices.new_empty(2 * looked_up)]  # what is sorted, and room for it
    del meanwhile
    table = func(*args, **kwargs)
    # how many different rows there are is in the values: as many as there can be are provided for
    segments = min(looked_up, num_rows)
    partials = segments + looked_up // 10
    numbers += [indices.new_empty(size) for size in (looked_up, 1)]
    indices.new_empty(looked_up)
    numbers += [indices.new_empty(size) for size in (segments, segments, 1, partials)]
    numbers.append(grad.new_empty(partials * grad.shape[-1], dtype=torch.float32))
    del numbers
    return table


def _softmax_backward(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    result = func(*args, **kwargs)
    torch.empty_like(args[1])  # the product of the gradient and the output
    return result


def _joint_norm(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    tensors = args[0]
    chunks = max(-(-tensor.numel() // _NORM_CHUNK) for tensor in tensors)
    partial = tensors[0].new_empty(len(tensors) * chunks, dtype=torch.float32)
    norms = func(*args, **kwargs)
    del partial
    return norms
