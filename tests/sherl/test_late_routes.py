"""Late routes on late blocks of every family: what trains, what changes, and that nothing stays behind."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from sherl.backbones import Backbone, backbone_from_config
from sherl.errors import SpecError, UnsupportedBackboneError
from sherl.methods.late import (
    LATE_ROUTES,
    AdapterRoute,
    BitFitRoute,
    LatePart,
    LateRoute,
    LoraRoute,
    NoRoute,
    PromptRoute,
    late_route_from,
)
from tests.sherl.tiny import ENCODERS

WIDTH = 32
LATE = [1, 2]
ROUTES = [LoraRoute(rank=4), AdapterRoute(), BitFitRoute()]


def make_backbone(family: str = "bert", **changes: Any) -> Backbone:
    """A random backbone of this family: three blocks, 32 wide."""
    torch.manual_seed(0)
    kind = type(transformers.AutoConfig.for_model(family))
    if family == "distilbert":
        sizes = {"dim": WIDTH, "n_layers": 3, "n_heads": 2, "hidden_dim": 48}
    else:
        sizes = {"hidden_size": WIDTH, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 48}
    tokens = {"vocab_size": 60, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    backbone = backbone_from_config(kind(**{**sizes, **tokens, "max_position_embeddings": 40, **changes}))
    for parameter in backbone.model.parameters():
        parameter.requires_grad_(False)
    return backbone


def make_batch() -> dict[str, Tensor]:
    ids = torch.arange(4, 18).reshape(2, 7)
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def encode(backbone: Backbone) -> Tensor:
    return backbone.encode(make_batch())


def contents(backbone: Backbone) -> dict[str, Any]:
    """Everything of a backbone that a route could leave changed."""
    model = backbone.model
    return {
        "modules": {name: id(module) for name, module in model.named_modules()},
        "parameters": {
            name: (id(p), p.requires_grad, p.grad is None, p.detach().clone()) for name, p in model.named_parameters()
        },
        "training": {name: module.training for name, module in model.named_modules()},
        "hooks": sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()),
    }


def assert_same(before: dict[str, Any], after: dict[str, Any]) -> None:
    for key in ("modules", "training", "hooks"):
        assert before[key] == after[key], key
    assert before["parameters"].keys() == after["parameters"].keys()
    for name, (*flags, values) in before["parameters"].items():
        assert after["parameters"][name][:3] == tuple(flags), name
        assert torch.equal(after["parameters"][name][3], values), name


def train_a_little(backbone: Backbone, part: LatePart, steps: int = 2) -> None:
    optimizer = torch.optim.SGD(part.parameters.values(), lr=0.5)
    for _ in range(steps):
        optimizer.zero_grad()
        (encode(backbone) * torch.linspace(-1, 1, WIDTH)).sum().backward()
        optimizer.step()


@pytest.mark.parametrize("family", ENCODERS)
@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_on_every_family(family: str, route: LateRoute) -> None:
    backbone = make_backbone(family)
    before, plain = contents(backbone), encode(backbone)
    if family == "modernbert" and isinstance(route, BitFitRoute):
        with pytest.raises(UnsupportedBackboneError, match=r"have none.*LoRA or an adapter"):
            route.put_on(backbone, LATE)
        assert_same(before, contents(backbone))
        return
    part = route.put_on(backbone, LATE)
    # nearly what it was at the start; LoRA and BitFit exactly
    torch.testing.assert_close(encode(backbone), plain, rtol=0, atol=0 if route.name != "adapter" else 0.02)
    train_a_little(backbone, part)
    trained = {id(p) for p in part.parameters.values()}
    for name, parameter in part.parameters.items():
        assert parameter.requires_grad, name
        assert parameter.grad is not None, name
    for name, parameter in backbone.model.named_parameters():
        if id(parameter) not in trained:
            assert not parameter.requires_grad, name
            assert parameter.grad is None, name
    assert not torch.allclose(encode(backbone), plain, atol=1e-4), "training must show"
    part.remove()
    part.remove()
    assert_same(before, contents(backbone))
    assert torch.equal(encode(backbone), plain)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_every_parameter_gets_a_gradient(route: LateRoute) -> None:
    backbone = make_backbone()
    part = route.put_on(backbone, LATE)
    if route.name == "lora":  # B is zero at the start, and then A gets none
        with torch.no_grad():
            for name, parameter in part.parameters.items():
                if name.endswith("lora_B"):
                    parameter.normal_()
    weights = torch.randn(2, 7, WIDTH)
    (encode(backbone) * weights).sum().backward()
    # a constant added to every key changes no attention: the gradient of a key's bias is zero up to rounding
    silent = {name for name, p in part.parameters.items() if p.grad is None or not p.grad.abs().max() > 1e-6}
    assert all(name.endswith("key.bias") for name in silent)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_only_the_late_blocks_are_touched(route: LateRoute) -> None:
    backbone = make_backbone()
    part = route.put_on(backbone, [2])
    for block in backbone.blocks[:2]:
        assert not any(parameter.requires_grad for parameter in block.parameters())
        assert not any("Lora" in type(module).__name__ for module in block.modules())
    seen: list[bool] = []
    backbone.blocks[2].register_forward_pre_hook(lambda _block, inputs: seen.append(inputs[0].requires_grad))
    encode(backbone).sum().backward()
    assert seen == [False]
    part.remove()


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_the_seed_decides_the_start(route: LateRoute) -> None:
    def start(seed: int) -> list[Tensor]:
        backbone = make_backbone()
        torch.manual_seed(seed)
        return [parameter.detach().clone() for parameter in route.put_on(backbone, LATE).parameters.values()]

    assert all(torch.equal(a, b) for a, b in zip(start(3), start(3), strict=True))
    if route.name != "bitfit":
        assert not all(torch.equal(a, b) for a, b in zip(start(3), start(4), strict=True))


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_names_are_stable_and_distinct(route: LateRoute) -> None:
    first = list(route.put_on(make_backbone(), LATE).parameters)
    assert first == list(route.put_on(make_backbone(), LATE).parameters)
    assert len(first) == len(set(first)) > 0


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
@pytest.mark.parametrize("where", ["meta", "fake"])
def test_without_values(route: LateRoute, where: str) -> None:
    """The predictor builds models whose tensors have no values."""
    real = route.put_on(make_backbone(), LATE)
    with torch.device("meta") if where == "meta" else FakeTensorMode():
        backbone = make_backbone()
        part = route.put_on(backbone, LATE)
        encode(backbone).sum().backward()
        assert all(parameter.grad is not None for parameter in part.parameters.values())
        part.remove()
    shapes = {name: parameter.shape for name, parameter in part.parameters.items()}
    assert shapes == {name: parameter.shape for name, parameter in real.parameters.items()}


@pytest.mark.parametrize("route", [LoraRoute(rank=4), AdapterRoute()], ids=lambda route: route.name)
def test_in_bfloat16_added_weights_stay_float32(route: LateRoute) -> None:
    backbone = make_backbone()
    backbone.model.to(torch.bfloat16)
    part = route.put_on(backbone, LATE)
    hidden = encode(backbone)
    assert hidden.dtype == torch.bfloat16
    hidden.float().sum().backward()
    for parameter in part.parameters.values():
        assert parameter.dtype == torch.float32
        assert parameter.grad is not None
        assert torch.isfinite(parameter.grad).all()


UNTRACED_IMPORT = """
import sys, torch
from torch.utils._python_dispatch import TorchDispatchMode
from sherl.methods import _peft

