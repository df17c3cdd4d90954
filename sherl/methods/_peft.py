"""The one door to peft: LoRA put on named linear layers and convolutions of a model, and taken off again.

peft's own entries, ``get_peft_model`` and ``inject_adapter_in_model``, match names by pattern and fail on models under
FakeTensorMode (``Module.to`` cannot swap a fake parameter). So its LoRA layer is built here for each layer by
its exact name, with the one step left out that moves new weights; they are made where they belong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes
from transformers.pytorch_utils import Conv1D

from sherl.errors import UnsupportedBackboneError
from sherl.fusion.linear import AddedLinear

ADAPTER = "default"  # peft keeps its layers by adapter name; there is one


@cache
def _peft() -> tuple[Any, Any, Any]:
    """peft's settings of LoRA and its LoRA layers for a linear layer and a convolution; imported on first use, as peft is not light.

    Tensors that are made while it is imported are real ones, and count in nobody's figure, whichever mode the first
    use happens to fall in: FakeTensorMode would leave fakes in modules that outlive it.
    """
    with _disable_current_modes(), torch.device("cpu"):
        from peft import LoraConfig
        from peft.tuners.lora.layer import Conv2d, Linear
    return LoraConfig, Linear, Conv2d


class _InInputPrecision:
    """In front of one of peft's layers: float32 weights that compute in the precision of the model.

    peft would keep float32 copies of a bfloat16 layer's inputs for backward instead; in float32 nothing differs.
    """

    lora_A: nn.ModuleDict
    lora_B: nn.ModuleDict

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: torch.device | None = None) -> None:  # noqa: ARG002 - peft passes it
        self.cast_input_dtype_enabled = False
        for layers in (self.lora_A, self.lora_B):
            layers[adapter_name] = _as_added(layers[adapter_name])


@cache
def _lora_classes() -> dict[type[nn.Module], type[nn.Module]]:
    """The LoRA layer for each class of layers that it can be put on."""
    _, Linear, Conv2d = _peft()

    class LoraLinear(_InInputPrecision, Linear):  # type: ignore[misc, valid-type]  # peft ships no types: its classes are Any
        """peft's LoRA on a linear layer."""

    class LoraConv2d(_InInputPrecision, Conv2d):  # type: ignore[misc, valid-type]  # as above
        """peft's LoRA on a convolution: A has its kernel and its stride, B is 1 x 1."""

    return {nn.Linear: LoraLinear, Conv1D: LoraLinear, nn.Conv2d: LoraConv2d}


class _AddedConv2d(nn.Conv2d):
    """A convolution without bias that computes in its input's precision."""

    def forward(self, input: Tensor) -> Tensor:  # torch's name
        convolved: Tensor = self._conv_forward(input, self.weight.to(input.dtype), None)
        return convolved


def _as_added(layer: nn.Module) -> nn.Module:
    """The same weight in a layer that computes in its input's precision."""
    added: nn.Linear | nn.Conv2d
    if isinstance(layer, nn.Conv2d):
        added = _AddedConv2d(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,  # type: ignore[arg-type]  # torch types it as a tuple of any length
            stride=layer.stride,  # type: ignore[arg-type]  # as above
            padding=layer.padding,  # type: ignore[arg-type]  # as above
            bias=False,
            device="meta",
        )
    else:
        assert isinstance(layer, nn.Linear)
        added = AddedLinear(layer.in_features, layer.out_features, bias=False, device="meta")
    added.weight = layer.weight
    return added


class InjectedLora:
    """LoRA on linear layers and convolutions of a model, until :meth:`remove`."""

    def __init__(self, model: nn.Module, layers: dict[str, nn.Module], injected: dict[str, nn.Module]) -> None:
        self._model = model
        self._originals = layers
        self._injected = injected

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """Its trainable parameters by name: ``<name of the layer>.lora_A`` [rank, inputs] and ``.lora_B``; of a
        convolution [rank, channels, *kernel] and [channels, rank, 1, 1]."""
        named = {}
        for name, layer in self._injected.items():
            for part in ("lora_A", "lora_B"):
                named[f"{name}.{part}"] = getattr(layer, part)[ADAPTER].weight
        return named

    def remove(self) -> None:
        """Put the original layers, the very objects, back. A second call does nothing."""
        for name, original in self._originals.items():
            parent, _, child = name.rpartition(".")
            if getattr(self._model.get_submodule(parent), child) is self._injected.get(name):
                setattr(self._model.get_submodule(parent), child, original)
        self._originals, self._injected = {}, {}


