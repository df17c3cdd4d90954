"""Traces of decoders against their real runs: language modelling, written text and classes, equal to the byte."""

from __future__ import annotations

from typing import Any

import pytest

from autotune.memory.gpu import GpuKind
from autotune.memory.rehearsal import measure_rehearsal
from autotune.memory.trace import Workload, trace
from sherl.backbones import FAMILIES
from sherl.forms import blank_batch, text_form
from sherl.methods import method_from_dict
from sherl.model import build_model
from sherl.precision import weights_dtype
from sherl.spec import TaskSpec, TrainingConfig
from sherl.tasks import task_for
from tests.sherl.tiny import CLASSIFICATION, tiny_backbone, tiny_config

DECODERS = [name for name in FAMILIES.names() if FAMILIES.get(name).kind == "decoder"]
LANGUAGE = TaskSpec(kind="language-modelling", metric="neg_perplexity")
WRITTEN = TaskSpec(kind="text-to-text", metric="exact_match", target_length=3)
TRAINING = TrainingConfig(learning_rate=1e-3, batch_size=6)
SHERL = {"name": "sherl", "reduction_factor": 2}

# each family with the two methods that differ most, each task and precision on one
CASES: list[tuple[str, dict[str, Any], TaskSpec, TrainingConfig]] = [
    *((family, SHERL, LANGUAGE, TRAINING) for family in DECODERS),
    *((family, {"name": "lora", "rank": 2}, WRITTEN, TRAINING) for family in DECODERS),
    ("llama", SHERL, CLASSIFICATION, TRAINING),
    ("qwen3", {"name": "full", "activation_checkpointing": True}, LANGUAGE, TRAINING),
    ("gpt2", {"name": "prompt", "num_prompts": 3}, WRITTEN, TRAINING),
    ("opt", {"name": "prompt", "num_prompts": 3}, LANGUAGE, TRAINING),
    (
        "qwen2",
        {**SHERL, "insertion": "multi", "start_layer": -2, "late_route": {"name": "adapter", "reduction_factor": 4}},
        WRITTEN,
        TRAINING,
    ),
    ("llama", SHERL, WRITTEN, TrainingConfig(learning_rate=1e-3, batch_size=6, precision="bf16")),
    ("gemma2", {"name": "full"}, LANGUAGE, TrainingConfig(learning_rate=1e-3, batch_size=6, accumulation=2)),
]


def _name(value: object) -> str | None:
    if isinstance(value, dict):
        return str(value["name"])
    return value.kind if isinstance(value, TaskSpec) else None


@pytest.mark.parametrize(("family", "method", "task", "training"), CASES, ids=_name)
def test_a_trace_is_the_real_run(family: str, method: dict[str, Any], task: TaskSpec, training: TrainingConfig) -> None:
    forms = [text_form(rows, tokens, task_for(task).labels_form(rows, tokens, 4)) for rows, tokens in ((6, 11), (5, 9))]
    workload = Workload(
        backbone_config=tiny_config(family).to_dict(), method=method, task=task, training=training,
        train_batch=forms[0], eval_batch=forms[1],
    )  # fmt: skip
    traced = trace(workload)
    backbone = tiny_backbone(family, dtype=weights_dtype(training.precision))
    model = build_model(backbone, method_from_dict(method), task, seed=0)
    batches = [blank_batch(form) for form in forms]
    for batch in batches:
        batch["attention_mask"].fill_(1)
        batch["input_ids"].fill_(5)
        batch["labels"].fill_(1)
    real = measure_rehearsal(model, *batches, training, restore="none")
    assert traced.allocated == real.peak_bytes
    assert traced.parts == {str(part): count for part, count in real.peak_parts.items()}
    priced = trace(workload, GpuKind(capability=(9, 0)))
    assert priced.reserved is not None
    assert priced.reserved >= priced.allocated > 0
