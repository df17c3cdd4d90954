"""Traces of models that were found by structure against their real runs, equal to the byte."""

from __future__ import annotations

from itertools import cycle
from typing import Any

import pytest

from autotune.memory.rehearsal import measure_rehearsal
from autotune.memory.trace import Workload, trace
from sherl.forms import TensorForm, blank_batch, text_form
from sherl.methods import method_from_dict
from sherl.model import build_model
from sherl.spec import TaskSpec, TrainingConfig
from sherl.tasks import task_for
from tests.sherl.found_configs import DECODERS, ENCODER_DECODERS, VISION, config_of, found
from tests.sherl.tiny import CLASSIFICATION

LANGUAGE = TaskSpec(kind="language-modelling", metric="neg_perplexity")
WRITTEN = TaskSpec(kind="text-to-text", metric="exact_match", target_length=3)
TRAINING = TrainingConfig(learning_rate=1e-3, batch_size=6)
SHERL = {"name": "sherl", "reduction_factor": 2}
LORA = {"name": "lora", "rank": 2}


# a method and a task on each, in turn
@pytest.mark.parametrize(("kind", "case"), [*zip(DECODERS, cycle([(SHERL, LANGUAGE), (LORA, WRITTEN)]), strict=False)])
def test_decoders(kind: str, case: tuple[dict[str, Any], TaskSpec]) -> None:
    method, task = case
    forms = [text_form(rows, tokens, task_for(task).labels_form(rows, tokens, 4)) for rows, tokens in ((6, 11), (5, 9))]
    _compare(kind, DECODERS[kind], method, task, forms)


@pytest.mark.parametrize(
    ("kind", "method"), [*zip(VISION, cycle([SHERL, LORA]), strict=False), ("data2vec-vision", SHERL)]
)
def test_vision(kind: str, method: dict[str, Any]) -> None:
    forms = [
        {"pixel_values": TensorForm((rows, 3, 16, 16), "float32"), "labels": TensorForm((rows,))} for rows in (6, 5)
    ]
    _compare(kind, VISION["beit" if kind == "data2vec-vision" else kind], method, CLASSIFICATION, forms)


@pytest.mark.parametrize(("kind", "method"), [*zip(ENCODER_DECODERS, cycle([SHERL, LORA]), strict=False)])
def test_encoder_decoders(kind: str, method: dict[str, Any]) -> None:
    forms = [
        text_form(rows, tokens, task_for(WRITTEN).labels_form(rows, tokens, 4)) for rows, tokens in ((6, 11), (5, 9))
    ]
    _compare(kind, ENCODER_DECODERS[kind], method, WRITTEN, forms)


def _compare(
    kind: str, settings: dict[str, Any], method: dict[str, Any], task: TaskSpec, forms: list[dict[str, TensorForm]]
) -> None:
    traced = trace(
        Workload(
            backbone_config=config_of(kind, settings).to_dict(),
            method=method,
            task=task,
            training=TRAINING,
            train_batch=forms[0],
            eval_batch=forms[1],
        )
    )
    model = build_model(found(kind, settings), method_from_dict(method), task, seed=0)
    batches = [blank_batch(form) for form in forms]
    for batch in batches:
        for name, value in {"attention_mask": 1, "input_ids": 5, "labels": 1}.items():
            if name in batch:
                batch[name].fill_(value)
    real = measure_rehearsal(model, *batches, TRAINING, restore="none")
    assert traced.allocated == real.peak_bytes
    assert traced.parts == {str(part): count for part, count in real.peak_parts.items()}
