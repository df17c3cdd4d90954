"""What is said about a search space that is wrong, or is not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from autotune.errors import ConfigError
from autotune.space import SearchSpace
from autotune.space.files import find
from autotune.space.parameters import RealRange

from .conftest import Load

MANY_PROBLEMS = """
nmae: many
training:
  batch_size: {choice: [16, 0, sixteen]}
  epochs: -1
  warmup: 0.1
  weight_decay: {float: {low: 0.1, high: 0.0}}
  seed: 3
  precision: fp16
methods:
  sherl:
    learning_rate: {float: {low: 0, high: 1e-3, log: true}}
    reduction_facto: 8
    reduction_factor: {choice: [8, 8, 0]}
    insertion: {choice: [single, triple]}
    start_layer: [-1, -2]
    late_route: {choice: [none, {lroa: {rank: 4}}, {lora: {rank: {choice: []}, rnak: 4}}]}
    gate: {chioce: [preserving]}
  shrel:
    learning_rate: 1e-3
  full: {}
"""


def test_all_problems_of_a_file_are_reported_at_once_with_key_and_line(load: Load, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(MANY_PROBLEMS)
    message = str(caught.value)
    assert str(tmp_path / "space.yaml") in message
    for expected in (
        r"nmae (line 2): unknown key. Did you mean 'name'?",
        r"training.batch_size (line 4): 'sixteen' was given",
        r"training.batch_size (line 4): batch_size must be a whole number of at least 1, 0 was given",
        r"training.epochs (line 5)",
        r"training.warmup (line 6): unknown training setting. Did you mean 'warmup_steps'",
        r"training.weight_decay.float (line 7): low 0.1 is above high 0.0",
        r"training.seed (line 8): unknown training setting; the seed is given on the command line",
        r"training.precision (line 9): precision must be fp32 or bf16, 'fp16' was given",
        r"methods.sherl.learning_rate.float.low (line 12): 0 was given",
        r"methods.sherl.reduction_facto (line 13)",
        r"methods.sherl.reduction_factor.choice[1] (line 14): 8 was given before",
        r"methods.sherl.insertion (line 15): 'triple' was given",
        r"methods.sherl.start_layer (line 16): a list was given; write {choice: [-1, -2]}",
        r"methods.sherl.late_route.choice[2].lora.rank.choice (line 17)",
        r"methods.sherl.gate (line 18)",
        r"Did you mean 'choice'?",
        r"methods.shrel (line 19)",
        r"methods.full (line 21): no learning_rate",
    ):
        assert expected in message
    assert "'sherl'" in next(problem for problem in caught.value.problems if "shrel" in problem)


def test_a_problem_of_a_late_route_names_the_nearest(load: Load) -> None:
    with pytest.raises(ConfigError) as caught:
        load(
            "methods: {sherl: {learning_rate: 1e-3, late_route: {choice: [{lroa: {rank: 4}}, {lora: {rnak: 4}}, {lora: {rank: 2}}]}}}"
        )
    problems = "\n".join(caught.value.problems)
    assert "'lora' was given before" in problems
    with pytest.raises(ConfigError) as caught:
        load(
            "methods: {sherl: {learning_rate: 1e-3, late_route: {choice: [none, {lroa: {rank: 4}}, {lora: {rnak: 4, rank: 0}}]}}}"
        )
    problems = "\n".join(caught.value.problems)
    for words in ("lroa", "lora", "rnak", "rank", "0"):
        assert words in problems
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "a mapping with the key 'methods'"),
        ("- a\n- b", "a mapping with the key 'methods'"),
        ("methods:", "no method is given"),
        ("methods: [sherl]", "allowed is a mapping"),
        ("methods: {full: {learning_rate: 1e-4}", "not readable as YAML"),
        ("a: 1\n---\nb: 2", "not readable as YAML"),
        ("methods: {full: {learning_rate: &x [*x]}}", "holds itself"),
        ("methods: {full: {learning_rate: !!python/object:os.system x}}", "not readable as YAML"),
        ("methods: {full: {learning_rate: .nan}}", "finite"),
        ("methods: {full: {learning_rate: {choice: [.inf, 1]}}}", "finite"),
        ("methods: {full: {learning_rate: fast}}", "'fast' was given; allowed is a number"),
        ("methods: {full: {learning_rate: null}}", "nothing was given; allowed is a number"),
        ("methods: {full: {learning_rate: {choice: {a: 1}}}}", "a list of at least one value"),
        ("methods: {full: {learning_rate: {name: lora}}}", "no parts"),
        ("methods: {full: {learning_rate: {float: 3}}}", "allowed is {low"),
        ("methods: {full: {learning_rate: {float: {low: 1e-4}}}}", "high is missing"),
        ("methods: {full: {learning_rate: {float: {low: 1e-4, high: 1e-3, logs: true}}}}", "Did you mean 'log'"),
        ("methods: {full: {learning_rate: {float: {low: 1e-4, high: 1e-3, log: 3}}}}", "true and false"),
        ("methods: {full: {learning_rate: 1e-4, batch_size: {int: {low: 1, high: 5000}}}}", "allowed are 1000"),
        (
            "methods: {full: {learning_rate: 1e-4, batch_size: {int: {low: 1, high: 64, log: true, step: 2}}}}",
            "no step",
        ),
        ("methods: {full: {learning_rate: 1e-4, batch_size: {int: {low: 1.5, high: 64}}}}", "whole number"),
        ("methods: {full: {learning_rate: 1e-4, batch_size: true}}", "True was given; allowed is a whole number"),
        ("methods: {sherl: {learning_rate: 1e-4, start_layer: first}}", "start_layer"),
        ("methods: {sherl: {learning_rate: 1e-4, start_layer: 0}}", "start_layer"),
        ("methods: {full: {learning_rate: 1e-4}}\ndescription: [x]", "allowed is a text"),
    ],
)
def test_what_is_wrong_is_said(load: Load, text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(text)
    assert words in str(caught.value)


def test_a_key_that_is_given_twice_is_a_problem(load: Load) -> None:
    with pytest.raises(ConfigError, match=r"full\.learning_rate \(line 4\): given before in line 3"):
        load("methods:\n  full:\n    learning_rate: 1e-4\n    learning_rate: 1e-5\n")


def test_numbers_without_a_dot_and_merge_keys_are_read(load: Load) -> None:
    space = load(
        "methods:\n  full: &shared\n    learning_rate: {float: {low: 1e-5, high: 2E-4}}\n  bitfit:\n    <<: *shared\n"
    )
    assert space.parameters["bitfit.learning_rate"] == RealRange(1e-5, 2e-4)


def test_a_file_that_is_no_text_is_said(tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_bytes(b"\xff\xfe\x00m")
    with pytest.raises(ConfigError, match="UTF-8"):
        SearchSpace.load(file, depth=6, width=384)


@pytest.mark.parametrize(
    ("name", "words"), [("defalt", "Did you mean 'default'"), ("no/such.yaml", "no search space file")]
)
def test_a_space_that_is_not_there_is_said_with_those_that_are(name: str, words: str) -> None:
    with pytest.raises(ConfigError, match="default, ") as caught:
        SearchSpace.load(name, depth=6, width=384)
    assert words in str(caught.value)


def test_a_method_of_another_space_is_said_with_that_space(load: Load) -> None:
    file = find("default")
    with pytest.raises(ConfigError) as caught:
        SearchSpace.load(file, methods=["unipt"], depth=6, width=384, called="the search space default")
    said = str(caught.value)
    assert said.startswith("the search space default: 1 problem")
    assert "is not in this space" in said
    assert "'unipt' is had with --space methods" in said
    with pytest.raises(ConfigError) as caught:
        SearchSpace.load(file, methods=["nosuch"], depth=6, width=384)
    assert str(caught.value).startswith(f"{file}: 1 problem")
    assert "is had with" not in str(caught.value)
