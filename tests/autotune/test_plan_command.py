"""``autotune plan``: prices from a configuration alone, and the largest batch that fits."""

from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from autotune.errors import ConfigError
from autotune.features.build import row_layouts
from autotune.features.shared import with_features
from autotune.study import pricing
from autotune.study.planning import plan_for
from autotune.study.pricing import Pricer
from autotune.study.stored_forms import StoredForms
from sherl.backbones import backbone_from_config
from sherl.data import Part
from sherl.errors import SherlError, SpecError, UnknownNameError, UnsupportedBackboneError
from sherl.forms import BatchForm, blank_batch, with_rows
from sherl.precision import weights_dtype
from tests.autotune.warm import run_warm
from tests.sherl.tiny import tiny_config

GPU = "RTX 4070"
SPACE = """
training: {batch_size: 8, epochs: 1}
methods:
  sherl: {learning_rate: 1e-3, reduction_factor: {choice: [2, 4]}, insertion: {choice: [single, multi]}, start_layer: -1}
  full: {learning_rate: 1e-4, activation_checkpointing: {choice: [false, true]}}
  linear_probe: {learning_rate: 1e-2}
"""


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    """A configuration without weights, under a name of its own."""
    file = tmp_path / "my-model.json"
    tiny_config("bert").to_json_file(file, use_diff=False)
    return file


@pytest.fixture
def space_file(tmp_path: Path) -> Path:
    file = tmp_path / "space.yaml"
    file.write_text(SPACE)
    return file


def planned(config_file: Path, space_file: Path, **changes: Any) -> Any:
    settings: dict[str, Any] = {
        "memory_cap": "1GB",
        "device": GPU,
        "batch_size": 8,
        "max_length": 16,
        "target_length": None,
        "classes": None,
        "image_size": None,
        "task": None,
        "methods": None,
        "space": str(space_file),
        "precision": None,
    }
    return plan_for(str(config_file), **{**settings, **changes})


# ---- prices -----------------------------------------------------------------------------------------------------


def test_prices_are_exact_at_the_largest_batch(config_file: Path, space_file: Path) -> None:
    plan = planned(config_file, space_file, memory_cap="700MB", batch_size=2, max_length=32)
    pricer = Pricer(plan.job)
    for candidate in plan.candidates:
        price = pricer.price(candidate, largest_batch=True)
        assert price.largest_batch
        assert pricer._device(candidate, price.largest_batch) <= plan.cap
        assert pricer._device(candidate, price.largest_batch + 1) > plan.cap
        assert price.figures is not None
        assert price.figures == pricer.price(candidate, largest_batch=False).figures
        assert 0 <= price.figures.allocated - sum(price.parts.values()) < 2**20, "blocks are whole"
        assert price.figures.allocated <= price.figures.reserved < price.figures.device


def test_every_shape_is_priced_once_at_the_batch_that_was_asked_for(config_file: Path, space_file: Path) -> None:
    plan = planned(config_file, space_file, batch_size=3)
    assert len(plan.candidates) == 2 + 2 + 1  # with one late layer both insertions are one fusion
    assert {candidate.training["batch_size"] for candidate in plan.candidates} == {3}


