"""What a study asks of a model before any row is read, and what of a space suits each kind of model."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from autotune.cli.app import exit_code
from autotune.errors import ConfigError
from autotune.outcome import Candidate, MemoryFigures
from autotune.space import SearchSpace
from autotune.study.fit_check import FitCheck
from autotune.study.suits import require_model_suits
from sherl.backbones import Backbone, backbone_from_config
from sherl.data import DataSpec
from sherl.errors import SherlError, UnsupportedBackboneError
from sherl.methods import method_from_dict
from sherl.model import build_model
from sherl.spec import TaskSpec
from tests.sherl.texts import WRITTEN
from tests.sherl.tiny import CLASSIFICATION, tiny_backbone, tiny_config

IMAGES = DataSpec(train="photos", task="image-classification")
TEXTS = DataSpec(train="rows.csv")


def shape_of(family: str) -> Backbone:
    with torch.device("meta"):
        return backbone_from_config(tiny_config(family))


def data(task: str) -> DataSpec:
    return DataSpec(train="rows.csv", task=task)  # type: ignore[arg-type]  # names of tasks


@pytest.mark.parametrize(
    ("family", "spec"),
    [
        *((family, TEXTS) for family in ("bert", "llama", "t5", "clip_text_model")),
        *((family, IMAGES) for family in ("dinov2", "swin", "resnet", "mobilenet_v2")),
        *((family, data("text-to-text")) for family in ("llama", "t5")),
        ("gpt2", data("language-modelling")),
        ("bert", data("token-classification")),
        ("bert", DataSpec()),
    ],
)
def test_a_model_that_suits_is_taken(family: str, spec: DataSpec) -> None:
    require_model_suits(shape_of(family), spec)


@pytest.mark.parametrize(
    ("family", "spec", "told"),
    [
        ("bert", IMAGES, "a bert model reads texts. Take a model of images (.*dinov2"),
        ("resnet", TEXTS, "--task image-classification"),
        ("dinov2", data("text-to-text"), "A dinov2 model reads images"),
        ("whisper", data("text-to-text"), "A whisper model reads speech"),
        ("vilt", IMAGES, "an image and a text together"),
    ],
)
def test_rows_of_another_sort_are_refused(family: str, spec: DataSpec, told: str) -> None:
    with pytest.raises(ConfigError, match=told.replace("(", r"\(")):
        require_model_suits(shape_of(family), spec)


@pytest.mark.parametrize(
    ("family", "task", "told"),
    [
        ("bert", "text-to-text", "A bert model writes no text"),
        ("t5", "language-modelling", "does not predict each next token"),
        ("bart", "token-classification", "answers every token of the input"),
    ],
)
def test_a_task_that_a_model_cannot_learn_is_refused_as_a_wrong_setting(family: str, task: str, told: str) -> None:
    with pytest.raises(UnsupportedBackboneError, match=told) as raised:
        require_model_suits(shape_of(family), data(task))
    assert exit_code(raised.value) == 2


def test_a_length_in_tokens_is_not_taken_for_images() -> None:
    with pytest.raises(ConfigError, match="--image-size, in pixels"):
        require_model_suits(shape_of("dinov2"), IMAGES, max_length=64)


# ---- the default space, on a tiny model of each kind

LANGUAGE = TaskSpec(kind="language-modelling", metric="neg_perplexity")
TAGS = TaskSpec(kind="token-classification", metric="token_accuracy", class_names=("O", "B"))


@pytest.mark.parametrize(
    ("family", "task", "unsuited"),
    [
        ("bert", TAGS, set()),
        ("t5", WRITTEN, {"linear_probe", "bitfit"}),
        ("bart", WRITTEN, {"linear_probe"}),
        ("llama", WRITTEN, {"linear_probe", "bitfit"}),
        ("gpt2", LANGUAGE, {"linear_probe"}),
        ("dinov2", CLASSIFICATION, set()),
        ("resnet", CLASSIFICATION, set()),
        ("convnext", CLASSIFICATION, set()),
        ("mobilenet_v2", CLASSIFICATION, set()),
    ],
)
def test_most_of_the_default_space_suits_each_kind_and_the_rest_says_why(
    family: str, task: TaskSpec, unsuited: set[str]
) -> None:
    backbone = tiny_backbone(family)
    space = SearchSpace.load("default", depth=len(backbone.last_stack), width=backbone.width)
    suited: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    reasons: list[str] = []
    for number, shape in enumerate(shape for shape in space.shapes() if shape.training["batch_size"] == 16):
        method = shape.method["name"]
        if method == "sherl" and number % 3:  # a third of its many shapes
            continue
        try:
            build_model(backbone, method_from_dict(shape.method), task, seed=0).tuned.remove()
            suited[method] += 1
        except SherlError as error:
            refused[method] += 1
            reasons.append(str(error))
    assert backbone.method_name is None
    unclear = [
        one for one in reasons if not any(word in one for word in ("late blocks", "width", "nothing would", "BitFit"))
    ]
    assert not unclear
    assert set(space.methods) - set(suited) == unsuited
    assert suited["sherl"] > refused["sherl"]


class _NoPrompts:
    """Takes a kB of everything but prompts, which it refuses as a backbone would."""

    def predict(self, candidate: Candidate) -> MemoryFigures:
        if candidate.method.get("late_route", {}).get("name") == "prompt":
            raise UnsupportedBackboneError("no prompts here")
        return MemoryFigures(allocated=1000, device=1000, meter="prediction")


def test_a_plan_tells_what_does_not_suit_from_what_does_not_fit() -> None:
    space = SearchSpace.load("default", methods=["sherl"], depth=3, width=16)
    prompts = sum(shape.method["late_route"]["name"] == "prompt" for shape in space.shapes())
    roomy = FitCheck(_NoPrompts(), 2000).survey(space, seconds=60, seed=0)  # type: ignore[arg-type]  # learns nothing
    assert (roomy.refused, roomy.unsuited) == (0, prompts)
    assert f"0 do not fit 2.00 kB (1.95 KiB), {prompts} do not suit the model or the task" in roomy.sentence
    tight = FitCheck(_NoPrompts(), 999).survey(space, seconds=60, seed=0)  # type: ignore[arg-type]  # learns nothing
    assert (tight.refused, tight.unsuited) == (space.size - prompts, prompts)
