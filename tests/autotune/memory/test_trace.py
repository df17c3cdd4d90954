"""The trace on fake tensors against the same follower around the real rehearsal: equal to the byte."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from torch import Tensor

from autotune.memory.rehearsal import measure_rehearsal
from autotune.memory.trace import Workload, trace
from sherl.backbones import DEFAULT_BACKBONE, FAMILIES, Backbone, load_backbone, load_config
from sherl.errors import SherlError, SpecError, UnsupportedBackboneError
from sherl.forms import TensorForm, form_of, text_form
from sherl.methods import METHODS, method_from_dict
from sherl.model import build_model
from sherl.precision import weights_dtype
from sherl.spec import TaskSpec, TrainingConfig
from tests.sherl.tiny import batch_for, tiny_backbone, tiny_batch, tiny_config
from tests.sherl.tiny_configs import CONFIGS

CLASSES = TaskSpec(kind="classification", metric="accuracy", class_names=("a", "b"))
NUMBER = TaskSpec(kind="regression", metric="pearson")
TRAINING = TrainingConfig(learning_rate=1e-3, batch_size=6)

VARIANTS: list[dict[str, Any]] = [
    {"name": "full"},
    {"name": "full", "activation_checkpointing": True},
    {"name": "linear_probe"},
    {"name": "lora", "rank": 2},
    {"name": "lora", "rank": 2, "activation_checkpointing": True},
    {"name": "adapter", "inner_width": 5},
    {"name": "adapter", "placement": "attention_and_feed_forward", "activation_checkpointing": True},
    {"name": "prompt", "num_prompts": 3},
    {"name": "prompt", "num_prompts": 3, "activation_checkpointing": True},
    {"name": "bitfit"},
    {"name": "bitfit", "activation_checkpointing": True},
    {"name": "sherl"},
    {"name": "sherl", "gate": "released", "similarity": "learned"},
    {"name": "sherl", "activation_checkpointing": True},
    {"name": "sherl", "insertion": "single", "start_layer": 1},
    {"name": "sherl", "insertion": "multi", "start_layer": 1},
    {"name": "sherl", "insertion": "multi", "start_layer": 1, "activation_checkpointing": True},
    {"name": "sherl", "insertion": "multi", "start_layer": -2, "late_route": {"name": "lora", "rank": 2}},
    {"name": "sherl", "late_route": {"name": "adapter", "reduction_factor": 4}},
    {"name": "sherl", "late_route": {"name": "bitfit"}},
    {"name": "sherl", "late_route": {"name": "prompt", "num_prompts": 3}, "reduction_factor": 16},
    {"name": "unipt"},
    {"name": "ladder"},
    {"name": "ladder", "reduction_factor": 2, "kept_layers": "drop:0", "output": "added"},
]


def _name(value: object) -> str:
    if isinstance(value, dict):
        return "-".join(str(v["name"] if isinstance(v, dict) else v) for v in value.values())
    return str(value)


def _form(rows: int, tokens: int, *, values: bool = False, token_types: bool = True) -> dict[str, TensorForm]:
    return text_form(rows, tokens, TensorForm((rows,), "float32" if values else "int64"), token_types=token_types)


def _both(
    backbone: Backbone,
    method: dict[str, Any],
    *,
    task: TaskSpec = CLASSES,
    training: TrainingConfig = TRAINING,
    train: tuple[int, int] = (6, 11),
    evaluation: tuple[int, int] = (6, 9),
    batches: list[dict[str, Tensor]] | None = None,
) -> tuple[int, dict[str, int], int, dict[str, int]]:
    """allocated and parts, traced and real; batches: for training and for evaluation, of texts of these sizes if not given."""
    if batches is None:
        batches = [tiny_batch(rows=rows, tokens=tokens) for rows, tokens in (train, evaluation)]
        if task.kind == "regression":
            for batch in batches:
                batch["labels"] = batch["labels"].float()
    workload = Workload(
        backbone_config=backbone.config.to_dict(),
        method=method,
        task=task,
        training=training,
        train_batch=form_of(batches[0]),
        eval_batch=form_of(batches[1]),
    )
    traced = trace(workload)
    model = build_model(backbone, method_from_dict(method), task, seed=0)
    real = measure_rehearsal(model, *batches, training, restore="none")
    return traced.allocated, traced.parts, real.peak_bytes, dict(real.peak_parts)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", VARIANTS, ids=_name)
def test_every_variant_is_exact(method: dict[str, Any]) -> None:
    traced, parts, real, real_parts = _both(tiny_backbone(), method)
    assert traced == real
    assert parts == real_parts


def test_every_method_has_a_variant() -> None:
    assert {variant["name"] for variant in VARIANTS} >= set(METHODS.names()), "a new method wants a variant here"


def dealt(size: int, offset: int = 0) -> list[tuple[str, str]]:
    """So many methods, or more, for each family, dealt out in turn within each kind, so that each kind has all of them."""
    methods = METHODS.names()
    cells = []
    for kind in sorted({FAMILIES.get(family).kind for family in FAMILIES.names()}):
        families = [family for family in FAMILIES.names() if FAMILIES.get(family).kind == kind]
        each = max(size, -(-len(methods) // len(families)))
        for place, family in enumerate(families):
            cells += [(family, methods[(offset + place * each + card) % len(methods)]) for card in range(each)]
    return cells


def settings_of(method: str) -> dict[str, Any]:
    """A method with settings that tiny models can carry."""
    return {"name": method, "reduction_factor": 2} if method == "ladder" else {"name": method}


def test_each_kind_is_dealt_every_method_and_each_family_three() -> None:
    cells = dealt(3)
    for family in FAMILIES.names():
        kind = FAMILIES.get(family).kind
        assert len({method for other, method in cells if other == family}) >= 3
        assert {method for other, method in cells if FAMILIES.get(other).kind == kind} == set(METHODS.names())


@pytest.mark.parametrize(("family", "method"), dealt(3))
def test_every_family_and_method_is_exact(family: str, method: str) -> None:
    """Each family with three methods, on batches of its own kind, and every method on each kind: the whole matrix of some
    380 cells would take over 5 minutes of processor time."""
    if family not in CONFIGS:
        pytest.fail(f"add {family!r} to tests/sherl/tiny_configs.py")
    backbone = tiny_backbone(family)
    batches = [batch_for(family, rows=6), batch_for(family, rows=4)]
    try:
        build_model(tiny_backbone(family), method_from_dict(settings_of(method)), CLASSES, seed=0)
    except UnsupportedBackboneError:  # the trace says so too: ModernBERT has no biases to train
        with pytest.raises(UnsupportedBackboneError):
            _both(backbone, settings_of(method), batches=batches)
        return
    traced, parts, real, real_parts = _both(backbone, settings_of(method), batches=batches)
    assert traced == real
    assert parts == real_parts


@pytest.mark.parametrize("method", ["full", "sherl", "lora", "linear_probe"])
@pytest.mark.parametrize(
    "training",
    [
        TrainingConfig(learning_rate=1e-3, batch_size=6, accumulation=4),
        TrainingConfig(learning_rate=1e-3, batch_size=6, precision="bf16"),
        TrainingConfig(learning_rate=1e-3, batch_size=6, max_grad_norm=None),
        TrainingConfig(learning_rate=1e-3, batch_size=6, precision="bf16", accumulation=2),
    ],
    ids=["accumulation", "bf16", "no clipping", "bf16 and accumulation"],
)
def test_every_plan_is_exact(method: str, training: TrainingConfig) -> None:
    backbone = tiny_backbone(dtype=weights_dtype(training.precision))
    traced, _, real, _ = _both(backbone, {"name": method}, training=training)
    assert traced == real


@pytest.mark.parametrize("train", [(1, 1), (1, 7), (7, 1), (2, 40), (9, 13)])
def test_every_shape_is_exact(train: tuple[int, int]) -> None:
    for evaluation in ((1, 1), (12, 40)):
        traced, _, real, _ = _both(tiny_backbone(), {"name": "sherl"}, train=train, evaluation=evaluation)
        assert traced == real


def test_regression_is_exact() -> None:
    traced, _, real, _ = _both(tiny_backbone(), {"name": "sherl"}, task=NUMBER)
    assert traced == real


def test_a_large_evaluation_counts() -> None:
    small, *_ = _both(tiny_backbone(), {"name": "linear_probe"}, evaluation=(1, 1))
    large, *_ = _both(tiny_backbone(), {"name": "linear_probe"}, evaluation=(64, 40))
    assert large > small


def _workload(**changes: Any) -> Workload:
    settings: dict[str, Any] = {
        "backbone_config": tiny_config("bert").to_dict(),
        "method": {"name": "sherl"},
        "task": CLASSES,
        "training": TRAINING,
        "train_batch": _form(6, 11),
        "eval_batch": _form(6, 9),
    }
    return Workload(**{**settings, **changes})


def test_tracing_leaves_the_random_state_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    trace(_workload())
    assert torch.equal(torch.rand(3), expected)


def test_more_rows_take_more() -> None:
    sizes = [trace(_workload(train_batch=_form(rows, 11))).allocated for rows in (2, 6, 12)]
    assert sizes == sorted(set(sizes))


def test_the_key_names_what_decides_memory_and_nothing_else() -> None:
    key = _workload().key
    same: list[dict[str, Any]] = [
        {
            "training": TrainingConfig(
                learning_rate=5.0, batch_size=6, seed=9, epochs=1, warmup_steps=3, max_grad_norm=9.0
            )
        },
        {"method": {"name": "sherl", "reduction_factor": 8}},  # the default, said aloud
        {"task": TaskSpec(kind="classification", metric="f1", class_names=("x", "y"))},
        {"backbone_config": {**tiny_config("bert").to_dict(), "_name_or_path": "elsewhere"}},
    ]
    other: list[dict[str, Any]] = [
        {"training": TrainingConfig(learning_rate=1e-3, batch_size=6, precision="bf16")},
        {"training": TrainingConfig(learning_rate=1e-3, batch_size=6, accumulation=2)},
        {"training": TrainingConfig(learning_rate=1e-3, batch_size=6, max_grad_norm=None)},
        {"method": {"name": "sherl", "reduction_factor": 4}},
        {"task": TaskSpec(kind="classification", metric="f1", class_names=("x", "y", "z"))},
        {"backbone_config": tiny_config("bert", depth=4).to_dict()},
        {"train_batch": _form(6, 12)},
        {"eval_batch": _form(7, 9)},
        {"train_batch": _form(6, 11, token_types=False)},
    ]
    assert all(_workload(**changes).key == key for changes in same)
    keys = [_workload(**changes).key for changes in other]
    assert len({key, *keys}) == len(other) + 1


def test_bad_workloads_say_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        _workload(train_batch=_form(0, 5))
    with pytest.raises(SpecError, match="start_layer"):
        trace(_workload(method={"name": "sherl", "start_layer": 7}))
    with pytest.raises(SherlError, match="tokens"):
        trace(_workload(train_batch=_form(2, 500)))


@pytest.mark.slow
@pytest.mark.parametrize("method", [VARIANTS[place] for place in (0, 1, 2, 3, 5, 7, 9, 11, 13)], ids=_name)
def test_the_packaged_model_is_exact_and_quick(method: dict[str, Any]) -> None:
    traced, parts, real, real_parts = _both(load_backbone(DEFAULT_BACKBONE), method, train=(4, 16), evaluation=(6, 20))
    assert traced == real
    assert parts == real_parts
    workload = _workload(
        backbone_config=load_config(DEFAULT_BACKBONE).to_dict(), method=method, train_batch=_form(4, 16)
    )
    began = time.process_time()  # processor time: a busy machine is no slower by it
    trace(workload)
    assert time.process_time() - began < 3.0, "the goal is 1 s; the rest is room for slow machines"
