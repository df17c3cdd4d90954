"""The trace of text tasks on decoders against the real rehearsal: equal to the byte."""

from __future__ import annotations

from typing import Any

import pytest

from autotune.memory.rehearsal import measure_rehearsal
from autotune.memory.trace import Workload, trace
from sherl.methods import method_from_dict
from sherl.model import build_model
from sherl.spec import TaskSpec, TrainingConfig
from tests.autotune.memory.test_trace_texts import both
from tests.sherl.texts import text_backbone
from tests.sherl.tiny import tiny_batch

VARIANTS: list[dict[str, Any]] = [
    {"name": "full", "activation_checkpointing": True},
    {"name": "lora", "rank": 2},
    {"name": "prompt", "num_prompts": 3},
    {"name": "sherl", "reduction_factor": 4},
    {
        "name": "sherl",
        "insertion": "multi",
        "start_layer": -2,
        "late_route": {"name": "adapter"},
        "reduction_factor": 4,
    },
]
every_variant = pytest.mark.parametrize("method", VARIANTS, ids=lambda method: "-".join(map(str, method.values()))[:24])
some_models = pytest.mark.parametrize("name", ["gpt2", "opt-350m", "qwen2", "gemma2"])


@some_models
@every_variant
def test_text_to_text_is_exact(name: str, method: dict[str, Any]) -> None:
    traced, real = both(name, method)
    assert traced == real


@some_models
@every_variant
def test_language_modelling_is_exact(name: str, method: dict[str, Any]) -> None:
    backbone = text_backbone(name)
    task = TaskSpec(kind="language-modelling", metric="neg_loss")
    training = TrainingConfig(learning_rate=1e-3, batch_size=6, accumulation=2)
    workload = Workload(
        backbone_config=backbone.config.to_dict(), method=method, task=task, training=training, train_shape=(6, 11),
        eval_shape=(5, 13),
    )  # fmt: skip
    model = build_model(backbone, method_from_dict(method), task, seed=0)
    batches = []
    for rows, tokens in ((6, 11), (5, 13)):
        batch = tiny_batch(rows=rows, tokens=tokens)
        batches.append({**batch, "labels": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)})
    real = measure_rehearsal(model, *batches, training, restore="none")
    assert trace(workload).allocated == real.peak_bytes
