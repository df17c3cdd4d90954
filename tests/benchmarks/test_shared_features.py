"""What the benchmark of shared hidden states makes of its figures, and that its rows are kept."""

from __future__ import annotations

import copy
import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).parents[2] / "benchmarks"
sys.path.append(str(SCRIPTS))  # scripts there import one another by their bare names
table = importlib.import_module("shared_table")
records = importlib.import_module("shared_record")

TAKEN = {"date": "2026-11-23", "commit": "abc1234"}


def trial(number: int, *, rate: float = 1e-3, accuracy: tuple[float, ...] = (0.7, 0.75), **more: Any) -> dict[str, Any]:
    row = {
        "number": number,
        "method": {"name": "sherl", "start_layer": -1},
        "training": {"learning_rate": rate, "batch_size": 16},
        "seed": 0,
        "plan": {},
        "label": f"sherl lr={rate:g}",
        "status": "complete",
        "read": False,
        "metric": max(accuracy),
        "epochs": [{"metrics": {"accuracy": one}, "train_loss": 0.5 - one / 10} for one in accuracy],
        "seconds": 20.0,
        "allocated": 200_000_000,
    }
    return {**row, **more}


def record(folder: Path) -> Any:
    return records.SharedRecord(folder / "found.json", taken_under=lambda: TAKEN)


def test_equal_configurations_are_found_whatever_their_numbers() -> None:
    read = [trial(0), trial(1, rate=2e-3), trial(2, rate=3e-3)]
    computed = [trial(0), trial(1, rate=4e-3), trial(2, rate=2e-3)]
    found = table.compare(read, computed)
    assert (found["proposed_alike"], found["shared"], found["agree"]) == (1, 2, 2)
    assert found["disagree"] == []
    assert found["largest_metric_difference"] == found["largest_loss_difference"] == 0


def test_another_plan_is_the_same_configuration_and_another_seed_is_not() -> None:
    assert table.compare([trial(0, plan={"accumulation": 2})], [trial(0)])["shared"] == 1
    assert table.compare([trial(0, seed=1)], [trial(0)])["shared"] == 0


@pytest.mark.parametrize(
    "other",
    [{"accuracy": (0.7, 0.751)}, {"accuracy": (0.71, 0.75)}, {"status": "stopped"}],
    ids=["last", "first", "status"],
)
def test_what_differs_is_named(other: dict[str, Any]) -> None:
    found = table.compare([trial(0)], [trial(0, **other)])
    assert (found["shared"], found["agree"], found["disagree"]) == (1, 0, ["sherl lr=0.001"])
    assert found["same_metric"] == (1 if other.get("accuracy") == (0.71, 0.75) else 0)


@pytest.mark.parametrize(
    ("other", "close"),
    [
        ({}, True),
        ({"accuracy": (0.7, 0.769)}, True),
        ({"accuracy": (0.7, 0.771)}, False),
        ({"accuracy": (0.75,)}, False),
        ({"status": "stopped"}, False),
        ({"status": "diverged", "metric": None}, False),
    ],
)
def test_rounding_is_told_from_what_is_no_rounding(other: dict[str, Any], close: bool) -> None:
    mine, theirs = trial(0), trial(0, **other)
    for one, other_epoch in zip(mine["epochs"], theirs["epochs"], strict=False):
        other_epoch["train_loss"] = one["train_loss"] * 1.049
    assert table.close(mine, theirs) == close
    theirs["epochs"][0]["train_loss"] *= 1.01
    assert not table.close(mine, theirs)


def test_losses_that_differ_are_told_and_metrics_decide() -> None:
    mine, theirs = trial(0), trial(0)
    mine["epochs"] = copy.deepcopy(mine["epochs"])
    mine["epochs"][1]["train_loss"] *= 1 + 1e-6
    found = table.compare([mine], [theirs])
    assert found["agree"] == 1
    assert found["largest_loss_difference"] == pytest.approx(1e-6)


def test_of_trials_that_were_stopped_the_epochs_of_both_are_compared() -> None:
    gap = table.differences(trial(0, accuracy=(0.7,)), trial(0, accuracy=(0.7, 0.9)))
    assert gap == {"epochs": 1, "metric": 0.0, "loss": 0.0}


def test_rows_are_kept_one_by_one_and_read_again(tmp_path: Path) -> None:
    first = record(tmp_path)
    assert first.get("steps", "a") is None
    first.put("steps", "a", {"own": 1.0})
    first.put("steps", "b", {"own": 2.0})
    first.put("steps", "a", {"own": 3.0})
    again = record(tmp_path)
    assert list(again.rows("steps")) == ["b", "a"]
    kept = again.get("steps", "a")
    assert kept["own"] == 3.0
    assert kept["taken"]["commit"] == "abc1234"
    assert json.loads((tmp_path / "found.json").read_text())["conditions"] == TAKEN
    assert [file.name for file in tmp_path.iterdir()] == ["found.json"]


