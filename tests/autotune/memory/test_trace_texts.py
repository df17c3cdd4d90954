"""The trace of text-to-text on encoder-decoders against the real rehearsal: equal to the byte."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from autotune.memory.rehearsal import measure_rehearsal
from autotune.memory.trace import Workload, trace
from sherl.errors import UnsupportedBackboneError
from sherl.forms import TensorForm, text_form
from sherl.methods import METHODS, method_from_dict
from sherl.model import build_model
from sherl.precision import weights_dtype
from sherl.spec import TrainingConfig
from tests.sherl.texts import MODELS, NAMED, WRITTEN, text_backbone, text_batch

TRAINING = TrainingConfig(learning_rate=1e-3, batch_size=6)

VARIANTS: list[dict[str, Any]] = [{"name": name} for name in METHODS.names() if name != "linear_probe"]
VARIANTS += [{"name": "bitfit", "add_missing": True}, {"name": "prompt", "num_prompts": 3}]
VARIANTS += [{"name": name, "activation_checkpointing": True} for name in ("full", "lora", "sherl")]
VARIANTS += [
    {"name": "sherl", "insertion": "multi", "start_layer": -2, "late_route": {"name": "lora", "rank": 2}},
    {"name": "sherl", "kept_layers": [1], "reduction_factor": 2},
    {"name": "sherl", "gate": "released", "similarity": "learned", "final_norm": "new", "expansion": "rectified"},
]


def _form(rows: int, tokens: int, targets: int) -> dict[str, TensorForm]:
    return text_form(rows, tokens, TensorForm((rows, targets)))


def _name(method: dict[str, Any]) -> str:
    return "-".join(str(value["name"] if isinstance(value, dict) else value) for value in method.values())


def both(name: str, method: dict[str, Any], *, training: TrainingConfig = TRAINING, **changes: Any) -> tuple[Any, Any]:
    """allocated and parts, traced and real."""
    task = changes.pop("task", WRITTEN)
    if method.get("final_norm") == "new" and name == "bart":
        pytest.skip("bart ends without a norm")
    backbone = text_backbone(name, dtype=weights_dtype(training.precision))
    sizes = [
        changes.get("train", (6, 11, 4)),
        changes.get("evaluated", (5, 9, 3)),
    ]  # rows, tokens, tokens of the target
    workload = Workload(
        backbone_config=backbone.config.to_dict(), method=method, task=task, training=training,
        train_batch=_form(*sizes[0]), eval_batch=_form(*sizes[1]),
    )  # fmt: skip
    try:
        model = build_model(backbone, method_from_dict(method), task, seed=0)
    except UnsupportedBackboneError:
        with pytest.raises(UnsupportedBackboneError):
            trace(workload)
        pytest.skip("refused")
    traced = trace(workload)
    batches = [text_batch(rows=rows, tokens=tokens, targets=targets) for rows, tokens, targets in sizes]
    real = measure_rehearsal(model, *batches, training, restore="none")
    return (traced.allocated, traced.parts), (real.peak_bytes, {str(k): v for k, v in real.peak_parts.items()})


# every variant on the two layouts, the variants that differ most on the other models
@pytest.mark.parametrize(
    ("name", "method"),
    [(name, method) for name in ("t5", "bart") for method in VARIANTS]
    + [(name, {"name": method}) for name in MODELS if name not in ("t5", "bart") for method in ("full", "sherl")],
    ids=lambda value: value if isinstance(value, str) else _name(value),
)
def test_every_method_is_exact(name: str, method: dict[str, Any]) -> None:
    traced, real = both(name, method)
    assert traced == real


@pytest.mark.parametrize("name", ["t5", "flan"])
@pytest.mark.parametrize("method", ["full", "lora", "sherl"])
@pytest.mark.parametrize(
    "training",
    [
        TrainingConfig(learning_rate=1e-3, batch_size=6, precision="bf16"),
        TrainingConfig(learning_rate=1e-3, batch_size=6, accumulation=4),
    ],
    ids=["bf16", "accumulation"],
)
def test_every_plan_is_exact(name: str, method: str, training: TrainingConfig) -> None:
    traced, real = both(name, {"name": method}, training=training)
    assert traced == real


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_an_evaluation_that_writes_much_is_exact_and_counts(name: str) -> None:
    settings: dict[str, Any] = {"train": (1, 2, 1), "evaluated": (12, 9, 3)}
    figures = []
    for length in (3, 30):
        task = type(WRITTEN)(**{**WRITTEN.to_dict(), "class_names": (), "label_tokens": (), "target_length": length})
        traced, real = both(name, {"name": "sherl"}, task=task, **settings)
        assert traced == real
        figures.append(traced[0])
    assert figures[1] > figures[0], "the cache of keys and values grows with what is written"


def test_named_answers_and_longer_targets() -> None:
    one = both("t5", {"name": "sherl"}, task=NAMED)
    assert one[0] == one[1]
    longer, real = both("t5", {"name": "sherl"}, train=(6, 11, 12))
    assert longer == real
    assert longer[0] > one[0][0]


def test_the_key_names_targets() -> None:
    settings: dict[str, Any] = {
        "backbone_config": text_backbone().config.to_dict(), "method": {"name": "sherl"}, "training": TRAINING,
    }  # fmt: skip
    keys = {
        Workload(**settings, task=task, train_batch=_form(6, 11, train), eval_batch=_form(6, 9, evaluated)).key
        for task, train, evaluated in ((WRITTEN, 4, 3), (WRITTEN, 5, 3), (WRITTEN, 4, 4), (NAMED, 4, 3))
    }
    assert len(keys) == 4


@pytest.mark.slow
def test_t5_base_is_traced_from_its_configuration_alone() -> None:
    from transformers import T5Config

    config = T5Config(d_model=768, d_ff=3072, num_layers=12, num_heads=12, decoder_start_token_id=0).to_dict()
    figures = {
        name: trace(
            Workload(
                backbone_config=config, method={"name": name}, task=WRITTEN, training=TRAINING,
                train_batch=_form(100, 128, 3), eval_batch=_form(100, 128, 3),
            )
        ).allocated
        for name in ("sherl", "lora", "full")
    }  # fmt: skip
    assert figures["sherl"] < 0.25 * figures["lora"] < 0.25 * figures["full"]
    assert not torch.cuda.is_initialized()


@pytest.mark.parametrize("name", ["t5", "bart", "gpt2"])
@pytest.mark.parametrize("method", ["sherl", "lora"])
def test_an_evaluation_that_writes_nothing_is_exact_and_priced_by_itself(name: str, method: str) -> None:
    judged = replace(WRITTEN, metric="neg_perplexity")
    traced, real = both(name, {"name": method}, task=judged, evaluated=(12, 9, 3))
    assert traced == real
    form = _form(6, 11, 4)
    keys = {
        Workload(
            backbone_config={}, method={"name": method}, task=task, training=TRAINING, train_batch=form, eval_batch=form
        ).key
        for task in (judged, WRITTEN)
    }
    assert len(keys) == 2
