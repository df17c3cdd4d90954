"""What every method promises, on every family of backbones.

The cells are made of the registries: whatever is registered when this file is collected is tested, every method with its
default settings on every family. Variants of SHERL are dealt out: each family gets two or more of them, and each kind all
that it can carry. A method that a family cannot carry must refuse with UnsupportedBackboneError and leave the backbone as
it was. A cell's models are made once and shared by its tests.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import transformers
from torch import Tensor, nn

from sherl.backbones import FAMILIES, Backbone, backbone_from_config
from sherl.checkpoint import load_checkpoint, save_checkpoint
from sherl.errors import SpecError, UnsupportedBackboneError
from sherl.evaluation import eval_step
from sherl.methods import METHODS, method_from_dict
from sherl.methods.late import LATE_ROUTES
from sherl.model import TaskModel, build_model
from sherl.spec import TrainingConfig
from sherl.training import compute_gradients, make_optimizer, train_step
from tests.sherl.sherl_samples import assert_same, contents
from tests.sherl.tiny import CLASSIFICATION, batch_for, padded_on_the_left, tiny_backbone, wider
from tests.sherl.tiny_configs import CONFIGS, PAD, VOCABULARY

DEPTH = 3
STEPS = 30
SEED = 2  # not 0, with which a checkpoint is loaded: what it leaves out would be drawn alike
FALLEN = 0.9
"""Of the loss at the start, what is left at most after so many steps."""

METHOD_CASES: dict[str, dict[str, Any]] = {name: {"name": name} for name in METHODS.names()}
# of the default's two inner units (width 16) a ReLU may shut both for the one token, alike in all rows, that a decoder reads
METHOD_CASES["sherl"] = {"name": "sherl", "reduction_factor": 2}
METHOD_CASES["ladder"] = {"name": "ladder", "reduction_factor": 2}  # two channels behind a norm would be +1 and -1
METHOD_CASES["prompt"] = {"name": "prompt", "num_prompts": 3}  # the default of 100 would drown rows of 8 tokens

VARIANTS: dict[str, dict[str, Any]] = {
    f"sherl-multi-{route}": {
        "name": "sherl", "insertion": "multi", "start_layer": -2, "reduction_factor": 2, "late_route": {"name": route},
    }
    for route in LATE_ROUTES.names()
}  # fmt: skip
VARIANTS["sherl-released"] = {"name": "sherl", "gate": "released", "similarity": "learned", "reduction_factor": 2}
VARIANTS["sherl-attention"] = {"name": "sherl", "aggregation": "attention", "reduction_factor": 2}
VARIANTS["sherl-shallow"] = {"name": "sherl", "regulate": False, "reduction_factor": 2}
CASES = METHOD_CASES | VARIANTS


def kinds() -> dict[str, list[str]]:
    """The families of each kind, in the registry's order."""
    found: dict[str, list[str]] = {}
    for family in FAMILIES.names():
        found.setdefault(FAMILIES.get(family).kind, []).append(family)
    return found