def test_processes_that_price_import_the_plugins_first(
    config_file: Path, space_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "told_when_imported.py").write_text("import os\nos.environ['IMPORTED_FOR_PRICING'] = 'yes'\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("IMPORTED_FOR_PRICING", "no")
    monkeypatch.setattr(pricing, "_pricer", None)
    monkeypatch.setattr("torch.set_num_threads", lambda _: None)  # this is not the process that it is meant for
    plan = planned(config_file, space_file, plugins=["told_when_imported"])
    pricing._begin(plan.job)
    assert os.environ["IMPORTED_FOR_PRICING"] == "yes"


def test_a_cap_above_the_device_is_lowered_aloud(config_file: Path, space_file: Path) -> None:
    plan = planned(config_file, space_file, memory_cap="90GB")
    assert plan.cap == 12_282 * 2**20
    assert any("more than RTX 4070 has" in note for note in plan.notes)
    assert planned(config_file, space_file, memory_cap=None).cap == plan.cap


def test_what_the_allocator_is_told_is_priced_or_said(
    config_file: Path, space_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reserved(**changes: Any) -> tuple[int | None, tuple[str, ...]]:
        plan = planned(config_file, space_file, methods=["full"], max_length=40, batch_size=400, **changes)
        price = Pricer(plan.job).price(plan.candidates[0], largest_batch=False)
        assert price.figures is not None
        trace = Pricer(plan.job)._predictor.trace(plan.candidates[0])
        assert price.figures.reserved == trace.reserved
        return price.figures.reserved, plan.notes

    plain, notes = reserved()
    assert notes == ()
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    growing, notes = reserved()
    assert growing != plain
    assert notes == ("reserved bytes are those of expandable segments, by PYTORCH_ALLOC_CONF",)
    assert reserved(device="cpu") == (None, ())
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "roundup_power2_divisions:1,large_segment_size_mb:64")
    larger, notes = reserved()
    assert plain is not None
    assert larger is not None
    assert larger > plain
    assert notes == ("reserved bytes are those of large_segment_size_mb, by PYTORCH_CUDA_ALLOC_CONF",)
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "garbage_collection_threshold:0.8")
    same, notes = reserved()
    assert same == plain
    assert "PYTORCH_CUDA_ALLOC_CONF sets garbage_collection_threshold:0.8, which predictions do not model" in notes[0]
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:1")
    with pytest.raises(ConfigError, match="at least 20"):
        reserved()
    assert reserved(device="cpu") == (None, ())


def test_rows_that_the_model_cannot_take_are_refused(config_file: Path, space_file: Path) -> None:
    with pytest.raises(SpecError, match="--max-length 4000 is more than the 40 tokens"):
        planned(config_file, space_file, max_length=4000)


def saved(folder: Path, family: str) -> Path:
    """A configuration that takes 40 tokens, where there is a limit."""
    file = folder / f"{family}.json"
    tiny_config(family).to_json_file(file, use_diff=False)
    return file


@pytest.mark.parametrize(
    ("family", "lengths", "words"),
    [
        ("bart", {"target_length": 41}, "--target-length 41 is more than .* takes: at most 40 tokens"),
        ("gpt2", {"target_length": 100_000}, "--target-length 100000 is more than .* at most 39 tokens behind"),
        ("gpt2", {"max_length": 41}, "--max-length 41 is more than the 40 tokens"),
        (
            "gpt2",
            {"max_length": 30, "target_length": 11},
            r"30 and --target-length 11 .* a --max-length of at most 29",
        ),
    ],
)
def test_targets_that_the_model_cannot_write_are_refused(
    tmp_path: Path, space_file: Path, family: str, lengths: dict[str, int], words: str
) -> None:
    file = saved(tmp_path, family)
    with pytest.raises(SpecError, match=words):
        planned(file, space_file, **{"max_length": None, **lengths})


def test_what_fits_exactly_is_planned_and_the_usual_length_makes_room(tmp_path: Path, space_file: Path) -> None:
    file = saved(tmp_path, "gpt2")
    for length, target, row in ((None, None, 32), (None, 39, 1), (29, 11, 29), (40, None, None)):
        if row is None:  # no room for the usual target
            with pytest.raises(SpecError, match="--max-length of at most 32"):
                planned(file, space_file, max_length=length, target_length=target)
            continue
        made = planned(file, space_file, max_length=length, target_length=target, methods=["linear_probe", "full"])
        assert made.job.row["input_ids"].shape == (1, row)
        price = Pricer(made.job).price(made.candidates[0], largest_batch=False)
        assert price.figures is not None, price.problem
    # no target stands behind the input for these
    assert planned(file, space_file, max_length=40, task="regression").row_size == "40 tokens"
    bart = saved(tmp_path, "bart")
    assert planned(bart, space_file, max_length=40, target_length=40).row_size == "40 tokens"


