"""Full fine-tuning, linear probe, LoRA and BitFit: what trains, what comes back, and that they learn."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from sherl.errors import SherlError, SpecError, UnsupportedBackboneError
from sherl.methods import METHODS, MethodConfig, Tuned, method_from_dict
from sherl.methods.bitfit import BitFitConfig
from sherl.methods.full import FullConfig
from sherl.methods.late import originals
from sherl.methods.linear_probe import LinearProbeConfig
from sherl.methods.lora import LoraConfig
from tests.sherl.test_late_routes import WIDTH, assert_same, contents, make_backbone, make_batch

FAMILIES = ["bert", "distilbert"]
METHODS_WITH_WEIGHTS = [FullConfig(), LoraConfig(rank=4), BitFitConfig()]
ALL = [*METHODS_WITH_WEIGHTS, LinearProbeConfig()]
DROPOUT = {
    "bert": {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.2},
    "distilbert": {"dropout": 0.2, "attention_dropout": 0.2},
}


def by_name(config: MethodConfig) -> str:
    return config.name


def make_tuned(config: MethodConfig, family: str = "bert", *, seed: int = 0) -> Tuned:
    return config.apply(make_backbone(family, **DROPOUT[family]), seed=seed)


def encode(tuned: Tuned, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    return tuned(make_batch())


def learn(tuned: Tuned, steps: int, learning_rate: float = 0.05) -> list[float]:
    """Losses of a small problem: tell the two rows of the batch apart by their pooled vectors."""
    torch.manual_seed(3)
    head = nn.Linear(WIDTH, 2)
    optimizer = torch.optim.Adam([*tuned.trainable().values(), *head.parameters()], lr=learning_rate)
    losses = []
    for step in range(steps):
        batch = make_batch()
        logits = head(tuned.pool(encode(tuned, step), batch["attention_mask"]))
        loss = nn.functional.cross_entropy(logits, torch.tensor([0, 1]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def gradients(tuned: Tuned) -> dict[str, Tensor]:
    for parameter in tuned.trainable().values():
        parameter.grad = None
    (encode(tuned, 5) * torch.linspace(-1, 1, WIDTH)).sum().backward()
    return {name: p.grad.clone() for name, p in tuned.trainable().items() if p.grad is not None}


@pytest.mark.parametrize("family", FAMILIES)
def test_what_trains(family: str) -> None:
    names = {name for name, _ in make_backbone(family).model.named_parameters()}
    path = "encoder.layer" if family == "bert" else "transformer.layer"
    assert set(make_tuned(FullConfig(), family).trainable()) == {f"model.{name}" for name in names}
    biases = {f"biases.{name}" for name in names if name.endswith("bias")}
    assert set(make_tuned(BitFitConfig(), family).trainable()) == biases
    assert "biases.embeddings.LayerNorm.bias" in biases
    lora = make_tuned(LoraConfig(rank=4), family).trainable()
    assert len(lora) == 3 * 2 * 2
    assert all(name.startswith(f"lora.{path}.") and ".attention." in name for name in lora)
    assert {tuple(parameter.shape) for parameter in lora.values()} == {(4, WIDTH), (WIDTH, 4)}
    assert make_tuned(LinearProbeConfig(), family).trainable() == {}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("config", ALL, ids=by_name)
def test_gradients_reach_the_trainables_and_nothing_else(config: MethodConfig, family: str) -> None:
    tuned = make_tuned(config, family)
    tuned.train()
    hidden = encode(tuned)
    trainable = {id(parameter) for parameter in tuned.trainable().values()}
    assert {id(p) for p in tuned.parameters() if p.requires_grad} == trainable
    if not trainable:
        assert not hidden.requires_grad
        return
    (hidden * torch.linspace(-1, 1, WIDTH)).sum().backward()
    assert all((parameter.grad is not None) == (id(parameter) in trainable) for parameter in tuned.parameters())


@pytest.mark.parametrize("config", ALL, ids=by_name)
def test_a_seed_that_is_not_given_is_0(config: MethodConfig) -> None:
    states = [config.apply(make_backbone(), **seed).trainable_state() for seed in ({}, {"seed": 0})]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize("config", ALL, ids=by_name)
def test_at_the_start_the_backbone_computes_what_it_did(config: MethodConfig) -> None:
    backbone = make_backbone()
    plain = backbone.encode(make_batch())
    assert torch.equal(config.apply(backbone, seed=1)(make_batch()), plain)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("config", ALL, ids=by_name)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_remove_gives_the_backbone_back(config: MethodConfig, family: str, checkpointing: bool) -> None:
    if checkpointing:
        if config.name == "linear_probe":
            return
        config = method_from_dict({**config.to_dict(), "activation_checkpointing": True})
    backbone = make_backbone(family, **DROPOUT[family])
    for index, parameter in enumerate(backbone.model.parameters()):
        parameter.requires_grad_(index % 2 == 0)
    backbone.blocks[1].train()
    before = contents(backbone)
    forwards = [dict(vars(block)) for block in backbone.blocks]
    plain = backbone.model.eval()(**make_batch()).last_hidden_state
    backbone.blocks[1].train()
    tuned = config.apply(backbone, seed=0)
    tuned.train()
    learn(tuned, 3)
    tuned.remove()
    tuned.remove()
    assert_same(before, contents(backbone))
    for block, kept in zip(backbone.blocks, forwards, strict=True):
        assert {key for key in vars(block) if key == "forward"} == {key for key in kept if key == "forward"}
    assert torch.equal(backbone.model.eval()(**make_batch()).last_hidden_state, plain)
    config.apply(backbone, seed=0).remove()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("config", METHODS_WITH_WEIGHTS, ids=by_name)
def test_activation_checkpointing_changes_no_gradient(config: MethodConfig, family: str) -> None:
    plain = make_tuned(config, family)
    spared = make_tuned(method_from_dict({**config.to_dict(), "activation_checkpointing": True}), family)
    plain.train()
    spared.train()
    expected, given = gradients(plain), gradients(spared)
    assert expected.keys() == given.keys()
    assert len(expected) > 0
    for name in expected:
        assert torch.equal(expected[name], given[name]), name
    assert kept_for_backward(spared) < 0.6 * kept_for_backward(plain)


def kept_for_backward(tuned: Tuned) -> int:
    weights = {parameter.untyped_storage().data_ptr() for parameter in tuned.parameters()}
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        encode(tuned)
    return sum(sizes.values())


def test_a_linear_probe_keeps_nothing_for_backward() -> None:
    tuned = make_tuned(LinearProbeConfig())
    tuned.train()
    assert kept_for_backward(tuned) == 0


@pytest.mark.parametrize("config", ALL, ids=by_name)
def test_dropout_acts_where_something_trains(config: MethodConfig) -> None:
    tuned = make_tuned(config)
    assert torch.equal(encode(tuned, 1), encode(tuned, 2))
    tuned.train()
    assert torch.equal(encode(tuned, 1), encode(tuned, 2)) == (config.name == "linear_probe")
    tuned.eval()
    assert torch.equal(encode(tuned, 1), encode(tuned, 2))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("config", METHODS_WITH_WEIGHTS, ids=by_name)
def test_the_loss_falls(config: MethodConfig, family: str) -> None:
    tuned = make_tuned(config, family)
    tuned.train()
    losses = learn(tuned, 15, learning_rate=0.01)
    assert sum(losses[-3:]) < 0.6 * sum(losses[:3])


@pytest.mark.parametrize("config", METHODS_WITH_WEIGHTS, ids=by_name)
def test_the_trained_state_moves_to_another_model(config: MethodConfig) -> None:
    trained = make_tuned(config)
    trained.train()
    learn(trained, 3)
    trained.eval()
    other = make_tuned(config, seed=9)
    assert not torch.allclose(encode(other), encode(trained), atol=1e-5)
    other.load_trainable_state({name: tensor.clone() for name, tensor in trained.trainable_state().items()})
    assert torch.equal(encode(other), encode(trained))


def test_the_seed_decides_lora_and_leaves_the_global_one_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(2)
    torch.manual_seed(7)
    first = make_backbone()
    torch.manual_seed(7)
    states = [LoraConfig().apply(first if i == 0 else make_backbone(), seed=seed).trainable() for i, seed in ((0, 1),)]
    assert torch.equal(torch.rand(2), expected)
    states += [LoraConfig().apply(make_backbone(), seed=seed).trainable() for seed in (1, 2)]
    name = "lora.encoder.layer.0.attention.self.query.lora_A"
    assert torch.equal(states[0][name], states[1][name])
    assert not torch.equal(states[0][name], states[2][name])


@pytest.mark.parametrize("config", METHODS_WITH_WEIGHTS, ids=by_name)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_under_fake_tensors(config: MethodConfig, checkpointing: bool) -> None:
    config = method_from_dict({**config.to_dict(), "activation_checkpointing": checkpointing})
    with FakeTensorMode():
        tuned = config.apply(make_backbone(), seed=0)
        tuned.train()
        (tuned(make_batch()) * torch.linspace(-1, 1, WIDTH)).sum().backward()
        assert all(parameter.grad is not None for parameter in tuned.trainable().values())
        tuned.remove()


def test_bitfit_refuses_a_backbone_without_biases_and_leaves_it_alone() -> None:
    backbone = make_backbone("modernbert")
    before = contents(backbone)
    with pytest.raises(UnsupportedBackboneError, match="have none"):
        BitFitConfig().apply(backbone, seed=0)
    assert_same(before, contents(backbone))
    LinearProbeConfig().apply(backbone, seed=0)


def test_full_trains_also_where_the_original_weights_cannot_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(_tensors: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(originals, "Snapshot", no_room)
    tuned = make_tuned(FullConfig())
    tuned.train()
    learn(tuned, 1)
    with pytest.raises(SherlError, match=r"No space left on device.*load it once more.*TMPDIR"):
        tuned.remove()


@pytest.mark.parametrize("config", ALL, ids=by_name)
def test_settings_survive_json(config: MethodConfig) -> None:
    assert config.name in METHODS
    assert method_from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("plain", "parts"),
    [
        ({"name": "lora", "rank": 0, "alpha": 0, "activation_checkpointing": 1}, ["rank", "alpha", "must be true or"]),
        ({"name": "full", "rank": 3}, ["unknown setting 'rank'"]),
        ({"name": "linear_probe", "activation_checkpointing": True}, ["unknown setting 'activation_checkpointing'"]),
        ({"name": "bitfit", "activation_checkpoint": True}, ["Did you mean 'activation_checkpointing'"]),
    ],
)
def test_bad_settings(plain: dict[str, object], parts: list[str]) -> None:
    with pytest.raises(SpecError) as caught:
        method_from_dict(plain)
    for part in parts:
        assert part in str(caught.value)