def dealt() -> dict[str, list[str]]:
    """Variants by family: dealt out in turn within each kind, two each, or more where a kind has few families."""
    names = list(VARIANTS)
    hands = {}
    for families in kinds().values():
        size = max(2, -(-len(names) // len(families)))
        for place, family in enumerate(families):
            hands[family] = [names[(place * size + card) % len(names)] for card in range(size)]
    return hands


HANDS = dealt()
CELLS = [(family, case) for family in FAMILIES.names() for case in [*METHOD_CASES, *HANDS[family]]]


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


def put_on(backbone: Backbone, case: str, *, seed: int) -> TaskModel:
    return build_model(backbone, method_from_dict(CASES[case]), CLASSIFICATION, seed=seed)


def values_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def copied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in state.items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def near(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, atol=1e-5 * max(1.0, float(other.abs().max())))


def loss_of(model: TaskModel, batch: dict[str, Tensor]) -> float:
    return float(model.loss(eval_step(model, batch), batch["labels"]))


def feeds_nothing(name: str) -> bool:
    """What has no gradient in classification: a pooler nobody reads, a separate language head and, as the decoder reads
    one token there, whatever chooses between its own positions."""
    chooses = ("self_attn.q_proj", "self_attn.k_proj", "SelfAttention.q", "SelfAttention.k", "relative_attention_bias")
    nowhere = ("pooler", "lm_head", "proj_out", "mask_token", f"x_layers.{DEPTH - 1}.visn")
    reads_nobody = any(part in name for part in nowhere)
    return reads_nobody or ("decoder" in name and any(part in name for part in chooses))


def train(model: TaskModel, steps: int, *, precision: Any = "fp32", until: float = 0.0) -> list[float]:
    """Losses of each step; every ten steps it is seen whether the loss without dropout is under ``until``: enough then."""
    few = model.tuned.config.name in ("linear_probe", "prompt")  # what little trains may take longer steps
    rate = 3e-2 if few else 1e-2
    training = TrainingConfig(learning_rate=rate, batch_size=16, weight_decay=0.0, precision=precision)
    optimizer, scheduler = make_optimizer(model, training, total_steps=STEPS)
    losses: list[float] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        batch = batch_for(model.tuned.backbone.family)
        for step in range(1, steps + 1):
            losses.append(float(train_step(model, batch, optimizer, scheduler, training)))
            if step % 10 == 0 and loss_of(model, batch) < until:
                break
    return losses


@pytest.fixture(scope="module", params=CELLS, ids="-".join)
def cell(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Family and case; module-wide, so that all tests of one cell come one after the other."""
    given: tuple[str, str] = request.param
    return given


@pytest.fixture(scope="module")
def fresh(cell: tuple[str, str]) -> TaskModel:
    """The model at its start, whose values no test changes; skips where the family refuses the method, after a look at what
    the refusal leaves."""
    family, case = cell
    backbone = backbone_of(family)
    before = values_of(backbone.model)
    torch.manual_seed(1)
    try:
        return put_on(backbone, case, seed=SEED)
    except UnsupportedBackboneError as refusal:
        assert same(values_of(backbone.model), before)
        put_on(backbone, "linear_probe", seed=0)  # and it can still be used
        if family not in str(refusal):
            pytest.fail(f"the message does not say whose blocks cannot carry it: {refusal}")
        pytest.skip("the family refuses the method")


class Run(NamedTuple):
    """A model after some training, and what was before: its backbone carried a model of another seed at first."""

    model: TaskModel
    contents_before: dict[str, Any]  # of the backbone, before any method came
    contents_between: dict[str, Any]  # behind remove() of the first model, which had been trained a little
    hidden_before: Tensor
    hidden_between: Tensor
    start: dict[str, Tensor]
    start_of_other_seed: dict[str, Tensor]
    loss_before: float
    frozen_before: dict[str, Tensor]


@pytest.fixture(scope="module")
def trained(cell: tuple[str, str], fresh: TaskModel) -> Run:
    del fresh  # skips where the method is refused
    family, case = cell
    backbone, batch = backbone_of(family), batch_for(family)
    before = contents(backbone)
    with torch.no_grad():
        hidden_before = backbone.encode(batch)
    first = put_on(backbone, case, seed=6)
    other = copied(first.trainable_state())
    train(first, 2)
    first.tuned.remove()
    between = contents(backbone)
    assert all(parameter.grad is None for parameter in backbone.model.parameters())
    with torch.no_grad():
        hidden_between = backbone.encode(batch)
    torch.manual_seed(2)
    model = put_on(backbone, case, seed=SEED)
    start = copied(model.trainable_state())
    frozen = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    loss = loss_of(model, batch)
    train(model, STEPS, until=FALLEN * loss)
    return Run(model, before, between, hidden_before, hidden_between, start, other, loss, frozen)


def test_each_kind_carries_every_variant_somewhere() -> None:
    """Where the families that a variant was dealt to refuse it, all families of their kind do."""

    def carries(family: str, case: str) -> bool:
        try:
            put_on(backbone_of(family), case, seed=0)
        except UnsupportedBackboneError:
            return False
        return True

    for kind, families in kinds().items():
        for case in VARIANTS:
            chosen = [family for family in families if case in HANDS[family]]
            assert chosen, (kind, case)
            if not any(carries(family, case) for family in chosen):
                could = [family for family in families if carries(family, case)]
                assert not could, f"{case} was dealt to {chosen}, which refuse it; {could} could carry it"


# ---- at the start


def test_a_fresh_model_is_finite_and_only_its_trainables_want_gradients(
    cell: tuple[str, str], fresh: TaskModel
) -> None:
    batch = batch_for(cell[0])
    logits = eval_step(fresh, batch)
    assert logits.shape == (len(batch["labels"]), CLASSIFICATION.num_outputs)
    assert logits.dtype == torch.float32
    assert bool(torch.isfinite(logits).all())
    trainable = fresh.trainable_parameters()
    required = {id(parameter) for parameter in fresh.parameters() if parameter.requires_grad}
    assert {id(parameter) for parameter in trainable} == required
    assert len(trainable) == len(required)
    assert len(fresh.trainable_state()) >= len(trainable)
    assert {id(parameter) for parameter in fresh.head.parameters()} <= required


def test_the_seed_decides_the_start(fresh: TaskModel, trained: Run) -> None:
    """The same on another backbone of the same weights, whatever the global generator and however often it was tuned."""
    assert same(copied(fresh.trainable_state()), trained.start)
    assert not same(trained.start, trained.start_of_other_seed)


def test_there_is_no_graph_before_the_first_trainable_layer(cell: tuple[str, str], fresh: TaskModel) -> None:
    model, batch = fresh, batch_for(cell[0])
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
            loss = model.loss(model(batch), batch["labels"])
        loss.backward()
    assert sorted(seen) == list(range(first))
    for layer, hidden in seen.items():
        assert not any(tensor.requires_grad for tensor in hidden), layer
        assert torch.equal(hidden[0], hidden[-1]), layer  # no dropout there: the same in every epoch
        assert not any(module.training for module in blocks[layer].modules()), layer
    for output in outputs:
        hidden_out = output if isinstance(output, Tensor) else output[0]
        assert not hidden_out.requires_grad


def test_accumulated_gradients_are_those_of_the_whole_batch(cell: tuple[str, str], fresh: TaskModel) -> None:
    model, batch = fresh.eval(), batch_for(cell[0])  # dropout would draw differently
    optimizer, _ = make_optimizer(model, TrainingConfig(learning_rate=1e-2), total_steps=1)
    found = []
    for pieces in (1, 5):
        optimizer.zero_grad()
        compute_gradients(model, batch, optimizer, pieces)
        found.append([p.grad.clone() if p.grad is not None else None for p in model.trainable_parameters()])
    largest = max(float(gradient.abs().max()) for gradient in found[0] if gradient is not None)
    assert largest > 0
    for whole, cut in zip(*found, strict=True):
        assert (whole is None) == (cut is None)
        if whole is not None and cut is not None:
            # what rows cancel out is rounded as what is added up there is large
            tolerance = 1e-5 + 1e-4 * float(whole.abs().max()) + 1e-6 * largest
            assert torch.allclose(whole, cut, rtol=0, atol=tolerance)


# ---- training


def test_the_loss_falls_and_nothing_but_the_trainables_changes(cell: tuple[str, str], trained: Run) -> None:
    assert loss_of(trained.model, batch_for(cell[0])) < FALLEN * trained.loss_before
    parameters = dict(trained.model.named_parameters())
    assert all(torch.equal(parameters[name], tensor) for name, tensor in trained.frozen_before.items())
    state = trained.model.trainable_state()
    buffers = len(state) - len(trained.model.trainable_parameters())
    still = [name for name, tensor in trained.start.items() if torch.equal(state[name], tensor)]
    unused = [name for name in still if not feeds_nothing(name)]
    assert len(unused) <= buffers, unused


def test_saved_and_loaded_to_the_bit(cell: tuple[str, str], trained: Run, tmp_path: Path) -> None:
    model, batch = trained.model, batch_for(cell[0])
    save_checkpoint(model, tmp_path / "kept", max_length=None)
    loaded = load_checkpoint(tmp_path / "kept", backbone=backbone_of(cell[0]))
    assert same(loaded.trainable_state(), model.trainable_state())
    assert torch.allclose(eval_step(loaded, batch), eval_step(model, batch), atol=1e-6)


def test_remove_gives_the_backbone_back(trained: Run) -> None:
    assert_same(dict(trained.contents_before), dict(trained.contents_between))
    assert torch.equal(trained.hidden_before, trained.hidden_between)


def test_bf16_training_stays_finite(cell: tuple[str, str], fresh: TaskModel) -> None:
    del fresh  # skips where the method is refused
    model = put_on(backbone_of(cell[0], torch.bfloat16), cell[1], seed=0)
    assert eval_step(model, batch_for(cell[0])).dtype == torch.float32
    losses = train(model, 3, precision="bf16")
    assert all(loss == loss and abs(loss) < 100 for loss in losses)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in model.trainable_state().values())


# ---- which positions are seen: of a trained model, as a gate at its start would hide a leak in the fused part


def test_no_position_sees_what_it_must_not(cell: tuple[str, str], trained: Run) -> None:
    """Padding never leaks, on whichever side it stands, or is refused on the left; on decoders no position sees a later one."""
    model, batch = trained.model.eval(), batch_for(cell[0])
    if "attention_mask" not in batch:
        pytest.skip("nothing of an image or of speech is padding: silence is heard")
    logits = eval_step(model, batch)
    padding = batch["attention_mask"] == 0
    other_ids = {**batch, "input_ids": torch.where(padding, 7, batch["input_ids"])}
    assert near(eval_step(model, wider(batch, 5)), logits)
    assert near(eval_step(model, other_ids), logits)
    row = 3
    length = int(batch["attention_mask"][row].sum())
    texts = ("input_ids", "attention_mask", "token_type_ids")
    alone = {name: t[row : row + 1, :length] if name in texts else t[row : row + 1] for name, t in batch.items()}
    assert near(eval_step(model, alone), logits[row : row + 1])
    try:
        of_left = eval_step(model, padded_on_the_left(batch))
    except SpecError as refusal:
        refused = str(refusal)
    else:
        refused = None
        assert near(of_left, logits)
    assert refused is None or "padding on the left" in refused
    if FAMILIES.get(cell[0]).kind != "decoder":
        return
    changed = {**batch, "input_ids": batch["input_ids"].clone()}
    changed["input_ids"][:, 4] = 8
    with torch.no_grad():
        before, after = model.tuned(batch), model.tuned(changed)
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 4], after[:, 4], atol=1e-3)
