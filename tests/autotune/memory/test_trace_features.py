"""The trace of batches that bring stored hidden states against the real rehearsal on a light backbone: equal to the byte."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from autotune.memory.gpu import GpuKind
from autotune.memory.rehearsal import measure_rehearsal
from autotune.memory.trace import Workload, trace
from sherl.backbones import lighten
from sherl.errors import SpecError
from sherl.features import SHAPE_ALONE, feature_name, stacks_stored
from sherl.forms import form_of, without_values
from sherl.methods import method_from_dict
from sherl.model import build_model
from sherl.precision import weights_dtype
from sherl.sharing import needs_of, without_for
from sherl.spec import TaskSpec, TrainingConfig
from tests.sherl.feature_samples import recorded
from tests.sherl.texts import WRITTEN, text_batch
from tests.sherl.tiny import CLASSIFICATION, batch_for, tiny_backbone

TRAINING = TrainingConfig(learning_rate=1e-3, batch_size=6)
METHODS: dict[str, dict[str, Any]] = {
    "sherl": {"name": "sherl", "reduction_factor": 2},
    "shallow": {"name": "sherl", "regulate": False, "reduction_factor": 2},
    "multi-lora": {
        "name": "sherl", "insertion": "multi", "start_layer": -2, "reduction_factor": 2,
        "late_route": {"name": "lora", "rank": 2}, "activation_checkpointing": True,
    },
    "unipt": {"name": "unipt"},
    "ladder": {"name": "ladder", "reduction_factor": 2, "initialisation": "random"},
    "pruned-ladder": {"name": "ladder", "reduction_factor": 2},
    "linear_probe": {"name": "linear_probe"},
}  # fmt: skip


def both(
    family: str,
    settings: dict[str, Any],
    *,
    training: TrainingConfig = TRAINING,
    task: TaskSpec = CLASSIFICATION,
    batches: list[dict[str, Tensor]] | None = None,
) -> tuple[Any, Any]:
    """allocated and parts, traced and real."""
    method, dtype = method_from_dict(settings), weights_dtype(training.precision)
    whole, backbone = tiny_backbone(family, dtype=dtype), tiny_backbone(family, dtype=dtype)
    if batches is None:
        batches = [batch_for(family, rows=6, tokens=11), batch_for(family, rows=5, tokens=9)]
    places = sorted(needs_of(method, task, whole))
    for batch in batches:
        states = recorded(whole, batch)
        batch.update({feature_name(place): states[place] for place in places})
    batches = [without_values(batch, SHAPE_ALONE) for batch in batches]
    without = without_for(method, task, backbone, stacks_stored(batches[0]))
    if without is not None:
        lighten(backbone, without)
    workload = Workload(
        backbone_config=whole.config.to_dict(), method=settings, task=task, training=training,
        train_batch=form_of(batches[0]), eval_batch=form_of(batches[1]),
    )  # fmt: skip
    traced = trace(workload)
    model = build_model(backbone, method, task, seed=0)
    real = measure_rehearsal(model, *batches, training, restore="none")
    return (traced.allocated, traced.parts), (real.peak_bytes, {str(k): v for k, v in real.peak_parts.items()})


@pytest.mark.parametrize(
    ("family", "method"),
    [(family, method) for family in ("bert", "t5") for method in METHODS]
    + [(family, method) for family in ("mpnet", "llama", "vit") for method in ("multi-lora", "unipt")]
    + [("bart", "sherl"), ("swin", "sherl"), ("resnet", "multi-lora"), ("vit", "ladder"), ("dinov2", "linear_probe")],
)
def test_every_reader_is_exact(family: str, method: str) -> None:
    settings = METHODS[method]
    if family == "resnet" and method == "multi-lora":
        settings = {**settings, "late_route": "none"}
    traced, real = both(family, settings)
    assert traced == real


@pytest.mark.parametrize("family", ["bert", "t5", "vit"])
@pytest.mark.parametrize("plan", [{"precision": "bf16"}, {"accumulation": 4}], ids=["bf16", "accumulation"])
def test_every_plan_is_exact(family: str, plan: dict[str, Any]) -> None:
    training = TrainingConfig(learning_rate=1e-3, batch_size=6, **plan)
    traced, real = both(family, METHODS["sherl"], training=training)
    assert traced == real


def test_text_that_is_written_behind_a_stored_source_is_exact() -> None:
    for method in ("sherl", "unipt"):
        batches = [text_batch(rows=6, tokens=11, targets=4), text_batch(rows=5, tokens=9, targets=3)]
        traced, real = both("t5", METHODS[method], task=WRITTEN, batches=batches)
        assert traced == real


def workload_of(*, stored: bool, method: str = "sherl") -> Workload:
    """A batch of two rows: weights are most of it."""
    whole, batch = tiny_backbone("bert", depth=6), batch_for("bert", rows=2, tokens=4)
    config = method_from_dict(METHODS[method])
    states = recorded(whole, batch)
    full = {**batch, **{feature_name(place): states[place] for place in needs_of(config, CLASSIFICATION, whole)}}
    form = form_of(full if stored else batch)
    return Workload(
        backbone_config=whole.config.to_dict(), method=METHODS[method], task=CLASSIFICATION, training=TRAINING,
        train_batch=form, eval_batch=form,
    )  # fmt: skip


def test_less_is_held_where_early_weights_are_left_out() -> None:
    stored, live = workload_of(stored=True), workload_of(stored=False)
    assert stored.key != live.key
    traced = [trace(workload) for workload in (stored, live)]
    assert traced[0].parts["weights"] < 0.4 * traced[1].parts["weights"]
    assert traced[0].allocated < traced[1].allocated
    pruned = [trace(workload_of(stored=flag, method="pruned-ladder")) for flag in (True, False)]
    assert pruned[0].parts["weights"] == pruned[1].parts["weights"], "its side blocks are made of all weights"


def test_a_gpu_is_priced_without_them_too() -> None:
    gpu = GpuKind(capability=(9, 0))
    stored, live = (trace(workload_of(stored=flag), gpu) for flag in (True, False))
    assert stored.allocated < live.allocated
    assert stored.reserved is not None
    assert live.reserved is not None
    assert stored.reserved <= live.reserved


@pytest.mark.parametrize("gpu", [None, GpuKind(capability=(9, 0))], ids=["cpu", "cuda"])
def test_images_whose_hidden_states_are_stored_take_no_memory(gpu: GpuKind | None) -> None:
    """Of the batch that the step copies to a GPU either: the inputs are labels and hidden states."""
    method, whole = method_from_dict(METHODS["linear_probe"]), tiny_backbone("dinov2")
    batch = batch_for("dinov2", rows=64)
    states = recorded(whole, batch)
    places = needs_of(method, CLASSIFICATION, whole)
    full = {**batch, **{feature_name(place): states[place] for place in places}}
    traced = {}
    for name, given in {"whole": full, "hollow": without_values(full, SHAPE_ALONE)}.items():
        form = form_of(given)
        workload = Workload(
            backbone_config=whole.config.to_dict(), method=METHODS["linear_probe"], task=CLASSIFICATION,
            training=TRAINING, train_batch=form, eval_batch=form,
        )  # fmt: skip
        traced[name] = (workload.key, trace(workload, gpu))
    assert traced["whole"][0] != traced["hollow"][0]
    pixels = batch["pixel_values"].nbytes
    less = traced["whole"][1].parts["inputs"] - traced["hollow"][1].parts["inputs"]
    # on a CPU both batches of a rehearsal lie there; a GPU has the one that it works on
    assert less == pytest.approx((2 if gpu is None else 1) * pixels, abs=16)
    assert traced["hollow"][1].allocated < traced["whole"][1].allocated


def test_training_and_evaluation_must_agree() -> None:
    stored, live = workload_of(stored=True), workload_of(stored=False)
    mixed = Workload(**{**vars(stored), "eval_batch": live.eval_batch})
    with pytest.raises(SpecError, match="hidden states of blocks and evaluation of no stack"):
        trace(mixed)
    assert not torch.cuda.is_initialized()
