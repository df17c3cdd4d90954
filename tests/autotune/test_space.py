"""Search spaces: what a file allows, what is drawn from it, and what is said about a wrong one."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autotune.errors import ConfigError
from autotune.outcome import Candidate
from autotune.space import SearchSpace, Suggest, shape_key
from autotune.space.files import FOLDER, names
from sherl.methods import method_from_dict
from sherl.spec import TrainingConfig

from .conftest import Load


class AnyValue:
    """Takes every value from hypothesis, the ends of ranges included."""

    def __init__(self, data: st.DataObject) -> None:
        self.data = data
        self.seen: dict[str, Any] = {}

    def categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._once(name, st.sampled_from(list(choices)))

    def integer(self, name: str, low: int, high: int, *, log: bool = False, step: int = 1) -> int:
        del log
        return int(self._once(name, st.sampled_from(range(low, high + 1, step))))

    def real(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        del log
        return float(self._once(name, st.floats(low, high)))

    def _once(self, name: str, values: st.SearchStrategy[Any]) -> Any:
        assert name not in self.seen, f"{name} is asked for twice in one draw"
        self.seen[name] = self.data.draw(values, label=name)
        return self.seen[name]


SPACES = {name: SearchSpace.load(name, depth=6, width=384) for name in names()}
WIDE = """
training:
  batch_size: {int: {low: 8, high: 32, step: 8}}
  epochs: {int: {low: 1, high: 3}}
  weight_decay: {float: {low: 0.0, high: 0.1}}
  precision: {choice: [fp32, bf16]}
methods:
  sherl:
    learning_rate: {float: {low: 1e-4, high: 1e-2, log: true}}
    reduction_factor: {int: {low: 1, high: 5, log: true}}
    insertion: {choice: [single, multi]}
    start_layer: {int: {low: -5, high: -1}}
    late_route:
      choice:
        - none
        - bitfit
        - lora: {rank: {int: {low: 1, high: 4}}, alpha: {float: {low: 1, high: 32}}}
        - prompt: {num_prompts: {choice: [1, 10]}}
  full:
    learning_rate: 1e-4
    batch_size: {choice: [1, 2]}
