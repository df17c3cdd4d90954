"""The settings of a study."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from autotune.config import StudyConfig
from autotune.errors import ConfigError


def config(**changes: object) -> StudyConfig:
    return StudyConfig(**{"memory_cap": "8GB", "model": "all-minilm-l6-v2", **changes})


def test_sizes_and_durations_are_read_as_people_write_them() -> None:
    made = config(memory_cap="8GiB", time_budget="20m")
    assert made.memory_cap == 8 * 2**30
    assert made.time_budget == 1200
    assert config(memory_cap=512).memory_cap == 512


def test_defaults_are_those_of_the_main_job() -> None:
    made = config()
    assert (made.trials, made.space, made.methods, made.time_budget, made.seed) == (16, "default", None, None, 0)
    assert made.confirm == 3


def test_settings_of_a_version_that_confirmed_nothing_are_read(tmp_path: Path) -> None:
    plain = config().to_dict()
    del plain["confirm"]
    (tmp_path / "study.json").write_text(json.dumps(plain))
    assert StudyConfig.load(tmp_path).confirm == 3
    with pytest.raises(ConfigError, match=r"confirm: -1 was given.*greater than or equal to 0"):
        config(confirm=-1)


def test_one_method_is_a_list_of_one_and_none_is_named_twice() -> None:
    assert config(methods="sherl").methods == ("sherl",)
    assert config(methods=["sherl", "full", "sherl"]).methods == ("sherl", "full")


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        config().seed = 3  # type: ignore[misc]  # that it cannot be set is what is tested


def test_all_problems_are_named_at_once_with_what_was_given() -> None:
    with pytest.raises(ConfigError) as caught:
        StudyConfig(
            memory_cap="8XB",
            modle="x",
            methods=[],
            trials=0,
            precision="fp16",
            time_budget="abc",
            seed=True,
            max_length=2.5,
        )
    problems = {problem.split(":", 1)[0]: problem for problem in caught.value.problems}
    assert set(problems) == {
        "memory_cap",
        "model",
        "modle",
        "methods",
        "trials",
        "precision",
        "time_budget",
        "seed",
        "max_length",
    }
    assert "'8XB'" in problems["memory_cap"]
    assert "GiB" in problems["memory_cap"]
    assert "missing" in problems["model"]
    assert "did you mean model" in problems["modle"]
    assert "0 was given" in problems["trials"]
    assert "'fp32' or 'bf16'" in problems["precision"]
    assert "9 problems" in str(caught.value)


@pytest.mark.parametrize("cap", [0, -1, "0GB", True, 1.5, None, float("nan"), [8]])
def test_a_cap_is_a_size_above_zero(cap: object) -> None:
    with pytest.raises(ConfigError, match="memory_cap"):
        config(memory_cap=cap)


@pytest.mark.parametrize("data", [{"train": {1}}, {"train": float("nan")}, [1], "reviews.csv"])
def test_data_settings_are_plain(data: object) -> None:
    with pytest.raises(ConfigError, match="data"):
        config(data=data)


def test_settings_survive_a_file(tmp_path: Path) -> None:
    made = config(
        methods=["sherl"],
        data={"train": "Rezensionen – ü.csv", "pair": None},
        time_budget="1h",
        study_dir=tmp_path / "ä b",
    )
    file = made.save(tmp_path)
    assert StudyConfig.load(file) == StudyConfig.load(tmp_path) == made
    assert StudyConfig.parse(made.to_dict()) == made
    assert [path.name for path in tmp_path.iterdir()] == ["study.json"], "nothing is left beside the file"


def test_a_file_of_settings_names_itself_in_its_problems(tmp_path: Path) -> None:
    file = tmp_path / "study.json"
    file.write_text(json.dumps({"memory_cap": "8GB", "trails": 3}))
    with pytest.raises(ConfigError) as caught:
        StudyConfig.load(file)
    assert str(file) in str(caught.value)
    assert len(caught.value.problems) == 2
    assert any("did you mean trials" in problem for problem in caught.value.problems)


@pytest.mark.parametrize("text", ["", "{", "[]", "3"])
def test_what_is_no_file_of_settings_is_said(tmp_path: Path, text: str) -> None:
    file = tmp_path / "study.json"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"study\.json"):
        StudyConfig.load(file)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"study\.json cannot be read"):
        StudyConfig.load(tmp_path)


def test_changes_are_validated_like_the_rest() -> None:
    assert config().with_changes(trials=3).trials == 3
    with pytest.raises(ConfigError, match="trials"):
        config().with_changes(trials="three")
