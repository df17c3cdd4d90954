"""SHERL on tiny backbones, and everything of a backbone that a method could leave changed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sherl.backbones import Backbone
from sherl.methods import SherlConfig, Tuned
from tests.sherl.tiny import ENCODERS, tiny_backbone

every_family = pytest.mark.parametrize("family", ENCODERS)
every_insertion = pytest.mark.parametrize("insertion", ["single", "multi"])
ROUTES = ["none", "lora", "adapter", "bitfit", "prompt"]
# ModernBERT's blocks have no biases: BitFit refuses it
every_carried_route = pytest.mark.parametrize(
    ("family", "late_route"),
    [(family, route) for family in ENCODERS for route in ROUTES if (family, route) != ("modernbert", "bitfit")],
)


def make_tuned(
    family: str = "bert", *, opened: float | None = 0.1, depth: int = 4, seed: int = 0, **settings: Any
) -> Tuned:
    """``opened``: what alpha is set to; with 0 the preserving gate would hide everything behind it."""
    tuned = SherlConfig(**{"reduction_factor": 2, **settings}).apply(tiny_backbone(family, depth=depth), seed=seed)
    open_gates(tuned, opened)
    return tuned


def open_gates(tuned: Tuned, opened: float | None) -> None:
    with torch.no_grad():
        for name, parameter in tuned.trainable().items():
            if name.endswith("gate.alpha") and opened is not None:
                parameter.fill_(opened)
            elif name.startswith("fusion."):
                parameter.mul_(30)  # N(0, 0.01) on 16 numbers is next to nothing
            elif name.startswith("late.") and "lora_B" in name:
                parameter.add_(0.1)


def contents(backbone: Backbone) -> dict[str, Any]:
    """Everything of a backbone that a method could leave changed."""
    model = backbone.model
    modules = dict(model.named_modules())
    return {
        "tensors": {
            name: (id(t), t.detach().clone()) for name, t in [*model.named_parameters(), *model.named_buffers()]
        },
        "requires_grad": {name: parameter.requires_grad for name, parameter in model.named_parameters()},
        "types": {name: (type(module), id(module)) for name, module in modules.items()},
        "training": {name: module.training for name, module in modules.items()},
        "hooks": {
            n: (len(m._forward_hooks), len(m._forward_pre_hooks), "forward" in vars(m)) for n, m in modules.items()
        },
        "keys": list(model.state_dict()),
        "method": backbone.method_name,
    }


def assert_same(before: dict[str, Any], after: dict[str, Any]) -> None:
    tensors_before, tensors_after = before.pop("tensors"), after.pop("tensors")
    assert before == after
    assert list(tensors_before) == list(tensors_after)
    for name, (identity, value) in tensors_before.items():
        assert tensors_after[name][0] == identity, name
        assert torch.equal(tensors_after[name][1], value), name