@pytest.mark.parametrize(
    ("family", "given", "words"),
    [
        ("bert", {"image_size": 64}, "--image-size 64 plays no part: .* reads no pixels"),
        (
            "bert",
            {"target_length": 8},
            "--target-length 8 plays no part: no text is written for the task classification",
        ),
        ("bert", {"task": "regression", "classes": 2}, "--classes 2 plays no part: the task regression has no classes"),
        ("t5", {"target_length": 5000}, "--target-length 5000: .* written and traced one by one"),
        ("resnet", {"max_length": 16}, "--max-length 16 plays no part: .* reads no tokens"),
    ],
)
def test_a_size_that_plays_no_part_is_said(
    tmp_path: Path, space_file: Path, family: str, given: dict[str, Any], words: str
) -> None:
    file = saved(tmp_path, family)
    quiet = {"max_length": None, "methods": ["linear_probe"]}
    (note,) = planned(file, space_file, **{**quiet, **given}).notes
    assert re.search(words, note)
    assert not planned(file, space_file, **quiet).notes
    assert not planned(file, space_file, **{**quiet, "task": given.get("task")}).notes


def test_a_model_that_writes_text_is_priced_with_its_targets(tmp_path: Path, space_file: Path) -> None:
    file = tmp_path / "config.json"
    tiny_config("t5").to_json_file(file, use_diff=False)
    (tmp_path / "full.yaml").write_text("methods: {full: {learning_rate: 1e-4}}\n")

    def allocated(target_length: int) -> int:
        plan = planned(file, tmp_path / "full.yaml", target_length=target_length)
        price = Pricer(plan.job).price(plan.candidates[0], largest_batch=False)
        assert price.figures is not None, price.problem
        return price.figures.allocated

    assert allocated(4) < allocated(32)


# ---- the command ------------------------------------------------------------------------------------------------


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run_warm(["plan", *arguments], cwd=None, environment=dict(os.environ), timeout=300)


def test_the_command_prints_json(config_file: Path, space_file: Path) -> None:
    done = command(
        "--model", str(config_file), "--space", str(space_file), "--device", "12GB", "--memory-cap", "640MB",
        "--batch-size", "8", "--max-length", "16", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    assert made["memory_cap_bytes"] == 640_000_000
    assert len(made["configurations"]) == 5
    for row in made["configurations"]:
        assert row["fits"] == (row["device_bytes"] <= 640_000_000)
        assert (row["largest_batch"] >= 8) == row["fits"]
        assert 0 <= row["allocated_bytes"] - sum(row["parts_bytes"].values()) < 2**20, "blocks are whole"
        assert row["dominant"] in row["parts_bytes"]


def test_the_command_says_what_fits_and_what_is_nearest(config_file: Path, space_file: Path) -> None:
    same = ["--model", str(config_file), "--space", str(space_file), "--device", GPU, "--max-length", "16"]
    fits = command(*same, "--memory-cap", "8GB", "--method", "full")
    assert fits.returncode == 0, fits.stderr
    assert "2 of 2 configurations fit 8.00 GB (7.45 GiB) at batch size 32; 0 do not." in fits.stdout
    assert "full ckpt b32" in fits.stdout
    nothing = command(*same, "--memory-cap", "100MB", "--method", "linear_probe")
    assert nothing.returncode == 0, nothing.stderr
    assert "0 of 1 configurations fit" in nothing.stdout
    assert "The nearest is linear_probe b32, which needs" in nothing.stdout


def test_the_command_refuses_what_it_does_not_know(config_file: Path, tmp_path: Path) -> None:
    wrong = command("--model", str(config_file), "--device", "RTX 4071", "--max-length", "16")
    assert wrong.returncode == 2
    assert "Did you mean" in wrong.stderr
    absent = command("--model", str(tmp_path / "nowhere" / "config.json"))
    assert absent.returncode == 2
    assert "no such folder" in absent.stderr


# ---- other inputs and tasks -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "changes", "words", "labels"),
    [
        ("dinov2", {}, "classification on batches of 8 rows of 8 x 8 pixels", []),
        ("resnet", {"image_size": 32}, "rows of 32 x 32 pixels", []),
        ("llama", {"target_length": 4}, "text-to-text on batches of 8 rows of 16 tokens", [4]),
        ("llama", {"task": "language-modelling"}, "language-modelling on", [16]),
        ("t5", {"task": "regression"}, "regression on", []),
    ],
)
def test_every_kind_can_be_planned(
    tmp_path: Path, space_file: Path, family: str, changes: dict[str, Any], words: str, labels: list[int]
) -> None:
    config = tiny_config(family)
    config.save_pretrained(tmp_path / family)
    plan = planned(tmp_path / family / "config.json", space_file, **changes)
    assert words in plan.headline
    assert plan.to_dict([])["row"]["labels"] == labels
    price = next(iter(plan.prices(largest_batch=False)))
    assert price.figures is not None, price.problem
    assert price.figures.device > price.figures.allocated > 0