def inject_lora(model: nn.Module, names: Sequence[str], *, rank: int, alpha: float) -> InjectedLora:
    """Put LoRA (y = W x + alpha / rank * B A x; A as in peft, B zero) on the layers of these exact names.

    A convolution takes it too, if it has one group: A is a convolution of the same kernel and stride, B one of 1 x 1.

    Initial values come from torch's global generator: seed it. Whether the layers' own parameters train is not
    touched. Works on models on the meta device and under FakeTensorMode.

    Raises:
        UnsupportedBackboneError: a name is no linear layer or convolution of the model; nothing has been changed then.
    """
    layers = _layers(model, names)
    injected: dict[str, nn.Module] = {}
    for name, layer in layers.items():
        parent, _, child = name.rpartition(".")
        with torch.device(next(layer.parameters()).device):
            injected[name] = _lora_layer(layer, rank=rank, alpha=alpha)
        injected[name].train(layer.training)
        setattr(model.get_submodule(parent), child, injected[name])
    return InjectedLora(model, layers, injected)


def _lora_layer(layer: nn.Module, *, rank: int, alpha: float) -> nn.Module:
    settings, _, _ = _peft()
    transposed = isinstance(layer, Conv1D)  # GPT-2's linear layers hold [inputs, outputs]
    config = settings(r=rank, lora_alpha=alpha, lora_dropout=0.0, init_lora_weights=True, fan_in_fan_out=transposed)
    kind = next(kind for kind in _lora_classes() if isinstance(layer, kind))
    adapted = _lora_classes()[kind](layer, ADAPTER, config=config, r=rank, lora_alpha=alpha)
    for name in ("kernel_size", "stride", "padding", "dilation"):
        if hasattr(layer, name):  # a model may ask its convolutions for them (MobileNet makes its own padding)
            setattr(adapted, name, getattr(layer, name))
    return adapted


def _layers(model: nn.Module, names: Sequence[str]) -> dict[str, nn.Module]:
    layers: dict[str, nn.Module] = {}
    problems = []
    for name in names:
        try:
            module = model.get_submodule(name)
        except AttributeError:
            problems.append(f"{name!r} is no module of it")
            continue
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            problems.append(f"{name!r} is a convolution of {module.groups} groups")
        elif isinstance(module, nn.Linear | nn.Conv2d | Conv1D):
            layers[name] = module
        else:
            problems.append(f"{name!r} is a {type(module).__name__}, not a linear layer or convolution")
    if problems:
        raise UnsupportedBackboneError(
            f"LoRA cannot be put on this {type(model).__name__}: {'; '.join(problems)}. "
            "The names of a family's attention layers stand in its row in sherl.backbones."
        )
    return layers


def write_adapter(
    directory: Path, model: nn.Module, parameters: Mapping[str, Tensor], *, rank: int, alpha: float, base: str | None
) -> None:
    """Write LoRA as peft does: ``adapter_config.json`` and ``adapter_model.safetensors``.

    model: which LoRA is on. parameters: by the names of :attr:`InjectedLora.parameters`. base: where the pretrained model lies, if it is known.
    """
    settings, _, _ = _peft()
    layers = sorted({name.rpartition(".")[0] for name in parameters})
    transposed = all(isinstance(model.get_submodule(f"{layer}.base_layer"), Conv1D) for layer in layers)
    config = settings(
        r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules=layers, base_model_name_or_path=base, inference_mode=True,
        fan_in_fan_out=transposed,
    )  # fmt: skip
    state = {f"base_model.model.{name}.weight": tensor.detach().contiguous() for name, tensor in parameters.items()}
    config.save_pretrained(directory)
    save_file(state, directory / "adapter_model.safetensors", metadata={"format": "pt"})
