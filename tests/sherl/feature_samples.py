"""Hidden states recorded without the code under test's stand-ins, and the methods that read them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sherl.backbones import FAMILIES, Backbone
from sherl.evaluation import eval_step
from sherl.features import Place, feature_name
from sherl.insertion import block_calls
from sherl.methods import method_from_dict
from sherl.model import TaskModel, build_model
from sherl.spec import TaskSpec
from tests.sherl.tiny import ALL_FAMILIES, CLASSIFICATION, tiny_backbone

READERS: dict[str, dict[str, Any]] = {
    "sherl": {"name": "sherl", "reduction_factor": 2},
    "multi": {"name": "sherl", "insertion": "multi", "start_layer": -2, "reduction_factor": 2},
    "late-lora": {"name": "sherl", "start_layer": 1, "reduction_factor": 2, "late_route": {"name": "lora", "rank": 2}},
    "unregulated": {"name": "sherl", "regulate": False, "reduction_factor": 2},
    "unipt": {"name": "unipt"},
    "ladder": {"name": "ladder", "reduction_factor": 2, "initialisation": "random"},
    "linear_probe": {"name": "linear_probe"},
}


STORED = tuple(name for name in ALL_FAMILIES if all(stack.early is not None for stack in FAMILIES.get(name).stacks))
"""The families whose early blocks can be stood in for."""


def model_of(
    family: str,
    method: dict[str, Any],
    *,
    backbone: Backbone | None = None,
    task: TaskSpec = CLASSIFICATION,
    dtype: torch.dtype = torch.float32,
) -> TaskModel:
    """A model whose gates are open: at its start SHERL adds nothing to the backbone, which would hide what it read."""
    own = tiny_backbone(family, dtype=dtype) if backbone is None else backbone
    model = build_model(own, method_from_dict(method), task, seed=2)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.trainable_parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model


def recorded(backbone: Backbone, batch: dict[str, Tensor]) -> dict[Place, Tensor]:
    """All hidden states of a batch, copied."""
    found: dict[Place, Tensor] = {}
    spans = backbone.stacks

    def on_call(layer: int, call: Any) -> None:
        name = next(name for name, span in spans.items() if layer in span)
        found[Place(name, layer - spans[name].start)] = call.hidden.clone()

    def on_end(name: str) -> Any:
        def hook(_block: nn.Module, _args: Any, output: Any) -> None:
            found[Place(name, len(spans[name]))] = (output if isinstance(output, Tensor) else output[0]).clone()

        return hook

    handles = [backbone.blocks[span[-1]].register_forward_hook(on_end(name)) for name, span in spans.items()]
    with torch.no_grad(), block_calls(dict(enumerate(backbone.blocks)), on_call):
        backbone.encode(batch)
    for handle in handles:
        handle.remove()
    return found


def with_features(model: TaskModel, batch: dict[str, Tensor], states: dict[Place, Tensor]) -> dict[str, Tensor]:
    """The batch with what the model needs."""
    return {**batch, **{feature_name(place): states[place] for place in sorted(model.tuned.needs())}}


def learnt(model: TaskModel, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Outputs in evaluation, and loss and gradients of a training pass with its dropout."""
    found = {"outputs": eval_step(model, batch)}
    model.train()
    for parameter in model.trainable_parameters():
        parameter.grad = None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        loss = model.loss(model(batch), batch["labels"])
    loss.backward()
    model.eval()
    found["loss"] = loss.detach()
    for place, parameter in enumerate(model.trainable_parameters()):
        if parameter.grad is not None:
            found[f"gradient {place}"] = parameter.grad
            parameter.grad = None
    return found


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def poisoned(model: TaskModel) -> None:
    """NaN in all weights before the first trainable layer, but for T5's tables of positions, which late blocks add."""
    backbone = model.tuned.backbone
    late = {id(p) for block in backbone.blocks[model.tuned.first_trainable_layer :] for p in block.parameters()}
    with torch.no_grad():
        for block in backbone.blocks:
            for name, parameter in block.named_parameters():
                if id(parameter) not in late and "relative_attention_bias" not in name:
                    parameter.fill_(float("nan"))
        for stack in backbone.layout.stacks:
            for path in stack.early.front if stack.early is not None else ():
                module = backbone.model
                for name in path.split("."):
                    module = getattr(module, name, None)
                for parameter in [] if module is None else module.parameters():
                    parameter.fill_(float("nan"))