def test_an_unknown_task_is_refused_with_the_known_ones(config_file: Path, space_file: Path) -> None:
    with pytest.raises(SherlError, match="classification"):
        planned(config_file, space_file, task="clasification")


def test_a_task_that_the_model_cannot_learn_is_refused_and_images_are_called_as_in_a_study(
    config_file: Path, space_file: Path, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedBackboneError, match="writes no text"):
        planned(config_file, space_file, task="text-to-text")
    images = tmp_path / "images.json"
    images.write_text(json.dumps(tiny_config("resnet").to_dict()))
    made = planned(images, space_file, task="image-classification", image_size=16)
    assert made.job.task.kind == "classification"
    with pytest.raises(UnsupportedBackboneError, match=r"reads images alone, and .* is a bert model"):
        planned(config_file, space_file, task="image-classification")
    with pytest.raises(UnknownNameError):
        planned(config_file, space_file, task="image-classificatio")


def test_start_layers_count_in_the_stack_that_runs_last(tmp_path: Path) -> None:
    """As in a study: of three and three blocks -4 is no block of the decoder, though there are six."""
    config = tmp_path / "t5.json"
    config.write_text(json.dumps(tiny_config("t5").to_dict()))
    space = tmp_path / "layers.yaml"
    space.write_text(
        "name: layers\nmethods:\n  sherl: {learning_rate: 1e-3, reduction_factor: 2, start_layer: {choice: [-1, -4]}}\n"
    )
    made = planned(config, space)
    assert {candidate.method["start_layer"] for candidate in made.candidates} == {-1}
    assert any("left out -4" in note for note in made.notes)


# ---- stored hidden states ---------------------------------------------------------------------------------------


class OneRow(Part):
    """A part of one row of this form."""

    name = "train"

    def __init__(self, row: BatchForm) -> None:
        self._row = row
        self.lengths = np.asarray([row["input_ids"].shape[1] if "input_ids" in row else 1])
        self.labels = np.zeros(1)

    def batch(self, rows: Any) -> dict[str, torch.Tensor]:
        assert list(rows) == [0]
        made = blank_batch(self._row)
        return {**made, "attention_mask": made["attention_mask"] + 1} if "attention_mask" in made else made


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("bert", {}),
        ("bert", {"precision": "bf16"}),
        ("llama", {"task": "language-modelling"}),
        ("t5", {}),
        ("t5", {"task": "regression"}),
        ("dinov2", {}),
        ("resnet", {"image_size": 32}),
    ],
)
def test_batches_are_priced_with_what_a_store_would_give_them(
    tmp_path: Path, space_file: Path, family: str, changes: dict[str, Any]
) -> None:
    """The same forms as a study takes from the layouts of its store, which real hidden states have made."""
    tiny_config(family).save_pretrained(tmp_path / family)
    plan = planned(tmp_path / family / "config.json", space_file, stored=True, **changes)
    stored = StoredForms(plan.job.backbone_config, plan.job.task, plan.job.row)
    train, evaluation = with_rows(plan.job.row, 8), with_rows(plan.job.row, 3)
    dtype = weights_dtype(plan.candidates[0].training.get("precision", "fp32"))
    backbone = backbone_from_config(tiny_config(family), dtype=dtype)
    read = 0
    for candidate in plan.candidates:
        places = stored.reads(candidate)
        layouts = row_layouts(backbone, OneRow(plan.job.row), places) if places else {}
        many = {place: replace(layout, rows=8, lengths=_again(layout.lengths)) for place, layout in layouts.items()}
        expected = with_features(train, many, 8), with_features(evaluation, many, 3)
        assert stored(candidate, train, evaluation) == expected
        read += bool(places)
    assert 0 < read < len(plan.candidates)


