"""SHERL on backbones of every family: what is fused, what trains, what is kept, and that all of it comes off again."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from autotune.memory.allocated import TensorMemory
from sherl.backbones import Backbone, backbone_from_config
from sherl.errors import CheckpointError, SpecError, UnsupportedBackboneError
from sherl.methods import METHODS, SherlConfig, Tuned, method_from_dict
from tests.sherl.tiny import ALL_FAMILIES, tiny_backbone, tiny_batch, tiny_config, wider

every_family = pytest.mark.parametrize("family", ALL_FAMILIES)
every_insertion = pytest.mark.parametrize("insertion", ["single", "multi"])
ROUTES = ["none", "lora", "adapter", "bitfit", "prompt"]
# ModernBERT's blocks have no biases: BitFit refuses it
every_carried_route = pytest.mark.parametrize(
    ("family", "late_route"),
    [(family, route) for family in ALL_FAMILIES for route in ROUTES if (family, route) != ("modernbert", "bitfit")],
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

    prefixes = tuple(f"{tuned.backbone.layout.blocks}.{layer}" for layer in (2, 3))
    early = [
        (name, module)
        for name, module in tuned.model.named_modules()
        if not name.startswith(prefixes) and not list(module.children()) and "final_norm" not in name
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
