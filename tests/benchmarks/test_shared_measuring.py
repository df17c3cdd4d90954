"""The benchmark of shared hidden states really measures: on a tiny model and toy rows."""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from autotune.space import SearchSpace
from sherl.data import DataSpec
from sherl.spec import TaskSpec
from tests.autotune.small_study import make_inputs

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))  # scripts there import one another by their bare names
stores = importlib.import_module("shared_stores")
models = importlib.import_module("shared_models")
studies = importlib.import_module("shared_studies")
parts = importlib.import_module("tensor_part")

TASK = TaskSpec(kind="classification", metric="accuracy", class_names=("low", "high"))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=20, hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2
    )
    transformers.BertModel(config).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def rows(count: int) -> Any:
    torch.manual_seed(1)
    ids = torch.randint(5, 20, (count + 5, 6))
    part = parts.TensorPart({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, (ids[:, 0] > 12).long())
    part.lengths = np.full(count + 5, 6)
    return models.SomeRows(part, count)


def test_the_first_rows_of_a_part_are_a_part() -> None:
    part = rows(10)
    assert len(part) == len(part.labels) == 10
    assert {len(batch["labels"]) for batch in part.batches(5, seed=0)} == {5}
    with pytest.raises(ValueError, match="0 was given"):
        models.SomeRows(part, 0)


def test_every_method_takes_steps_in_three_ways(model: Path, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    found = dict(stores.measure_steps(model, TASK, rows(20), models.METHODS, steps=2, batch_size=8, scratch=scratch))
    assert found.keys() == models.METHODS.keys()
    for row in found.values():
        assert min(row["whole"], row["reading"], row["own"]) > 0
        assert row["loss_difference"] <= 1e-6
        assert row["steps"] == 2
    assert (found["linear probe"]["places"], found["UniPT"]["places"]) == (1, 4)
    assert not list(scratch.iterdir()), "the store is removed"


def test_steps_on_wrong_hidden_states_are_an_error(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = stores.FeaturePart._read
    monkeypatch.setattr(stores.FeaturePart, "_read", lambda *args, **more: read(*args, **more).neg_())
    probe = {"linear probe": models.METHODS["linear probe"]}
    with pytest.raises(RuntimeError, match="Losses of the first steps with and without the store are apart"):
        list(stores.measure_steps(model, TASK, rows(20), probe, steps=2, batch_size=8, scratch=tmp_path))


def test_building_stores_every_hidden_state(model: Path, tmp_path: Path) -> None:
    row = stores.measure_building(model, rows(20), batch_size=8, repeats=2, scratch=tmp_path)
    assert (row["rows"], row["places"]) == (20, 4)
    assert len(row["all_forward_seconds"]) == len(row["all_building_seconds"]) == 2
    assert row["building_seconds"] == min(row["all_building_seconds"]) > 0
    values = 4 * 20 * 6 * 16 * 4  # places, rows, tokens, width, bytes
    assert values < row["bytes"] < values + 4 * (20 * 16 + 2000)


def test_configurations_are_drawn_of_each_method_in_turn() -> None:
    space = SearchSpace.load("default", methods=studies.PAIRED_METHODS, depth=6, width=384)
    found = studies.drawn(space, 6)
    assert sorted(one.method["name"] for one in found) == ["linear_probe"] * 3 + ["sherl"] * 3
    assert len({json.dumps([one.method, one.training]) for one in found}) == 6
    assert studies.drawn(space, 6) == found


def test_a_linked_cache_has_all_but_what_was_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = tmp_path / "usual"
    for name in ("movies", "features"):
        (usual / name).mkdir(parents=True)
        (usual / name / "file").write_text(name)
    monkeypatch.setenv("AUTOTUNE_CACHE", str(usual))
    linked = studies.linked_cache(tmp_path / "own")
    assert [entry.name for entry in linked.iterdir()] == ["movies"]
    assert (linked / "movies" / "file").read_text() == "movies"
    monkeypatch.setenv("AUTOTUNE_CACHE", str(tmp_path / "missing"))
    assert not list(studies.linked_cache(tmp_path / "other").iterdir())


@pytest.mark.slow
def test_pairs_are_trained_with_and_without(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path)
    data = DataSpec(train=inputs["--train"], text="review", label="stars")
    settings = {
        "threads": 1,
        "data": data,
        "model": inputs["--model"],
        "space_name": inputs["--space"],
        "max_length": 32,
    }
    done = dict(studies.paired(tmp_path, 2, {}, **settings))
    assert sorted(row["method"]["name"] for row in done.values()) == ["linear_probe", "sherl"]
    for row in done.values():
        assert row["equal"]
        assert [row[way]["read"] for way in studies.WAYS] == [True, False, False]
        assert row["otherwise"]["status"] == "complete"
        assert row["read"]["allocated"] < row["computed"]["allocated"]
        assert len(row["read"]["epochs"]) == 2
    assert not dict(studies.paired(tmp_path, 2, done, **settings)), "what is done is not run again"
    assert studies.INSTRUCTIONS not in os.environ
    different = {**row["read"], "epochs": row["read"]["epochs"][:1]}
    assert not studies.same_metrics(different, row["computed"])