def _again(lengths: Any) -> Any:
    return None if lengths is None else np.repeat(lengths, 8)


def test_a_trial_that_would_read_is_priced_without_early_layers(config_file: Path, space_file: Path) -> None:
    by_features = {}
    for stored in (False, True):
        plan = planned(config_file, space_file, stored=stored, batch_size=32)
        assert plan.to_dict([])["features"] == ("on" if stored else "off")
        assert ("read from a store" in plan.headline) == stored
        by_features[stored] = {price.candidate.label: price for price in plan.prices()}
    assert by_features[False].keys() == by_features[True].keys()
    assert {name for name, price in by_features[True].items() if price.reads} == {
        name for name in by_features[True] if not name.startswith("full")
    }
    for name, computed in by_features[False].items():
        reading = by_features[True][name]
        assert computed.figures is not None
        assert reading.figures is not None
        assert not computed.reads
        if reading.reads:
            assert reading.figures.allocated < computed.figures.allocated
            assert reading.parts["weights"] < computed.parts["weights"]
        else:
            assert reading == computed


def test_the_command_prices_stored_hidden_states(config_file: Path, space_file: Path) -> None:
    done = command(
        "--model", str(config_file), "--space", str(space_file), "--device", GPU, "--max-length", "16", "--features", "on"
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "hidden states of frozen layers read from a store" in done.stdout
    assert "3 of the 5 shown read stored hidden states; the others" in " ".join(done.stdout.split())
    wrong = command("--model", str(config_file), "--features", "auto")
    assert wrong.returncode == 2
    assert "auto" in wrong.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--batch-size", "100000000000000000000"], "less than or equal to 2147483647"),
        (["--max-length", "3000000000"], "less than or equal to 2147483647"),
        (["--image-size", "10000000000"], "less than or equal to 2147483647"),
        (["--classes", "1000000000000"], "less than or equal to 1000000"),
        (["--task", ""], "Unknown task ''"),
        (
            ["--task", "image-classification"],
            "takes a model that reads images alone, and all-minilm-l6-v2 is a bert model",
        ),
        (["--plugin", ""], "--plugin was given an empty name"),
        (["--model", "m" * 300], "File name too long. Give a folder"),
        (["--model", "~nobody-here-at-all/x"], "home"),
    ],
)
def test_odd_values_are_told(arguments: list[str], said: str) -> None:
    done = command("--device", GPU, "--method", "linear_probe", "--max-length", "8", "--json", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_tensors_beyond_64_bits_are_no_plan_for_their_configuration(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """T5's table of distances has as many entries as the target has pairs of tokens."""
    tiny_config("t5").to_json_file(tmp_path / "t5.json", use_diff=False)
    made = plan_for(
        str(tmp_path / "t5.json"), memory_cap=None, device=GPU, batch_size=2, max_length=2**31 - 1, target_length=4, classes=2,
        image_size=None, task=None, methods=["full"], space="methods", precision=None,
    )  # fmt: skip
    price = next(made.prices(largest_batch=False))
    assert "larger than 64 bits can say (Storage size calculation overflowed" in price.problem
    assert "Give fewer rows" in price.problem
    assert capfd.readouterr().err == ""
