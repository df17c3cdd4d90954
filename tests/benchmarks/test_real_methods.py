"""The driver of the benchmark on real models: what runs next, what a killed call leaves, what the tables say."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sherl.errors import SpecError

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))  # scripts there import one another by their bare names
driver = importlib.import_module("real_methods")
records = importlib.import_module("real_record")
settings = importlib.import_module("real_settings")
tables = importlib.import_module("real_table")

BACKBONE = settings.RealBackbone("small", "a small model", "a few rows")
METHOD = settings.RealMethod("full", {"name": "full"}, (1e-4, 1e-3, 1e-2))
OTHER = settings.RealMethod("lora", {"name": "lora"}, (1e-4, 1e-3, 1e-2))
VALID = {1e-4: 0.6, 1e-3: 0.9, 1e-2: 0.7}
TEST = {1: 0.80, 2: 0.82, 3: 0.87}
CONDITIONS = {
    "processor": "a processor",
    "cores": 2,
    "python": "3.11",
    "commit": "abc",
    "versions": {"torch": "2", "transformers": "5", "peft": "0"},
}


def stand_in(case: Any) -> dict[str, Any]:
    row = {
        "status": "complete",
        "valid": VALID[case.learning_rate],
        "trainable": 1234,
        "tensors": 56_000_000,
        "seconds": 7.0,
        "step_seconds": 0.25,
        "conditions": CONDITIONS,
    }
    return {**row, "test": TEST[case.seed]} if case.seed else row


def go(file: Path, run: Callable[[Any], dict[str, Any]], *methods: Any, deadline: float = 1.0) -> tuple[Any, bool]:
    record = records.RealRecord(file)
    cases = driver.left_to_do(record, [(BACKBONE, method) for method in methods or (METHOD,)])
    return record, driver.work(record, cases, run, deadline=deadline, now=lambda: 0.0)


def test_three_rates_are_tried_on_one_seed_and_the_best_runs_on_three_others(tmp_path: Path) -> None:
    seen = []

    def run(case: Any) -> dict[str, Any]:
        seen.append((case.learning_rate, case.seed))
        return stand_in(case)

    _, finished = go(tmp_path / "results.jsonl", run)
    assert finished
    assert seen == [(1e-4, 0), (1e-3, 0), (1e-2, 0), (1e-3, 1), (1e-3, 2), (1e-3, 3)]


def test_a_killed_call_loses_one_run_and_no_more(tmp_path: Path) -> None:
    file, seen = tmp_path / "results.jsonl", []

    def run(case: Any) -> dict[str, Any]:
        seen.append((case.learning_rate, case.seed))
        if len(seen) == 3:
            raise KeyboardInterrupt
        return stand_in(case)

    with pytest.raises(KeyboardInterrupt):
        go(file, run)
    file.write_bytes(file.read_bytes()[:-20])  # the second line is cut off
    record, finished = go(file, run)
    assert finished
    assert record.unreadable == 1
    assert seen[3:] == [(1e-3, 0), (1e-2, 0), (1e-3, 1), (1e-3, 2), (1e-3, 3)]
    again, _ = go(file, lambda case: pytest.fail(f"{case.key} ran again"))
    assert len(again.rows) == 6


def test_other_settings_are_another_experiment(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    go(file, stand_in)
    wider = settings.RealMethod("full", {"name": "full", "activation_checkpointing": True}, METHOD.learning_rates)
    assert records.RealRecord(file).next_case(BACKBONE, METHOD) is None
    assert records.RealRecord(file).next_case(BACKBONE, wider) is not None


def test_no_run_is_begun_that_would_end_too_late(tmp_path: Path) -> None:
    record, time = records.RealRecord(tmp_path / "results.jsonl"), [0.0]

    def run(case: Any) -> dict[str, Any]:
        time[0] += 40.0
        return stand_in(case)

    cases = driver.left_to_do(record, [(BACKBONE, METHOD)])
    assert not driver.work(record, cases, run, deadline=100.0, now=lambda: time[0])
    assert len(record.rows) == 2


def test_what_is_refused_is_told_and_the_rest_goes_on(tmp_path: Path) -> None:
    def run(case: Any) -> dict[str, Any]:
        if case.method is METHOD:
            raise SpecError("Full fine-tuning does not fit\nhere.")
        return stand_in(case)

    file = tmp_path / "results.jsonl"
    record, finished = go(file, run, METHOD, OTHER)
    assert finished
    shown = tables.tables(record, [BACKBONE], [METHOD, OTHER])
    assert "| full | | refused: Full fine-tuning does not fit here. |" in shown
    assert "| lora | 1,234 | 0.001 |" in shown
    assert records.RealRecord(file).next_case(BACKBONE, METHOD) is not None, "a later version may take it"


def test_the_table_has_mean_deviation_memory_and_conditions(tmp_path: Path) -> None:
    record, _ = go(tmp_path / "results.jsonl", stand_in)
    shown = tables.tables(record, [BACKBONE], [METHOD])
    assert "| full | 1,234 | 0.001 | 90.0 | 83.00 ± 3.61 | 56 | ~7 |" in shown
    busy, _ = go(tmp_path / "busy.jsonl", lambda case: {**stand_in(case), "processor_seconds": 4.2 + case.seed})
    assert "| 83.00 ± 3.61 | 56 | 6 |" in tables.tables(busy, [BACKBONE], [METHOD])
    assert "a processor, 2 cores, Python 3.11, torch 2, transformers 5, peft 0, commit abc" in shown


def test_the_table_tells_what_is_missing_diverged_and_at_the_edge(tmp_path: Path) -> None:
    def diverges(case: Any) -> dict[str, Any]:
        if case.method is OTHER:
            return {"status": "diverged", "reason": "the loss is nan", "conditions": CONDITIONS}
        if case.seed == 2:
            return {"status": "diverged", "reason": "the loss is nan", "conditions": CONDITIONS}
        return {**stand_in(case), "valid": -case.learning_rate}

    record, finished = go(tmp_path / "results.jsonl", diverges, METHOD, OTHER)
    assert finished
    shown = tables.tables(record, [BACKBONE], [METHOD, OTHER])
    assert "| 0.0001 * |" in shown
    assert "83.50 ± 4.95 (2 of 3 seeds, 1 diverged)" in shown
    assert "| lora | | every run diverged |" in shown
    half = records.RealRecord(tmp_path / "half.jsonl")
    half.add(settings.Case(BACKBONE, METHOD, 1e-4, 0), stand_in(settings.Case(BACKBONE, METHOD, 1e-4, 0)))
    assert "| full | | 1 of 3 tried |" in tables.tables(half, [BACKBONE], [METHOD])


def test_fifty_steps_have_a_table_of_their_own(tmp_path: Path) -> None:
    record = records.RealRecord(tmp_path / "results.jsonl")
    cases = driver.fifty_cases([(BACKBONE, METHOD), (BACKBONE, OTHER)])
    assert [(case.steps, case.learning_rate, case.seed) for case in cases] == [(50, 1e-3, 0)] * 2
    for case, last in zip(cases, (0.5, 2.5), strict=True):
        row = {**stand_in(case), "first_loss": 2.0, "last_loss": last, "falls": last < 2.0}
        record.add(case, row)
    shown = tables.steps_table(record, cases)
    assert "| full | 1,234 | 32 | 56 | 0.25 | 2.000 | 0.500 | yes |" in shown
    assert "| lora | 1,234 | 32 | 56 | 0.25 | 2.000 | 2.500 | NO |" in shown
    assert record.next_case(BACKBONE, METHOD).steps is None, "fifty steps are no run of the comparison"


def test_every_line_is_json_that_any_reader_takes(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    go(file, stand_in)
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert {(row["backbone"], row["method"], row["seed"]) for row in rows} == {
        ("small", "full", n) for n in (0, 1, 2, 3)
    }


def test_only_takes_a_backbone_a_method_or_both() -> None:
    pairs = driver.pairs_of(variants=False, figures=False)
    known = driver.chosen_pairs(pairs, [])
    assert len(known) == 4 * 7
    assert [one.name for one, _ in driver.chosen_pairs(pairs, ["dinov2"])] == ["dinov2"] * 7
    (pair,) = driver.chosen_pairs(pairs, ["dinov2/sherl"])
    assert (pair[0].name, pair[1].name) == ("dinov2", "sherl")
    with pytest.raises(SystemExit, match=r"--only dinov3: there is no such pair.*dinov2"):
        driver.chosen_pairs(pairs, ["dinov3"])


def test_the_comparison_is_fair_and_can_be_made() -> None:
    from sherl.methods import method_from_dict

    assert {len(method.learning_rates) for method in (*settings.METHODS, *settings.VARIANTS)} == {3}
    named = {method.method["name"] for method in settings.METHODS}
    assert named == {"sherl", "unipt", "ladder", "lora", "adapter", "full", "linear_probe"}
    for method in (*settings.METHODS, *settings.VARIANTS):
        assert method_from_dict(dict(method.method)).name == method.method["name"]
    sides = [method.name.startswith("sherl") for method in settings.VARIANTS]
    assert sides.count(True) == sides.count(False), "rivals get the same extra tuning"
    assert len({method.name for method in (*settings.METHODS, *settings.VARIANTS)}) == 21


def test_every_figure_can_be_made_and_equal_settings_run_once() -> None:
    from sherl.methods import method_from_dict

    figures = importlib.import_module("real_figures")
    methods = (*settings.METHODS, *settings.VARIANTS, *figures.FIGURE_METHODS)
    assert len({(method.name, json.dumps(method.method), method.features) for method in methods}) == len(
        {(method.name) for method in methods}
    )
    made = [(str(method_from_dict(dict(method.method))), method.features) for method in figures.FIGURE_METHODS]
    assert len(set(made)) == len(made)
    standard = [n for n, bars in figures.FIGURES.items() for bar in bars if bar.method == figures.STANDARD]
    assert set(standard) == {4, 5, 6, 7}, "each has the paper's standard setting in it"
    assert list(figures.FIGURES) == [5, 6, 4, 7]


def test_with_variants_and_figures_minilm_comes_first_and_each_pair_once() -> None:
    pairs = [(one.name, other.name) for one, other in driver.pairs_of(variants=True, figures=True)]
    assert len(set(pairs)) == len(pairs)
    assert [name for _, name in pairs[: len(settings.VARIANTS)]] == [method.name for method in settings.VARIANTS]
    others = [backbone for backbone, _ in pairs if backbone != "minilm"]
    assert [backbone for backbone, _ in pairs[-len(others) :]] == others
    assert ("minilm", "sherl-standard") in pairs
    assert ("dinov2", "full") not in pairs


def test_a_method_that_takes_over_a_rate_waits_for_it_and_runs_its_own_seeds(tmp_path: Path) -> None:
    follower = settings.RealMethod("full-2", {"name": "full", "activation_checkpointing": True}, METHOD.learning_rates)
    follower = replace(follower, rate_of=METHOD, seeds=(1, 2))
    seen = []

    def run(case: Any) -> dict[str, Any]:
        seen.append((case.method.name, case.learning_rate, case.seed))
        return stand_in(case)

    file = tmp_path / "results.jsonl"
    go(file, run, follower)
    assert seen == []
    record, _ = go(file, run, METHOD, follower)
    assert seen[6:] == [("full-2", 1e-3, 1), ("full-2", 1e-3, 2)]
    assert "| full-2 | 1,234 | 0.001 (of full) | | 81.00 ± 1.41 | 56 | ~7 |" in tables.tables(
        record, [BACKBONE], [follower]
    )
