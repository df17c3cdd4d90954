"""One run of the benchmark on real models, here of a tiny one on toy rows."""

from __future__ import annotations

import importlib
import json
import math
import sys
from pathlib import Path

import pytest
import torch
import transformers

from sherl.spec import TaskSpec

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))  # scripts there import one another by their bare names
runs = importlib.import_module("real_runs")
real_data = importlib.import_module("real_data")
settings = importlib.import_module("real_settings")
parts = importlib.import_module("tensor_part")

BACKBONE = settings.RealBackbone("small", "small", "toy", epochs=2, batch_size=8)
SHERL = settings.RealMethod("sherl", {"name": "sherl", "start_layer": -1}, (1e-3, 1e-2, 1e-1))


@pytest.fixture(autouse=True)
def material(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=20, hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2
    )
    transformers.BertModel(config).save_pretrained(tmp_path)

    def part(rows: int) -> object:
        ids = torch.randint(5, 20, (rows, 6))
        return parts.TensorPart({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, (ids[:, 0] > 12).long())

    task = TaskSpec(kind="classification", metric="accuracy", class_names=("low", "high"))
    data = real_data.RealData(task, part(48), part(16), part(16))
    monkeypatch.setattr(runs, "material", lambda model, data_name: (tmp_path, data))


def test_a_run_tells_scores_memory_and_seconds() -> None:
    row = runs.run_case(settings.Case(BACKBONE, SHERL, 1e-2, 0), deadline=math.inf)
    assert row["status"] == "complete"
    assert 0 <= row["valid"] <= 1
    assert "test" not in row, "the test part is not looked at while a learning rate is chosen"
    assert row["tensors"] > 4 * row["trainable"] > 0
    assert row["seconds"] > 0
    json.dumps(row, allow_nan=False)
    scored = runs.run_case(settings.Case(BACKBONE, SHERL, 1e-2, 1), deadline=math.inf)
    assert 0 <= scored["test"] <= 1
    assert scored["tensors"] == row["tensors"]


def test_the_same_seed_gives_the_same_scores() -> None:
    case = settings.Case(BACKBONE, SHERL, 1e-2, 2)
    first, second = (runs.run_case(case, deadline=math.inf) for _ in range(2))
    assert [first[name] for name in ("valid", "test", "train_loss")] == [
        second[name] for name in ("valid", "test", "train_loss")
    ]


def test_a_run_that_passes_the_deadline_counts_for_nothing() -> None:
    with pytest.raises(runs.OutOfTime):
        runs.run_case(settings.Case(BACKBONE, SHERL, 1e-2, 0), deadline=-math.inf)


def test_fifty_steps_tell_whether_the_loss_falls() -> None:
    full = settings.RealMethod("full", {"name": "full"}, (1e-3, 5e-3, 1e-2))
    row = runs.run_steps(settings.Case(BACKBONE, full, 5e-3, 0, steps=50))
    assert row["falls"]
    assert row["last_loss"] < row["first_loss"]
    assert row["tensors"] > 4 * row["trainable"]