class Recorder(TorchDispatchMode):
    seen = []
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen.append(str(function))
        return function(*args, **(kwargs or {}))

assert "peft" not in sys.modules, "it is to be imported on first use"
with Recorder(), torch.device("meta"):
    _peft._peft()
    assert not Recorder.seen, Recorder.seen
    assert torch.ones(1).device.type == "meta" and Recorder.seen, "modes must be back"
"""


@pytest.mark.slow
def test_what_peft_makes_at_its_import_is_not_traced() -> None:
    done = subprocess.run([sys.executable, "-c", UNTRACED_IMPORT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_lora_adds_the_scaled_product() -> None:
    backbone = make_backbone()
    query = backbone.blocks[2].attention.self.query
    part = LoraRoute(rank=4, alpha=6).put_on(backbone, [2])
    a, b = (part.parameters[f"encoder.layer.2.attention.self.query.{name}"] for name in ("lora_A", "lora_B"))
    with torch.no_grad():
        b.normal_()
    x = torch.randn(2, 3, WIDTH)
    expected = query(x) + 6 / 4 * x @ a.T @ b.T
    torch.testing.assert_close(backbone.blocks[2].attention.self.query(x), expected)


def test_lora_refuses_what_is_no_linear_layer_and_changes_nothing() -> None:
    from sherl.methods._peft import inject_lora

    model = make_backbone().model
    before = dict(model.named_modules())
    names = ["encoder.layer.0.attention.self.query", "encoder.layer.0.output.LayerNorm", "encoder.layer.9"]
    with pytest.raises(
        UnsupportedBackboneError, match=r"is a LayerNorm, not a linear layer or convolution; .*layer.9' is no module"
    ):
        inject_lora(model, names, rank=2, alpha=2)
    assert dict(model.named_modules()) == before


def test_an_adapter_sits_before_the_residual_sum() -> None:
    backbone = make_backbone()
    part = AdapterRoute(reduction_factor=8).put_on(backbone, [2])
    assert {name: tuple(p.shape) for name, p in part.parameters.items()} == {
        "2.down.weight": (4, WIDTH),
        "2.down.bias": (4,),
        "2.up.weight": (WIDTH, 4),
        "2.up.bias": (WIDTH,),
    }
    with torch.no_grad():
        part.parameters["2.up.bias"].fill_(2.0)
        part.parameters["2.up.weight"].zero_()
    x, residual = torch.randn(2, 3, 48), torch.randn(2, 3, WIDTH)
    output = backbone.blocks[2].output
    plain = torch.nn.functional.linear(x, output.dense.weight, output.dense.bias)
    torch.testing.assert_close(output(x, residual), output.LayerNorm(plain + 2.0 + residual))


@pytest.mark.parametrize("factor", [1, 7, WIDTH])
def test_adapter_reduction_factors(factor: int) -> None:
    part = AdapterRoute(reduction_factor=factor).put_on(make_backbone(), [2])
    assert part.parameters["2.down.weight"].shape == (max(1, WIDTH // factor), WIDTH)


def test_an_adapter_narrower_than_one_is_refused() -> None:
    with pytest.raises(SpecError, match=f"reduction_factor 33 .* allowed are 1 to {WIDTH}"):
        AdapterRoute(reduction_factor=33).put_on(make_backbone(), [2])


def test_a_modernbert_with_biases_takes_bitfit() -> None:
    backbone = make_backbone("modernbert", attention_bias=True)
    assert set(BitFitRoute().put_on(backbone, [2]).parameters) == {"layers.2.attn.Wqkv.bias", "layers.2.attn.Wo.bias"}


def test_bitfit_trains_biases_of_norms_too() -> None:
    names = BitFitRoute().put_on(make_backbone(), [2]).parameters
    assert "encoder.layer.2.output.LayerNorm.bias" in names
    assert "encoder.layer.2.attention.self.query.bias" in names
    assert len(names) == 8


def test_prompts_are_vectors_that_the_method_inserts() -> None:
    part = PromptRoute(num_prompts=5).put_on(make_backbone(), [2])
    assert {name: tuple(p.shape) for name, p in part.parameters.items()} == {"vectors": (5, WIDTH)}


@pytest.mark.parametrize("route", [NoRoute(), *ROUTES, PromptRoute(num_prompts=4)], ids=lambda route: route.name)
def test_settings_survive_json(route: LateRoute) -> None:
    assert late_route_from(json.loads(json.dumps(route.to_dict()))) == route
    assert late_route_from(route) is route


@pytest.mark.parametrize("name", list(LATE_ROUTES))
def test_a_name_alone_takes_the_defaults(name: str) -> None:
    assert late_route_from(name) == late_route_from({"name": name}) == LATE_ROUTES.get(name)()


def test_defaults_are_the_papers() -> None:
    assert late_route_from("prompt") == PromptRoute(num_prompts=30)
    assert late_route_from("adapter") == AdapterRoute(reduction_factor=16)


@pytest.mark.parametrize(
    ("value", "parts"),
    [
        ("lorra", ["'lorra'", "Did you mean 'lora'", "adapter, bitfit, full, lora, none, prompt"]),
        ({"rank": 3}, ["has no name"]),
        ({"name": ["lora"]}, ["unknown name ['lora']"]),
        ({"name": "lora", "rnk": 3}, ["unknown setting 'rnk'", "Did you mean 'rank'"]),
        ({"name": "none", "rank": 3}, ["unknown setting 'rank'", "none"]),
        ({"name": "lora", "rank": 0, "alpha": -1, "dropout": 0.1}, ["rank", "alpha", "'dropout'"]),
        ({"name": "lora", "rank": True}, ["rank must be a whole number of at least 1, True was given"]),
        ({"name": "lora", "alpha": float("nan")}, ["alpha must be a number above 0"]),
        ({"name": "adapter", "reduction_factor": 2.5}, ["reduction_factor", "2.5"]),
        ({"name": "prompt", "num_prompts": "30"}, ["num_prompts", "'30'"]),
        ({"name": "lora", 3: 4}, ["unknown setting 3"]),
        (None, ["None was given", "lora"]),
        (3, ["3 was given"]),
    ],
)
def test_bad_settings_are_told_all_at_once(value: object, parts: list[str]) -> None:
    with pytest.raises(SpecError) as caught:
        late_route_from(value)
    for part in parts:
        assert part in str(caught.value)


def test_settings_are_values() -> None:
    assert LoraRoute(rank=2) == LoraRoute(rank=2)
    assert len({LoraRoute(rank=2), LoraRoute(rank=2), LoraRoute(rank=3)}) == 2
    with pytest.raises(AttributeError):
        LoraRoute().rank = 3  # type: ignore[misc]