@pytest.mark.parametrize("content", ["", "[]", '{"steps": {}}', '{"study": 3}'])
def test_a_file_of_something_else_is_left_alone(tmp_path: Path, content: str) -> None:
    (tmp_path / "found.json").write_text(content)
    with pytest.raises(SystemExit, match=r"found\.json holds no results of this benchmark.*--json"):
        record(tmp_path)
    assert (tmp_path / "found.json").read_text() == content


def test_tables_say_what_is_over_and_under_what_was_asked(tmp_path: Path) -> None:
    found = record(tmp_path)
    assert table.tables(found) == "There are no results yet."
    step = {"model": "minilm", "whole": 0.2, "reading": 0.13, "own": 0.1, "loss_difference": 2e-7}
    found.put("steps", "minilm, a", {**step, "method": "a"})
    found.put("steps", "minilm, b", {**step, "method": "b", "reading": 0.1301})
    built = {"rows": 2000, "places": 7, "bytes": 500_000_000, "building_seconds": 10.0}
    found.put("building", "minilm", {**built, "forward_seconds": 8.0})
    found.put("building", "mpnet", {**built, "forward_seconds": 7.9})
    lines = table.tables(found).splitlines()
    assert "| minilm | a | 0.2000 | 0.1300 | 0.1000 | 1.30 | 1.5 | 2.0e-07 |" in lines
    assert "| minilm | b | 0.2000 | 0.1301 | 0.1000 | 1.30 (over) | 1.5 | 2.0e-07 |" in lines
    assert "| minilm | 2000 | 7 | 200.0 | 250.0 | 0.80 | 500 | 250 |" in lines
    assert "| mpnet | 2000 | 7 | 200.0 | 253.2 | 0.79 (under) | 500 | 250 |" in lines
    assert lines[-1].startswith("Commit abc1234; ")


def test_the_table_of_studies_tells_whether_outcomes_agree(tmp_path: Path) -> None:
    found = record(tmp_path)
    study = {"seconds": 290.4, "said": ["note: stored: 7 hidden states"]}
    read = [trial(0, read=True, seconds=5.0, allocated=90_000_000), trial(1, rate=2e-3)]
    found.put("study", "auto", {**study, "trials": read})
    assert "of 2 trials were proposed alike" not in table.tables(found)
    found.put("study", "off", {"seconds": 900.0, "said": [], "trials": [trial(0), trial(1, rate=3e-3)]})
    text = table.tables(found)
    assert "| `--features auto` | 2 | 290 | 1 | 5 | 20 | 0.7500 |" in text
    assert "| `--features off` | 2 | 900 | 0 | 0 | 40 | 0.7500 |" in text
    assert "`auto` said: note: stored: 7 hidden states" in text
    assert "1 of 2 trials were proposed alike; of 1 configurations in both, 1 came to the same value" in text
    assert "| sherl lr=0.001 | yes | 5.0 | 20.0 | 0.7500 | 0.7500 | 90 | 200 |" in text


def test_the_table_of_pairs_counts_the_equal_ones(tmp_path: Path) -> None:
    found = record(tmp_path)
    found.put("paired", "0: a", {"equal": True, "read": trial(0, read=True), "computed": trial(0)})
    failed = trial(0, status="diverged", metric=None, allocated=None, accuracy=(0.5,), epochs=[])
    found.put("paired", "1: b", {"equal": False, "read": failed, "computed": trial(0)})
    text = table.tables(found)
    assert "1 of 2 have the same metrics in every epoch" in text
    assert "another instruction set" not in text
    assert "| sherl lr=0.001 | no | 20.0 | 20.0 | diverged | 0.7500 |  | 200 | not run | 0.0e+00 | not run |" in text
    otherwise = trial(0, accuracy=(0.7, 0.76))
    found.put(
        "paired", "0: a", {"equal": True, "read": trial(0, read=True), "computed": trial(0), "otherwise": otherwise}
    )
    text = table.tables(found)
    assert "| 0.7600 | 0.0e+00 | 2.4e-03 |" in text
    assert "with another instruction set: 0 of 1 have the same metrics, losses differ by 2.4e-03 at most" in text


def test_nothing_asked_for_is_an_error_that_says_what_to_ask() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / "shared_features.py")], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "give --study, --paired N, --steps, --building or --table" in done.stderr
