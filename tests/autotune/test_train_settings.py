"""What ``autotune train`` makes of settings: the metric and the task that were asked for, kinds of values, seeds, plugins."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from autotune.config import StudyConfig
from autotune.errors import ConfigError
from autotune.study.exporting import settings_of
from autotune.study.train_settings import Changes, TrainSettings
from autotune.study.train_sources import settings_from_file
from sherl.data import DataSpec
from sherl.methods import METHODS
from sherl.spec import TaskSpec
from tests.autotune.small_study import autotune

PLAIN: dict[str, Any] = {
    "method": "lora",
    "training": {"learning_rate": 1e-3, "batch_size": 8},
    "model": "some/model",
    "data": {"train": "rows.csv"},
    "memory_cap": "1GB",
}


def read(folder: Path, changes: Changes | None = None, **others: Any) -> TrainSettings:
    file = folder / "one.json"
    file.write_text(json.dumps({**PLAIN, **others}))
    return settings_from_file(file, None, changes or Changes())


def export_of(folder: Path, task: TaskSpec, data: dict[str, Any] | None = None) -> Path:
    """What settings are read from of an export."""
    folder.mkdir(exist_ok=True)
    settings = {"memory_cap": 10**9, **({} if data is None else {"data": data})}
    candidate = {"method": {"name": "lora"}, "training": {"learning_rate": 1e-3}}
    marker = {"format": "autotune-export", "trial": 3, "seed": 5, "candidate": candidate, "settings": settings}
    (folder / "export.json").write_text(json.dumps(marker))
    manifest = {"task": task.to_dict(), "backbone": {"source": "some/model"}, "max_length": 24}
    (folder / "sherl.json").write_text(json.dumps(manifest))
    return folder


# ---- the metric


def test_the_metric_that_was_asked_for_is_the_one_of_the_data(tmp_path: Path) -> None:
    for settings in (
        read(tmp_path, metric="f1_macro"),
        read(tmp_path, data={"train": "rows.csv", "metric": "f1_macro"}),
        read(tmp_path, Changes(data={"metric": "f1_macro"}), metric="accuracy"),
        read(tmp_path, metric="f1_macro", data={"train": "rows.csv", "metric": "f1_macro"}),
    ):
        assert settings.config.metric == "f1_macro"
        assert DataSpec.from_dict(settings.config.data).metric == "f1_macro"
    assert "metric" not in read(tmp_path).config.data, "the task's own"


def test_two_metrics_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"metric: 'f1_macro' was given, and as data\.metric 'accuracy'"):
        read(tmp_path, metric="f1_macro", data={"train": "rows.csv", "metric": "accuracy"})


# ---- an export's task


def test_an_export_is_trained_again_for_its_task(tmp_path: Path) -> None:
    rows = Changes(data={"train": "rows.csv", "text": "note"})
    tasks: list[tuple[TaskSpec, dict[str, Any]]] = [
        (TaskSpec(kind="classification", metric="f1_macro"), {"task": "classification"}),
        (TaskSpec(kind="regression", metric="r2"), {"task": "regression"}),
        (
            TaskSpec(kind="text-to-text", metric="exact_match", template="sum: {text}", target_length=9),
            {"task": "text-to-text", "template": "sum: {text}", "target_length": 9},
        ),
        (
            TaskSpec(kind="classification", metric="accuracy", image_size=(56, 56)),
            {"task": "image-classification", "image_size": 56},
        ),
        (TaskSpec(kind="classification", metric="accuracy", image_size=(56, 64)), {"task": "image-classification"}),
    ]
    for task, expected in tasks:
        settings = settings_from_file(export_of(tmp_path / "model", task), None, rows)
        asked = {"train": "rows.csv", "text": "note", "whole_train": True, "metric": task.metric}
        assert settings.config.data == {**asked, **expected}
        assert settings.config.metric == task.metric
        assert settings.config.max_length == (None if task.image_size else 24)


def test_an_export_of_pairs_needs_both_columns_and_one_of_a_stream_stays_one(tmp_path: Path) -> None:
    pairs = export_of(tmp_path / "pairs", TaskSpec(kind="classification", metric="accuracy", pair=True))
    rows = {"train": "rows.csv", "text": "a"}
    with pytest.raises(ConfigError, match="pairs of texts, and --text alone was given"):
        settings_from_file(pairs, None, Changes(data=rows))
    assert settings_from_file(pairs, None, Changes(data={**rows, "pair": "b"})).config.data["pair"] == "b"
    stream = export_of(tmp_path / "stream", TaskSpec(kind="language-modelling", metric="neg_loss"))
    marker = json.loads((stream / "export.json").read_text())
    config = StudyConfig(memory_cap="1GB", model="m", data={"train": str(tmp_path / "book.txt"), "unit": "stream"})
    marker["settings"] = settings_of(config, "neg_loss")
    (stream / "export.json").write_text(json.dumps(marker))
    settings = settings_from_file(stream, None, Changes(data={"train": "book.txt"}))
    assert settings.config.data["unit"] == "stream"


def test_what_is_asked_for_goes_before_the_export_s_task(tmp_path: Path) -> None:
    task = TaskSpec(kind="text-to-text", metric="exact_match", template="sum: {text}", target_length=9)
    model = export_of(tmp_path / "model", task)
    longer = settings_from_file(model, None, Changes(data={"train": "rows.csv", "target_length": 30}))
    assert longer.config.data["target_length"] == 30
    other = settings_from_file(model, None, Changes(data={"train": "rows.csv", "task": "regression"}))
    assert other.config.data == {"train": "rows.csv", "task": "regression", "whole_train": True}
    assert other.config.metric is None


def test_an_export_s_named_data_keep_what_they_said(tmp_path: Path) -> None:
    named = DataSpec(train="glue:rte", task="auto", seed=7, name="rte").to_dict()
    model = export_of(tmp_path / "model", TaskSpec(kind="classification", metric="f1"), named)
    data = DataSpec.from_dict(dict(settings_from_file(model, None, Changes()).config.data))
    assert (data.train, data.task, data.metric, data.seed) == ("glue:rte", "classification", "f1", 7)
    unnamed = export_of(tmp_path / "model", TaskSpec(kind="classification", metric="f1"))
    for changes in (Changes(), Changes(data={"text": "note"})):
        with pytest.raises(ConfigError, match="data: missing"):
            settings_from_file(unnamed, None, changes)


def test_the_command_has_the_options_of_a_run_s_task(tmp_path: Path) -> None:
    task = TaskSpec(kind="text-to-text", metric="exact_match", template="sum: {text}")
    model = export_of(tmp_path / "model", task)
    options = {"--train": "rows.csv", "--out": str(tmp_path / "out"), "--template": "no place"}
    done = autotune("train", model, options=options, code=2)
    assert "template 'no place' lacks {text}" in done.stderr
    options = {"--train": "rows.csv", "--out": str(tmp_path / "out"), "--metric": "r2", "--task": "classification"}
    options |= {"--unit": "stream", "--image-size": "8", "--image": "x", "--target-length": "4"}
    done = autotune("train", model, options=options, code=2)
    for words in ("r2", "unit 'stream'", "image_size is a setting", "image is a setting", "target_length is a setting"):
        assert words in done.stderr, words


# ---- kinds of values


@pytest.mark.parametrize(
    ("others", "words"),
    [
        ({"data": "rows.csv"}, ["data: it must hold a mapping of settings, 'rows.csv' was given"]),
        ({"training": [1, 2]}, ["training: it must hold a mapping of settings, [1, 2] was given"]),
        ({"training": {"learning_rate": "fast"}}, ["training.learning_rate: it must be a number, 'fast' was given"]),
        ({"seed": "abc"}, ["seed: it must be a whole number from 0 to 2147483647, 'abc' was given"]),
        ({"seed": 1.5}, ["seed: it must be a whole number from 0 to 2147483647, 1.5 was given"]),
        ({"seed": True}, ["True was given"]),
        ({"seed": -1}, ["-1 was given"]),
        (
            {"data": "rows.csv", "training": [1, 2], "seed": "abc", "memory_cap": None},
            ["data: it must", "training: it must", "seed: it must", "memory_cap: missing"],
        ),
    ],
)
def test_values_of_the_wrong_kind_are_told_of_together(
    others: dict[str, Any], words: list[str], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, **others)
    for word in words:
        assert word in str(caught.value), word
    assert "need a learning_rate" not in str(caught.value)
    assert len(caught.value.problems) == len(words)


def test_a_seed_among_those_of_the_training_counts(tmp_path: Path) -> None:
    seeded = {"learning_rate": 1e-3, "seed": 7}
    settings = read(tmp_path, training=seeded)
    assert settings.seed == 7
    assert settings.candidate.training == {"learning_rate": 1e-3}
    assert read(tmp_path, training=seeded, seed=7).seed == 7
    assert read(tmp_path, Changes(seed=9), training=seeded, seed=3).seed == 9
    with pytest.raises(ConfigError, match=r"seed: 3 was given, and as training\.seed 7"):
        read(tmp_path, training=seeded, seed=3)


# ---- plugins


def test_plugins_are_imported_before_the_method_is_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "late_comer.py").write_text(
        "from dataclasses import dataclass\nfrom typing import ClassVar\nfrom sherl.methods import METHODS\n"
        "from sherl.methods.linear_probe import LinearProbeConfig\n\n"
        '@METHODS.register("late_comer")\n@dataclass(frozen=True, kw_only=True)\n'
        'class LateComer(LinearProbeConfig):\n    name: ClassVar[str] = "late_comer"\n'
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        settings = read(tmp_path, method="late_comer", plugins=["late_comer"])
        assert settings.candidate.method["name"] == "late_comer"
        assert settings.config.plugins == ("late_comer",)
    finally:
        sys.modules.pop("late_comer", None)
        METHODS._entries.pop("late_comer", None)
    with pytest.raises(ConfigError, match="'no_such_plugin' cannot be imported") as caught:
        read(tmp_path, plugins=["no_such_plugin"], training={})
    assert "learning_rate" in str(caught.value), "with the other problems"
