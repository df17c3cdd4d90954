"""The one door to peft: LoRA put on named linear layers of a model, and taken off again.

peft's own entries, ``get_peft_model`` and ``inject_adapter_in_model``, match names by pattern and fail on models under
FakeTensorMode (``Module.to`` cannot swap a fake parameter). So its LoRA layer is built here for each linear layer by
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
def _peft() -> tuple[Any, Any]:
    """peft's settings of LoRA and its LoRA layer for a linear layer; imported on first use, as peft is not light.

    Tensors that are made while it is imported are real ones, and count in nobody's figure, whichever mode the first
    use happens to fall in: FakeTensorMode would leave fakes in modules that outlive it.
    """
    with _disable_current_modes(), torch.device("cpu"):
        from peft import LoraConfig
        from peft.tuners.lora.layer import Linear
    return LoraConfig, Linear


@cache
def _lora_linear_class() -> type[nn.Module]:
    _, Linear = _peft()

    class LoraLinear(Linear):  # type: ignore[misc, valid-type]  # peft ships no types: its classes are Any
        """peft's layer with float32 weights that compute in the precision of the model.

        peft would keep float32 copies of a bfloat16 layer's inputs for backward instead; in float32 nothing differs.
        """

        def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: torch.device | None = None) -> None:  # noqa: ARG002 - peft passes it
            self.cast_input_dtype_enabled = False
            for layers in (self.lora_A, self.lora_B):
                layers[adapter_name] = _as_added(layers[adapter_name])

    return LoraLinear


def _as_added(layer: nn.Linear) -> AddedLinear:
    """The same weight in a layer that computes in its input's precision."""
    added = AddedLinear(layer.in_features, layer.out_features, bias=False, device="meta")
    added.weight = layer.weight
    return added


class InjectedLora:
    """LoRA on linear layers of a model, until :meth:`remove`."""

    def __init__(self, model: nn.Module, layers: dict[str, nn.Module], injected: dict[str, nn.Module]) -> None:
        self._model = model
        self._originals = layers
        self._injected = injected

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """Its trainable parameters by name: ``<name of the linear layer>.lora_A`` [rank, inputs] and ``.lora_B``."""
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
    """Put LoRA (y = W x + alpha / rank * B A x; A as in peft, B zero) on the linear layers of these exact names.

    Initial values come from torch's global generator: seed it. Whether the layers' own parameters train is not
    touched. Works on models on the meta device and under FakeTensorMode.

    Raises:
        UnsupportedBackboneError: a name is no linear layer of the model; nothing has been changed then.
    """
    layers = _linear_layers(model, names)
    injected: dict[str, nn.Module] = {}
    for name, layer in layers.items():
        parent, _, child = name.rpartition(".")
        with torch.device(layer.get_parameter("weight").device):
            injected[name] = _lora_layer(layer, rank=rank, alpha=alpha)
        injected[name].train(layer.training)
        setattr(model.get_submodule(parent), child, injected[name])
    return InjectedLora(model, layers, injected)


def _lora_layer(layer: nn.Module, *, rank: int, alpha: float) -> nn.Module:
    settings, _ = _peft()
    transposed = isinstance(layer, Conv1D)  # GPT-2's linear layers hold [inputs, outputs]
    config = settings(r=rank, lora_alpha=alpha, lora_dropout=0.0, init_lora_weights=True, fan_in_fan_out=transposed)
    return _lora_linear_class()(layer, ADAPTER, config=config, r=rank, lora_alpha=alpha)


def _linear_layers(model: nn.Module, names: Sequence[str]) -> dict[str, nn.Module]:
    layers: dict[str, nn.Module] = {}
    problems = []
    for name in names:
        try:
            module = model.get_submodule(name)
        except AttributeError:
            problems.append(f"{name!r} is no module of it")
            continue
        if isinstance(module, nn.Linear | Conv1D):
            layers[name] = module
        else:
            problems.append(f"{name!r} is a {type(module).__name__}, not a linear layer")
    if problems:
        raise UnsupportedBackboneError(
            f"LoRA cannot be put on this {type(model).__name__}: {'; '.join(problems)}. "
            "The names of a family's attention layers stand in its row in sherl.backbones."
        )
    return layers


def write_adapter(
    directory: Path, parameters: Mapping[str, Tensor], *, rank: int, alpha: float, base: str | None
) -> None:
    """Write LoRA as peft does: ``adapter_config.json`` and ``adapter_model.safetensors``.

    parameters: by the names of :attr:`InjectedLora.parameters`. base: where the pretrained model lies, if it is known.
    """
    settings, _ = _peft()
    layers = sorted({name.rpartition(".")[0] for name in parameters})
    config = settings(
        r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules=layers, base_model_name_or_path=base, inference_mode=True
    )  # fmt: skip
    state = {f"base_model.model.{name}.weight": tensor.detach().contiguous() for name, tensor in parameters.items()}
    config.save_pretrained(directory)
    save_file(state, directory / "adapter_model.safetensors", metadata={"format": "pt"})
