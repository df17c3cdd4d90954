"""SHERL on backbones of every family: what is fused, what trains and what is kept."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch

from sherl.methods import SherlConfig
from tests.sherl.sherl_samples import (
    assert_same,
    contents,
    every_carried_route,
    every_family,
    every_insertion,
    make_tuned,
    open_gates,
)
from tests.sherl.tiny import tiny_backbone, tiny_batch, wider

# ---------------------------------------------------------------------------- what is computed


@every_insertion
@pytest.mark.parametrize("start", [1, 2, 3, -1, -3])
def test_against_blocks_run_by_hand(insertion: str, start: int) -> None:
    tuned = make_tuned(insertion=insertion, start_layer=start)
    batch = tiny_batch()
    out = tuned(batch)
    out.square().sum().backward()
    gradients = {name: parameter.grad.clone() for name, parameter in tuned.trainable().items()}
    tuned.zero_grad()

    backbone, first = tuned.backbone, start % 4
    fusions = tuned.added["fusion"]
    mask = batch["attention_mask"][:, None, None, :].bool()
    with torch.no_grad():
        hidden = backbone.model.embeddings(input_ids=batch["input_ids"], token_type_ids=batch["token_type_ids"])
        features = [hidden]
        for block in backbone.blocks[:first]:
            features.append(block(features[-1], mask))
    hidden = features.pop()
    for layer in range(first, 4):
        features.append(hidden)
        if layer == first or insertion == "multi":
            hidden = fusions[str(layer)](features)
        hidden = backbone.blocks[layer](hidden, mask)
    torch.testing.assert_close(out, hidden)
    hidden.square().sum().backward()
    for name, parameter in tuned.trainable().items():
        torch.testing.assert_close(parameter.grad, gradients[name], msg=name)


@every_family
@every_insertion
def test_with_closed_gates_the_backbone_computes_what_it_did(family: str, insertion: str) -> None:
    backbone = tiny_backbone(family, depth=4)
    batch = tiny_batch()
    with torch.no_grad():
        before = backbone.encode(batch)
        for start in (1, 2, 3):
            tuned = SherlConfig(insertion=insertion, start_layer=start).apply(backbone, seed=0)
            assert torch.equal(tuned(batch), before)
            open_gates(tuned, 0.1)
            assert not torch.allclose(tuned(batch), before, atol=1e-3)
            tuned.remove()


def test_the_released_gate_does_not_start_at_the_backbone() -> None:
    tuned = SherlConfig(gate="released").apply(tiny_backbone(), seed=0)
    batch = tiny_batch()
    assert not torch.allclose(tuned(batch), tiny_backbone().encode(batch), atol=1e-3)


@every_family
@pytest.mark.parametrize(("insertion", "late_route"), [("single", "lora"), ("multi", "prompt")])
def test_padding_never_leaks(family: str, insertion: str, late_route: str) -> None:
    tuned = make_tuned(family, insertion=insertion, late_route=late_route, start_layer=1)
    batch = tiny_batch()
    more = wider(batch, 6)
    with torch.no_grad():
        vectors = tuned.pool(tuned(batch), batch["attention_mask"])
        torch.testing.assert_close(tuned.pool(tuned(more), more["attention_mask"]), vectors, atol=1e-5, rtol=1e-5)


# ---------------------------------------------------------------------------- what trains


@every_carried_route
def test_everything_that_trains_gets_a_gradient_and_nothing_else(family: str, late_route: str) -> None:
    for insertion in ("single", "multi"):
        tuned = make_tuned(family, insertion=insertion, late_route=late_route, start_layer=2).train()
        torch.manual_seed(0)
        tuned(tiny_batch()).square().sum().backward()
        trainable = tuned.trainable()
        for name, parameter in trainable.items():
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
            assert parameter.grad.abs().max() > 0 or name.endswith(("key.bias", "k_lin.bias")), name
        mine = {id(parameter) for parameter in trainable.values()}
        for name, parameter in tuned.named_parameters():
            assert parameter.requires_grad == (id(parameter) in mine), name
            assert id(parameter) in mine or parameter.grad is None, name


def test_with_closed_gates_only_alpha_gets_a_gradient() -> None:
    tuned = make_tuned(opened=0.0)
    tuned(tiny_batch()).square().sum().backward()
    moved = {
        name for name, parameter in tuned.trainable().items() if parameter.grad is not None and parameter.grad.any()
    }
    assert moved == {"fusion.3.gate.alpha"}


@every_family
@every_insertion
def test_nothing_early_has_a_graph(family: str, insertion: str) -> None:
    tuned = make_tuned(family, insertion=insertion, start_layer=2, late_route="lora").train()
    seen: dict[str, tuple[bool, bool]] = {}

    def watch(name: str) -> Any:
        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            output = output[0] if isinstance(output, tuple) else output
            seen[name] = (output.requires_grad, torch.is_grad_enabled())

        return hook

    layout: Any = tuned.backbone.layout
    behind = (layout.final_norm, layout.pooled_by)
    prefixes = tuple(f"{layout.blocks}.{layer}" for layer in (2, 3))
    early = [
        (name, module)
        for name, module in tuned.model.named_modules()
        if not name.startswith(prefixes) and not list(module.children()) and name not in behind
    ]
    for name, module in early:
        module.register_forward_hook(watch(name))
    out = tuned(tiny_batch())
    assert len(seen) > 10
    assert set(seen.values()) == {(False, False)}
    assert out.requires_grad


def test_activations_of_early_blocks_are_not_kept() -> None:
    tuned = make_tuned(start_layer=2, late_route="lora").train()
    kept: dict[int, list[Any]] = {layer: [] for layer in range(4)}
    for layer, block in enumerate(tuned.backbone.blocks):
        for module in block.modules():
            if not list(module.children()):
                module.register_forward_hook(
                    lambda _m, _i, output, layer=layer: kept[layer].append(weakref.ref(output.untyped_storage()))
                )
    loss = tuned(tiny_batch()).square().sum()
    gc.collect()
    alive = {layer: sum(reference() is not None for reference in references) for layer, references in kept.items()}
    assert alive[2] > 2
    # of an early block its result may stay, an input of the fusion
    assert alive[0] <= 1
    assert alive[1] <= 1
    loss.backward()


@pytest.mark.parametrize(("insertion", "start"), [("single", 3), ("multi", 2)])
def test_features_are_let_go_when_they_are_fused(insertion: str, start: int) -> None:
    """While the last fused block runs, what was fused is gone; only its caller still holds the last feature."""
    tuned = make_tuned(insertion=insertion, start_layer=start)
    features: list[weakref.ref[Any]] = []
    for block in tuned.backbone.blocks[:3]:
        block.register_forward_hook(lambda _m, _i, output: features.append(weakref.ref(output.untyped_storage())))
    alive: list[int] = []
    tuned.backbone.blocks[3].attention.register_forward_pre_hook(
        lambda _m, _i: alive.append(sum(feature() is not None for feature in features))
    )
    with torch.no_grad():
        tuned(tiny_batch())
    assert len(features) == 3
    assert alive == [1]


@pytest.mark.parametrize("fault", ["late block", "early block", "fusion"])
def test_a_fault_in_the_middle_leaves_nothing(fault: str) -> None:
    tuned = make_tuned(insertion="multi", start_layer=2, late_route="prompt")
    batch = tiny_batch()
    expected = tuned(batch)
    before = contents(tuned.backbone)
    module = {
        "late block": tuned.backbone.blocks[3],
        "early block": tuned.backbone.blocks[1],
        "fusion": tuned.added["fusion"]["3"],
    }[fault]

    def fail(*_: Any) -> None:
        raise MemoryError("no memory left")

    handle = module.register_forward_hook(fail)
    with pytest.raises(MemoryError):
        tuned(batch)
    handle.remove()
    assert torch.is_grad_enabled()
    assert_same(before, contents(tuned.backbone))
    assert torch.equal(tuned(batch), expected)
