"""Runs of the benchmark on real models that read stored hidden states, here of a tiny model on toy rows."""

from __future__ import annotations

import importlib
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from sherl.spec import TaskSpec

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))  # scripts there import one another by their bare names
runs = importlib.import_module("real_runs")
stored = importlib.import_module("real_features")
real_data = importlib.import_module("real_data")
settings = importlib.import_module("real_settings")
parts = importlib.import_module("tensor_part")

BACKBONE = settings.RealBackbone("small", "small", "toy", epochs=2, batch_size=8)
RATES = (1e-3, 1e-2, 1e-1)
METHODS: dict[str, dict[str, Any]] = {
    "single": {"name": "sherl", "start_layer": -1},
    "multi": {"name": "sherl", "start_layer": -2, "insertion": "multi", "late_route": {"name": "full"}},
    "unregulated": {"name": "sherl", "regulate": False},
    "ladder": {"name": "ladder", "reduction_factor": 2},
    "unipt": {"name": "unipt"},
}


@pytest.fixture(autouse=True)
def material(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("AUTOTUNE_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=20, hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2
    )
    transformers.BertModel(config).save_pretrained(tmp_path / "model")

    def part(rows: int) -> Any:
        ids = torch.randint(5, 20, (rows, 6))
        made = parts.TensorPart({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, (ids[:, 0] > 12).long())
        made.lengths = np.full(rows, 6)
        return made

    task = TaskSpec(kind="classification", metric="accuracy", class_names=("low", "high"))
    found = tmp_path / "model", real_data.RealData(task, part(48), part(16), part(16))
    for module in (runs, stored):
        monkeypatch.setattr(module, "material", lambda model, data_name: found)
    stored._shared.cache_clear()
    yield found[1]
    stored._shared.cache_clear()


def case(method: dict[str, Any], seed: int = 1, *, features: bool = True) -> Any:
    return settings.Case(BACKBONE, settings.RealMethod("one", method, RATES, features=features), 1e-2, seed)


def test_a_run_from_the_store_is_the_same_experiment() -> None:
    # one after the other on one backbone: each gives it back as it was
    for name, method in METHODS.items():
        live = runs.run_case(case(method, features=False), deadline=math.inf)
        read = stored.run_with_features(case(method), deadline=math.inf)
        assert read["features"] is True, name
        assert read["train_loss"] == pytest.approx(live["train_loss"], rel=1e-6), name
        assert [read[key] for key in ("valid", "test", "trainable", "tensors")] == [
            live[key] for key in ("valid", "test", "trainable", "tensors")
        ], name


def test_hidden_states_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []
    plain = stored.build
    monkeypatch.setattr(stored, "build", lambda *args, **more: (built.append("part"), plain(*args, **more))[1])
    stored.run_with_features(case(METHODS["single"]), deadline=math.inf)
    assert len(built) == 3
    stored._shared.cache_clear()  # as in the next call
    stored.run_with_features(case(METHODS["single"], seed=2), deadline=math.inf)
    assert len(built) == 3


def test_a_damaged_store_is_made_anew(tmp_path: Path) -> None:
    first = stored.run_with_features(case(METHODS["single"]), deadline=math.inf)
    stored._shared.cache_clear()
    files = [file for file in (tmp_path / "cache").rglob("*") if file.is_file() and file.stat().st_size > 4096]
    assert files
    for file in files:
        with file.open("r+b") as stream:
            stream.write(b"\xff" * 64)
    again = stored.run_with_features(case(METHODS["single"]), deadline=math.inf)
    assert again["features"] is True
    assert (again["test"], again["train_loss"]) == (first["test"], first["train_loss"])


def test_a_method_that_trains_in_all_blocks_runs_live_and_says_why() -> None:
    row = stored.run_with_features(case({"name": "lora", "rank": 2}), deadline=math.inf)
    assert row["features"] is False
    assert "trains something in all blocks" in row["live_because"]


def test_runs_with_features_have_keys_of_their_own() -> None:
    assert case(METHODS["single"]).key != case(METHODS["single"], features=False).key
    one = case(METHODS["single"], features=False)
    assert replace(one, method=replace(one.method, seeds=(1,))).key == one.key