"""


def test_every_search_space_that_comes_with_the_program_is_read() -> None:
    assert {"default", "quick", "sherl_only"} <= set(SPACES) == {file.stem for file in FOLDER.glob("*.yaml")}
    for name, space in SPACES.items():
        assert space.name == name
        assert space.description
        assert space.notes == (), "MiniLM has all the layers"


@pytest.mark.parametrize("name", sorted(SPACES))
@pytest.mark.parametrize(("depth", "width"), [(2, 32), (3, 384), (12, 768), (24, 1024)])
def test_they_serve_backbones_of_any_depth(name: str, depth: int, width: int) -> None:
    space = SearchSpace.load(name, depth=depth, width=width)
    starts = {shape.method["start_layer"] for shape in space.shapes() if shape.method["name"] == "sherl"}
    assert starts
    assert all(-depth < start < 0 for start in starts)


def test_the_default_space_has_the_rivals_and_sherl_first() -> None:
    assert SPACES["default"].methods[0] == "sherl"
    assert set(SPACES["default"].methods) == {"sherl", "lora", "linear_probe", "bitfit", "full"}


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_whatever_is_drawn_is_a_valid_configuration_and_comes_back_from_its_parameters(data: st.DataObject) -> None:
    space = data.draw(st.sampled_from(list(SPACES.values())))
    asked = AnyValue(data)
    candidate = space.draw(asked)
    assert candidate.params == asked.seen, "the record holds what was asked for, under the same names"
    assert set(candidate.params) <= set(space.parameters)
    assert method_from_dict(candidate.method).to_dict() == candidate.method
    TrainingConfig.from_dict(candidate.training)
    assert space.from_params(json.loads(json.dumps(candidate.params))) == candidate


@settings(max_examples=60, deadline=None)
@given(st.integers())
def test_chance_draws_what_is_allowed_and_the_same_for_a_seed(seed: int) -> None:
    for space in SPACES.values():
        candidate = space.random(random.Random(seed))
        assert candidate == space.random(random.Random(seed))
        assert space.from_params(candidate.params) == candidate


def test_ranges_of_every_sort_are_drawn_within_their_ends(load: Load) -> None:
    space = load(WIDE)
    rng = random.Random(0)
    drawn = [space.random(rng) for _ in range(300)]
    assert all(space.from_params(candidate.params) == candidate for candidate in drawn)
    assert {candidate.training["batch_size"] for candidate in drawn} == {1, 2, *range(8, 33, 8)}
    assert {candidate.training["batch_size"] for candidate in drawn if candidate.method["name"] == "full"} == {1, 2}
    assert all(0 <= candidate.training["weight_decay"] <= 0.1 for candidate in drawn)


@pytest.mark.parametrize("name", sorted(SPACES))
def test_shapes_are_distinct_and_hold_every_draw(name: str) -> None:
    space = SPACES[name]
    keys = [shape_key(shape) for shape in space.shapes()]
    assert len(keys) == len(set(keys)) == space.size
    rng = random.Random(1)
    assert {shape_key(space.random(rng)) for _ in range(200)} <= set(keys)


def test_what_costs_no_memory_makes_no_shape(load: Load) -> None:
    space = load(WIDE, methods=["full"])
    assert space.size == 2 * 2, "two batch sizes in two precisions; epochs, decay and learning rate count nothing"
    shape = next(space.shapes())
    same = [space.random(random.Random(seed), like=shape) for seed in range(20)]
    assert {shape_key(candidate) for candidate in same} == {shape_key(shape)}
    assert len({candidate.training["weight_decay"] for candidate in same}) == 20
    assert {candidate.training["epochs"] for candidate in space.of_shape(shape)} == {1, 2, 3}


def test_real_numbers_of_a_method_make_no_shape(load: Load) -> None:
    space = load(WIDE, methods=["sherl"])
    rng = random.Random(0)
    lora = next(
        candidate
        for candidate in iter(lambda: space.random(rng), None)
        if candidate.method["late_route"]["name"] == "lora"
    )
    others = [space.random(random.Random(seed), like=lora) for seed in range(5)]
    assert len({other.method["late_route"]["alpha"] for other in others}) == 5
    assert {shape_key(other) for other in others} == {shape_key(lora)}


def test_a_space_too_large_to_plan_is_refused_with_the_parameters_that_make_it_large(load: Load) -> None:
    text = WIDE.replace("high: 5, log", "high: 384, log").replace(
        "rank: {int: {low: 1, high: 4}}", "rank: {int: {low: 1, high: 16}}"
    )
    with pytest.raises(
        ConfigError, match=r"differ in memory; allowed are 20000.*sherl.reduction_factor \(384\), sherl"
    ):
        load(text)


def test_the_same_thing_under_two_names_is_one_configuration(load: Load) -> None:
    space = load(
        """
        methods:
          sherl:
            learning_rate: 1e-3
            insertion: {choice: [single, multi]}
            start_layer: {choice: [-1, 5, -2, 4, 3]}
            late_route: {choice: [none, {lora: {rank: {choice: [4, 8]}}}, bitfit]}
        """
    )
    # -1 in both insertions is one fusion before the last layer: 1 + 2 + 2 places, none has no rank: 4 late routes
    assert space.size == (1 + 2 + 2) * 4
    assert any("left out 5, 4, the same layer" in note for note in space.notes)
    plain = [candidate for candidate in space.shapes() if candidate.method["late_route"]["name"] == "none"]
    assert all("sherl.late_route.lora.rank" not in candidate.params for candidate in plain)


def test_fields_that_are_left_out_have_sherls_defaults(load: Load) -> None:
    candidate = load("methods: {sherl: {learning_rate: 1e-3}}").random(random.Random(0))
    assert candidate.method == method_from_dict({"name": "sherl"}).to_dict()
    assert candidate.training["batch_size"] == TrainingConfig(learning_rate=1.0).batch_size
    assert "seed" not in candidate.training, "that is a trial's own"
    assert candidate.params == {"method": "sherl"}


def test_one_late_route_with_fields_of_its_own(load: Load) -> None:
    space = load("methods: {sherl: {learning_rate: 1e-3, late_route: {name: lora, rank: {choice: [2, 4]}}}}")
    assert {shape.method["late_route"]["rank"] for shape in space.shapes()} == {2, 4}
    assert {tuple(shape.params) for shape in space.shapes()} == {("method", "sherl.late_route.lora.rank")}


def test_an_empty_late_route_is_none(load: Load) -> None:
    space = load("methods: {sherl: {learning_rate: 1e-3, late_route: null}}")
    assert [shape.method["late_route"] for shape in space.shapes()] == [
        method_from_dict({"name": "sherl"}).to_dict()["late_route"]
    ]


def test_a_method_may_have_training_settings_of_its_own(load: Load) -> None:
    space = load(
        "training: {batch_size: 32, learning_rate: 1e-3}\nmethods: {sherl: {}, full: {batch_size: 8, learning_rate: 1e-5}}"
    )
    settings_of = {shape.method["name"]: shape.training for shape in space.shapes()}
    assert (settings_of["sherl"]["batch_size"], settings_of["sherl"]["learning_rate"]) == (32, 1e-3)
    assert (settings_of["full"]["batch_size"], settings_of["full"]["learning_rate"]) == (8, 1e-5)


def test_methods_are_filtered_in_the_order_of_the_file() -> None:
    space = SearchSpace.load("default", methods=["full", "sherl"], depth=6, width=384)
    assert space.methods == ("sherl", "full")
    assert {shape.method["name"] for shape in space.shapes()} == {"sherl", "full"}
    assert not any(name.startswith("lora.") for name in space.parameters)


def test_a_method_that_the_space_does_not_have_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"'shrel' .*Did you mean 'sherl'\?.* linear_probe"):
        SearchSpace.load("default", methods=["shrel"], depth=6, width=384)


def test_the_precision_that_is_asked_for_takes_the_place_of_the_files(load: Load) -> None:
    text = "training: {precision: {choice: [fp32, bf16]}}\nmethods: {full: {learning_rate: 1e-4}, bitfit: {learning_rate: 1e-3, precision: fp32}}"
    assert {shape.training["precision"] for shape in load(text).shapes()} == {"fp32", "bf16"}
    assert {shape.training["precision"] for shape in load(text, precision="bf16").shapes()} == {"bf16"}


# ---- what a backbone does not have ------------------------------------------------------------------------------


def test_layers_that_a_shallow_backbone_does_not_have_are_left_out_aloud() -> None:
    space = SearchSpace.load("default", depth=3, width=384)
    assert {shape.method["start_layer"] for shape in space.shapes() if "start_layer" in shape.method} == {-1, -2}
    [note] = space.notes
    assert "start_layer" in note
    assert "line" in note
    assert "-3, -4" in note
    assert "3 layers" in note


def test_no_layer_left_is_a_problem_only_for_a_method_that_is_wanted() -> None:
    with pytest.raises(ConfigError, match=r"start_layer \(line \d+\): .*no layer before"):
        SearchSpace.load("default", depth=1, width=384)
    assert SearchSpace.load("default", methods=["full"], depth=1, width=384).methods == ("full",)


def test_reduction_factors_beyond_the_width_are_left_out_and_with_them_a_route_that_has_no_other() -> None:
    space = SearchSpace.load("default", methods=["sherl"], depth=6, width=8)
    assert {shape.method["reduction_factor"] for shape in space.shapes()} == {2, 4, 8}
    assert {shape.method["late_route"]["name"] for shape in space.shapes()} == {"none", "lora", "bitfit", "prompt"}
    assert any("left out adapter" in note for note in space.notes)


# ---- files and parameters ----


def test_names_work_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert SearchSpace.load("quick", depth=6, width=384).name == "quick"


def test_parameters_of_another_space_are_refused() -> None:
    space = SPACES["quick"]
    good = space.random(random.Random(0)).params
    with pytest.raises(ConfigError, match="method is missing"):
        space.from_params({})
    with pytest.raises(ConfigError, match="'lora', this search space allows"):
        space.from_params({**good, "method": "lora"})
    with pytest.raises(ConfigError, match="batch_size"):
        space.from_params({**good, "batch_size": 16})


def test_the_signature_is_of_what_is_allowed(load: Load) -> None:
    text = "methods: {full: {learning_rate: 1e-4}}"
    assert load(text).signature == load(f"description: another\n{text}").signature
    assert load(text).signature != load(text.replace("1e-4", "1e-5")).signature


def test_a_suggest_is_any_object_with_the_three_questions() -> None:
    class First:
        def categorical(self, name: str, choices: Sequence[Any]) -> Any:
            return choices[0]

        def integer(self, name: str, low: int, high: int, *, log: bool = False, step: int = 1) -> int:
            return low

        def real(self, name: str, low: float, high: float, *, log: bool = False) -> float:
            return low

    source: Suggest = First()
    candidate = SPACES["default"].draw(source)
    assert isinstance(candidate, Candidate)
    assert candidate.label == "sherl r=2 single@-1 b16"
