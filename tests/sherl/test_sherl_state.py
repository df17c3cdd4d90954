"""SHERL: its state, its removal and its settings."""

from __future__ import annotations

import pytest
import torch

from sherl.errors import CheckpointError, SpecError, UnsupportedBackboneError
from sherl.methods import METHODS, SherlConfig, method_from_dict
from tests.sherl.sherl_samples import (
    ROUTES,
    assert_same,
    contents,
    every_carried_route,
    every_insertion,
    make_tuned,
)
from tests.sherl.tiny import tiny_backbone, tiny_batch

# ---------------------------------------------------------------------------- state and removal


@every_carried_route
def test_removal_gives_the_backbone_back(family: str, late_route: str) -> None:
    backbone = tiny_backbone(family, depth=4)
    next(iter(backbone.model.parameters())).requires_grad_(False)
    backbone.blocks[0].train()
    batch = tiny_batch()
    backbone.model.eval()
    expected = backbone.encode(batch).detach()
    backbone.blocks[3].train()
    before = contents(backbone)
    config = SherlConfig(insertion="multi", start_layer=2, late_route=late_route, activation_checkpointing=True)
    tuned = config.apply(backbone, seed=0).train()
    if late_route != "lora":
        assert list(backbone.model.state_dict()) == before["keys"]
    optimizer = torch.optim.AdamW(tuned.trainable().values(), lr=0.1)
    for _ in range(2):
        tuned(batch).square().sum().backward()
        optimizer.step()
    tuned.remove()
    tuned.remove()
    assert_same(before, contents(backbone))
    assert all(parameter.grad is None for parameter in backbone.model.parameters())
    backbone.model.eval()
    assert torch.equal(backbone.encode(batch), expected)
    with pytest.raises(SpecError, match="removed"):
        tuned(batch)
    config.apply(backbone, seed=0)


@pytest.mark.parametrize("late_route", ROUTES)
@every_insertion
def test_state_goes_to_another_model(late_route: str, insertion: str) -> None:
    settings = {"insertion": insertion, "late_route": late_route, "start_layer": 2}
    source, target = make_tuned(seed=0, **settings), make_tuned(seed=1, **settings)
    batch = tiny_batch()
    state = source.trainable_state()
    assert all(not tensor.requires_grad for tensor in state.values())
    assert all(name.startswith(("fusion.", "late.")) for name in state)
    target.load_trainable_state(state)
    assert torch.equal(source(batch), target(batch))


def test_state_of_something_else_is_refused_whole() -> None:
    tuned = make_tuned()
    state = {name: tensor + 1 for name, tensor in tuned.trainable_state().items()}
    before = {name: tensor.clone() for name, tensor in tuned.trainable_state().items()}
    first, second, *_ = state
    state[first] = torch.zeros(3, 3, 3)
    del state[second]
    state["fusion.9.nothing"] = torch.zeros(1)
    with pytest.raises(CheckpointError) as caught:
        tuned.load_trainable_state(state)
    said = str(caught.value)
    assert "3 problems" in said
    assert f"{second} is missing" in said
    assert "fusion.9.nothing is unknown" in said
    assert f"{first} is [3, 3, 3]" in said
    assert all(torch.equal(tensor, before[name]) for name, tensor in tuned.trainable_state().items())


# ---------------------------------------------------------------------------- settings


def test_settings_go_through_a_dictionary() -> None:
    config = SherlConfig(start_layer=-2, insertion="multi", late_route="lora", gate="released", similarity="learned")
    plain = config.to_dict()
    assert plain["name"] == "sherl"
    assert plain["late_route"] == {"name": "lora", "rank": 8, "alpha": 16}
    assert method_from_dict(plain) == config
    assert hash(config) == hash(method_from_dict(plain))
    assert method_from_dict("sherl") == SherlConfig()
    assert method_from_dict(config) is config


@pytest.mark.parametrize("name", METHODS.names())
def test_every_method_goes_through_a_dictionary(name: str) -> None:
    method = method_from_dict({"name": name})
    assert method.name == name
    assert method_from_dict(method.to_dict()) == method


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(SpecError) as caught:
        method_from_dict(
            {
                "name": "sherl",
                "reduction_factr": 4,
                "reduction_factor": 0,
                "insertion": "double",
                "start_layer": 0,
                "late_route": {"name": "lorra"},
                "gate": "preserve",
                "activation_checkpointing": "yes",
            }
        )
    said = str(caught.value)
    assert said.count("Method sherl") == 1
    for part in (
        "unknown setting 'reduction_factr'. Did you mean 'reduction_factor'?",
        "reduction_factor must be a whole number",
        "insertion must be one of single, multi, 'double' was given",
        "start_layer must leave at least one block before it",
        "Did you mean 'lora'?",
        "Did you mean 'preserving'?",
        "activation_checkpointing must be true or false, 'yes' was given",
    ):
        assert part in said, part


@pytest.mark.parametrize(
    ("plain", "said"),
    [
        ("shrl", "Did you mean 'sherl'"),
        ({"name": "loraa"}, "Did you mean 'lora'"),
        ({"rank": 3}, "it has no name"),
        (17, "by its name or as a dictionary"),
        ({"name": ["sherl"]}, "unknown name"),
    ],
)
def test_unknown_methods(plain: object, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        method_from_dict(plain)


@pytest.mark.parametrize("start", [4, 17, -4, -9])
def test_a_start_layer_outside_the_backbone(start: int) -> None:
    backbone = tiny_backbone(depth=4)
    with pytest.raises(SpecError, match=rf"start_layer {start} .* 4 blocks.* 1 to 3, or -3 to -1"):
        SherlConfig(start_layer=start).apply(backbone, seed=0)
    assert backbone.method_name is None


def test_a_backbone_of_one_block_has_no_late_layer() -> None:
    with pytest.raises(SpecError, match="one block"):
        SherlConfig().apply(tiny_backbone(depth=1), seed=0)


def test_what_does_not_suit_the_backbone_leaves_it_alone() -> None:
    backbone = tiny_backbone()
    before = contents(backbone)
    with pytest.raises(SpecError, match="allowed are 1 to 16"):
        SherlConfig(reduction_factor=17).apply(backbone, seed=0)
    with pytest.raises(SpecError, match="allowed are 1 to 16"):
        SherlConfig(late_route={"name": "adapter", "reduction_factor": 99}).apply(backbone, seed=0)  # type: ignore[arg-type]
    assert_same(before, contents(backbone))
    modernbert = tiny_backbone("modernbert")
    before = contents(modernbert)
    with pytest.raises(UnsupportedBackboneError, match="biases"):
        SherlConfig(late_route="bitfit").apply(modernbert, seed=0)  # type: ignore[arg-type]
    assert_same(before, contents(modernbert))


def test_a_second_method_is_refused() -> None:
    tuned = make_tuned()
    with pytest.raises(SpecError, match=r"'sherl' is on this backbone already: call remove\(\)"):
        method_from_dict("full").apply(tuned.backbone, seed=0)
    tuned.remove()
    method_from_dict("full").apply(tuned.backbone, seed=0)
