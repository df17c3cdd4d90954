"""SHERL: training and evaluation mode, seeds, precision, and models without values."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from autotune.memory.allocated import TensorMemory
from sherl.backbones import Backbone, backbone_from_config
from sherl.methods import SherlConfig
from tests.sherl.sherl_samples import (
    ROUTES,
    every_family,
    every_insertion,
    make_tuned,
    open_gates,
)
from tests.sherl.tiny import tiny_backbone, tiny_batch, tiny_config

# ---------------------------------------------------------------------------- modes and seeds


@every_family
@every_insertion
def test_dropout_acts_in_late_blocks_alone(family: str, insertion: str) -> None:
    tuned = make_tuned(family, insertion=insertion, start_layer=2)
    batch = tiny_batch()
    inputs: list[Tensor] = []
    tuned.backbone.blocks[1].register_forward_pre_hook(lambda _m, args: inputs.append(args[0].clone()))

    def outputs() -> list[Tensor]:
        inputs.clear()
        results = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            results.append(tuned(batch).detach())
        assert torch.equal(inputs[0], inputs[1])
        return results

    tuned.eval()
    first, second = outputs()
    assert torch.equal(first, second)
    for switch in (tuned.train, tuned.model.train):
        tuned.eval()
        tuned.train()
        switch()
        first, second = outputs()
        assert not torch.allclose(first, second, atol=1e-3)
        training = [module.training for module in tuned.backbone.blocks]
        assert training == [False, False, True, True]
        assert tuned.added.training


@pytest.mark.parametrize("late_route", ROUTES)
def test_a_seed_fixes_the_initial_weights(late_route: str) -> None:
    def initial(seed: int, drawn: int) -> dict[str, Tensor]:
        torch.manual_seed(drawn)
        backbone = tiny_backbone()
        state = torch.random.get_rng_state()
        tuned = SherlConfig(late_route=late_route, insertion="multi").apply(backbone, seed=seed)
        assert torch.equal(torch.random.get_rng_state(), state)
        return tuned.trainable_state()

    first, again, other = initial(3, 0), initial(3, 99), initial(4, 0)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@every_family
def test_checkpointing_changes_nothing_but_memory(family: str) -> None:
    results = []
    for activation_checkpointing in (False, True):
        tuned = make_tuned(
            family,
            insertion="multi",
            start_layer=1,
            late_route="lora",
            activation_checkpointing=activation_checkpointing,
        ).train()
        torch.manual_seed(5)
        out = tuned(tiny_batch())
        out.square().sum().backward()
        results.append([out.detach(), *(parameter.grad for parameter in tuned.trainable().values())])
    for plain, again in zip(*results, strict=True):
        torch.testing.assert_close(plain, again)


@every_family
@every_insertion
def test_bfloat16(family: str, insertion: str) -> None:
    backbone = tiny_backbone(family, dtype=torch.bfloat16)
    tuned = SherlConfig(insertion=insertion, start_layer=1, late_route="prompt").apply(backbone, seed=0).train()
    open_gates(tuned, 0.1)
    out = tuned(tiny_batch())
    assert out.dtype == torch.bfloat16
    out.float().square().mean().backward()
    assert torch.isfinite(out).all()
    for name, parameter in tuned.trainable().items():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


# ---------------------------------------------------------------------------- without values


@every_family
@pytest.mark.parametrize(
    "settings",
    [
        {"insertion": "single", "late_route": "lora"},
        {"insertion": "multi", "late_route": "prompt", "activation_checkpointing": True},
    ],
    ids=["single-lora", "multi-prompt-checkpointing"],
)
def test_memory_of_a_step_is_the_same_on_fake_tensors(family: str, settings: dict[str, Any]) -> None:
    config = SherlConfig(start_layer=1, **settings)

    def peak(backbone: Backbone, batch: dict[str, Tensor]) -> int:
        tuned = config.apply(backbone, seed=0).train()
        with TensorMemory() as memory:
            memory.track(tuned)
            memory.track(batch)
            for _ in range(2):
                tuned(batch).square().sum().backward()
        return memory.peak_bytes

    figures = [peak(tiny_backbone(family), tiny_batch(rows=4, tokens=20, padded=padded)) for padded in (True, False)]
    with FakeTensorMode() as mode:
        batch = {name: mode.from_tensor(tensor) for name, tensor in tiny_batch(rows=4, tokens=20).items()}
        figures.append(peak(backbone_from_config(tiny_config(family)), batch))
    assert len(set(figures)) == 1, figures


@pytest.mark.parametrize("late_route", ROUTES)
def test_put_on_a_backbone_without_values(late_route: str) -> None:
    with torch.device("meta"):
        backbone = backbone_from_config(tiny_config("bert"))
    tuned = SherlConfig(late_route=late_route, insertion="multi").apply(backbone, seed=0)
    assert {parameter.device.type for parameter in tuned.parameters()} == {"meta"}
    batch = {name: tensor.to("meta") for name, tensor in tiny_batch().items()}
    assert tuned(batch).shape == (3, 9, 16)
    tuned.remove()
