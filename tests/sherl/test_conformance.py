"""What every method promises, on every family of backbones.

The cases are made of the registries: whatever is registered when this file is collected is tested, with its default
settings, on every family; SHERL is tried with each late route too. A method that a family cannot carry must refuse with
UnsupportedBackboneError and leave the backbone as it was.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import transformers
from torch import Tensor, nn

from sherl.backbones import FAMILIES, Backbone, backbone_from_config
from sherl.checkpoint import load_checkpoint, save_checkpoint
from sherl.errors import UnsupportedBackboneError
from sherl.evaluation import eval_step
from sherl.methods import METHODS, method_from_dict
from sherl.methods.late import LATE_ROUTES
from sherl.model import TaskModel, build_model
from sherl.spec import TrainingConfig
from sherl.training import compute_gradients, make_optimizer, train_step
from tests.sherl.tiny import CLASSIFICATION, CONFIGS, PAD, VOCABULARY, batch_for, tiny_backbone, wider

DEPTH = 3
STEPS = 30

CASES: dict[str, dict[str, Any]] = {name: {"name": name} for name in METHODS.names()}
# of the default's two inner units (width 16) a ReLU may shut both for the one token, alike in all rows, that a decoder reads
CASES["sherl"] = {"name": "sherl", "reduction_factor": 2}
CASES["ladder"] = {"name": "ladder", "reduction_factor": 2}  # two channels behind a norm would be +1 and -1
CASES["prompt"] = {"name": "prompt", "num_prompts": 3}  # the default of 100 would drown rows of 8 tokens
for _route in LATE_ROUTES.names():
    CASES[f"sherl-multi-{_route}"] = {
        "name": "sherl", "insertion": "multi", "start_layer": -2, "reduction_factor": 4, "late_route": {"name": _route},
    }  # fmt: skip
CASES["sherl-released"] = {"name": "sherl", "gate": "released", "similarity": "learned", "reduction_factor": 4}
CASES["sherl-attention"] = {"name": "sherl", "aggregation": "attention", "reduction_factor": 2}
CASES["sherl-shallow"] = {"name": "sherl", "regulate": False, "reduction_factor": 2}

every = pytest.mark.parametrize("family", FAMILIES.names())
decoders = pytest.mark.parametrize(
    "family", [name for name in FAMILIES.names() if FAMILIES.get(name).kind == "decoder"]
)
each_method = pytest.mark.parametrize("case", METHODS.names())
each_case = pytest.mark.parametrize("case", list(CASES))


def backbone_of(family: str, dtype: torch.dtype = torch.float32) -> Backbone:
    """The family's tiny model; of a family that tiny.py does not know, one of the usual settings' names."""
    if family in CONFIGS:
        return tiny_backbone(family, depth=DEPTH, dtype=dtype)
    config = transformers.AutoConfig.for_model(
        family, vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=DEPTH, num_attention_heads=2,
        intermediate_size=24, max_position_embeddings=40, pad_token_id=PAD, initializer_range=0.3,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return backbone_from_config(config, dtype=dtype)


def model_of(family: str, case: str, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> TaskModel:
    """A tiny model; skips where the family refuses the method, after a look at what the refusal leaves."""
    backbone = backbone_of(family, dtype)
    before = values_of(backbone.model)
    try:
        return build_model(backbone, method_from_dict(CASES[case]), CLASSIFICATION, seed=seed)
    except UnsupportedBackboneError as refusal:
        assert same(values_of(backbone.model), before)
        build_model(backbone, method_from_dict("linear_probe"), CLASSIFICATION, seed=seed)  # and it can still be used
        pytest.skip(f"refused: {refusal}")


def values_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def loss_of(model: TaskModel, batch: dict[str, Tensor]) -> float:
    return float(model.loss(eval_step(model, batch), batch["labels"]))


def feeds_nothing(name: str) -> bool:
    """What has no gradient in classification: a pooler nobody reads, a separate language head and, as the decoder reads
    one token there, whatever chooses between its own positions."""
    chooses = ("self_attn.q_proj", "self_attn.k_proj", "SelfAttention.q", "SelfAttention.k", "relative_attention_bias")
    nowhere = ("pooler", "lm_head", "proj_out", "mask_token", f"x_layers.{DEPTH - 1}.visn")
    reads_nobody = any(part in name for part in nowhere)
    return reads_nobody or ("decoder" in name and any(part in name for part in chooses))


def train(model: TaskModel, steps: int, *, precision: Any = "fp32") -> list[float]:
    training = TrainingConfig(learning_rate=1e-2, batch_size=16, weight_decay=0.0, precision=precision)
    optimizer, scheduler = make_optimizer(model, training, total_steps=steps)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        batch = batch_for(model.tuned.backbone.family)
        return [float(train_step(model, batch, optimizer, scheduler, training)) for _ in range(steps)]


class Run(NamedTuple):
    """A model after some training, and what it was before."""

    model: TaskModel
    untouched: dict[str, Tensor]  # the backbone's weights before the method came
    loss_before: float
    trainable_before: dict[str, Tensor]
    frozen_before: dict[str, Tensor]


@cache
def trained(family: str, case: str) -> Run:
    model = model_of(family, case)
    trainable = {name: tensor.clone() for name, tensor in model.trainable_state().items()}
    frozen = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    run = Run(model, values_of(backbone_of(family).model), loss_of(model, batch_for(family)), trainable, frozen)
    train(model, STEPS)
    return run


@pytest.fixture(scope="module", autouse=True)
def _forget_trained_models() -> Iterator[None]:
    yield
    trained.cache_clear()


# ---- values


@every
@each_case
def test_logits_are_finite_float32(family: str, case: str) -> None:
    batch = batch_for(family)
    logits = eval_step(model_of(family, case), batch)
    assert logits.shape == (len(batch["labels"]), CLASSIFICATION.num_outputs)
    assert logits.dtype == torch.float32
    assert bool(torch.isfinite(logits).all())


@every
@each_case
def test_padding_never_leaks(family: str, case: str) -> None:
    model, batch = model_of(family, case), batch_for(family)
    if "attention_mask" not in batch:
        pytest.skip("nothing of an image or of speech is padding: silence is heard")
    train(model, 2)  # a gate at its start would hide a leak in the fused part
    logits = eval_step(model, batch)
    padding = batch["attention_mask"] == 0
    other_ids = {**batch, "input_ids": torch.where(padding, 7, batch["input_ids"])}
    assert torch.allclose(eval_step(model, wider(batch, 5)), logits, atol=1e-5)
    assert torch.allclose(eval_step(model, other_ids), logits, atol=1e-5)
    row = 3
    length = int(batch["attention_mask"][row].sum())
    texts = ("input_ids", "attention_mask", "token_type_ids")
    alone = {name: t[row : row + 1, :length] if name in texts else t[row : row + 1] for name, t in batch.items()}
    assert torch.allclose(eval_step(model, alone), logits[row : row + 1], atol=1e-5)


@decoders
@each_case
def test_left_and_right_padding_give_the_same(family: str, case: str) -> None:
    model, batch = model_of(family, case), batch_for(family)
    train(model, 2)
    lengths = batch["attention_mask"].sum(dim=1).tolist()
    left = {name: tensor.clone() for name, tensor in batch.items()}
    for row, length in enumerate(lengths):
        for name in ("input_ids", "attention_mask"):
            left[name][row] = batch[name][row].roll(-length)
    assert bool((left["attention_mask"][:, -1] == 1).all())
    assert torch.allclose(eval_step(model, left), eval_step(model, batch), atol=1e-5)


@decoders
@each_case
def test_no_position_sees_a_later_one(family: str, case: str) -> None:
    model, batch = model_of(family, case), batch_for(family)
    train(model, 2)
    model.eval()
    changed = {**batch, "input_ids": batch["input_ids"].clone()}
    changed["input_ids"][:, 4] = 8
    with torch.no_grad():
        before, after = model.tuned(batch), model.tuned(changed)
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 4], after[:, 4], atol=1e-3)


@every
@each_case
def test_the_seed_decides_the_start(family: str, case: str) -> None:
    torch.manual_seed(1)
    first = model_of(family, case, seed=5).trainable_state()
    torch.manual_seed(2)
    second = model_of(family, case, seed=5).trainable_state()
    other = model_of(family, case, seed=6).trainable_state()
    assert same(first, second)
    assert not same(first, other)


# ---- what trains


@every
@each_case
def test_exactly_the_trainables_require_gradients(family: str, case: str) -> None:
    model = model_of(family, case)
    trainable = model.trainable_parameters()
    required = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    assert {id(parameter) for parameter in trainable} == required
    assert len(trainable) == len(required)
    assert len(model.trainable_state()) >= len(trainable)
    assert {id(parameter) for parameter in model.head.parameters()} <= required


@every
@each_case
def test_there_is_no_graph_before_the_first_trainable_layer(family: str, case: str) -> None:
    model = model_of(family, case)
    first = model.tuned.first_trainable_layer
    model.train()
    blocks = model.tuned.backbone.blocks
    seen: dict[int, list[Tensor]] = {}

    def record(layer: int) -> Any:
        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            hidden = args[0] if args else next(value for value in kwargs.values() if isinstance(value, Tensor))
            seen.setdefault(layer, []).append(hidden)

        return hook

    with contextlib.ExitStack() as stack:
        for layer in range(first):
            handle = blocks[layer].register_forward_pre_hook(record(layer), with_kwargs=True)
            stack.callback(handle.remove)
        outputs: list[Any] = []
        if first:
            stack.callback(blocks[first - 1].register_forward_hook(lambda *args: outputs.append(args[2])).remove)
        for _ in range(2):
            loss = model.loss(model(batch_for(family)), batch_for(family)["labels"])
        loss.backward()
    assert sorted(seen) == list(range(first))
    for layer, hidden in seen.items():
        assert not any(tensor.requires_grad for tensor in hidden), layer
        assert torch.equal(hidden[0], hidden[-1]), layer  # no dropout there: the same in every epoch
        assert not any(module.training for module in blocks[layer].modules()), layer
    for output in outputs:
        hidden_out = output if isinstance(output, Tensor) else output[0]
        assert not hidden_out.requires_grad


@every
@each_method
def test_accumulated_gradients_are_those_of_the_whole_batch(family: str, case: str) -> None:
    model, batch = model_of(family, case), batch_for(family)
    training = TrainingConfig(learning_rate=1e-2)
    optimizer, _ = make_optimizer(model, training, total_steps=1)
    found = []
    for pieces in (1, 5):
        optimizer.zero_grad()
        compute_gradients(model, batch, optimizer, pieces)  # in evaluation mode: dropout would draw differently
        found.append([p.grad.clone() if p.grad is not None else None for p in model.trainable_parameters()])
    assert any(gradient is not None and bool(gradient.abs().max() > 0) for gradient in found[0])
    for whole, cut in zip(*found, strict=True):
        assert (whole is None) == (cut is None)
        if whole is not None and cut is not None:
            assert torch.allclose(whole, cut, atol=1e-5 + 1e-4 * float(whole.abs().max()))


# ---- training


@every
@each_method
def test_the_loss_falls(family: str, case: str) -> None:
    run = trained(family, case)
    assert loss_of(run.model, batch_for(family)) < 0.9 * run.loss_before


@every
@each_method
def test_training_changes_the_trainables_and_nothing_else(family: str, case: str) -> None:
    run = trained(family, case)
    parameters = dict(run.model.named_parameters())
    assert all(torch.equal(parameters[name], tensor) for name, tensor in run.frozen_before.items())
    state = run.model.trainable_state()
    buffers = len(state) - len(run.model.trainable_parameters())
    still = [name for name, tensor in run.trainable_before.items() if torch.equal(state[name], tensor)]
    unused = [name for name in still if not feeds_nothing(name)]
    assert len(unused) <= buffers, unused


@every
@each_method
def test_saved_and_loaded_to_the_bit(family: str, case: str, tmp_path: Path) -> None:
    model = trained(family, case).model
    save_checkpoint(model, tmp_path / "kept", max_length=None)
    loaded = load_checkpoint(tmp_path / "kept", backbone=backbone_of(family))
    assert same(loaded.trainable_state(), model.trainable_state())
    assert torch.allclose(eval_step(loaded, batch_for(family)), eval_step(model, batch_for(family)), atol=1e-6)


@every
@each_case
def test_bf16_training_stays_finite(family: str, case: str) -> None:
    model = model_of(family, case, dtype=torch.bfloat16)
    assert eval_step(model, batch_for(family)).dtype == torch.float32
    losses = train(model, 3, precision="bf16")
    assert all(loss == loss and abs(loss) < 100 for loss in losses)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in model.trainable_state().values())


@every
@each_case
def test_remove_gives_the_backbone_back(family: str, case: str) -> None:
    backbone = backbone_of(family)
    before, wanted_grad = values_of(backbone.model), [p.requires_grad for p in backbone.model.parameters()]
    modules = [(name, type(module)) for name, module in backbone.model.named_modules()]
    flags = [module.training for module in backbone.model.modules()]
    with torch.no_grad():
        hidden = backbone.encode(batch_for(family))
    try:
        model = build_model(backbone, method_from_dict(CASES[case]), CLASSIFICATION, seed=0)
    except UnsupportedBackboneError as refusal:
        pytest.skip(f"refused: {refusal}")
    train(model, 2)
    model.tuned.remove()
    assert same(values_of(backbone.model), before)
    assert [(name, type(module)) for name, module in backbone.model.named_modules()] == modules
    assert [module.training for module in backbone.model.modules()] == flags
    assert [p.requires_grad for p in backbone.model.parameters()] == wanted_grad
    assert all(p.grad is None for p in backbone.model.parameters())
    hooks = [m for m in backbone.model.modules() if m._forward_hooks or m._forward_pre_hooks or m._backward_hooks]
    assert not hooks
    with torch.no_grad():
        assert torch.equal(backbone.encode(batch_for(family)), hidden)
