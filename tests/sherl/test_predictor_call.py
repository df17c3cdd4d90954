"""A predictor called as transformers' pipelines are; answers alone and in company; where it answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sherl
from sherl.backbones import load_backbone
from sherl.checkpoint import save_checkpoint
from sherl.errors import DataError, SpecError
from sherl.methods import method_from_dict
from sherl.model import build_model
from sherl.predictor import Predictor
from sherl.spec import TaskSpec
from tests.autotune.small_study import make_model
from tests.sherl.image_samples import picture
from tests.sherl.text_to_text_samples import text_tokenizer
from tests.sherl.texts import stirred
from tests.sherl.tiny import tiny_backbone

THREE = ("no", "yes", "maybe")
IMAGE = {"image_size": (32, 32), "image_mean": (0.5, 0.4, 0.3), "image_std": (0.1, 0.2, 0.3)}
TASKS = {
    "classification": ("bert", TaskSpec(kind="classification", metric="accuracy", class_names=THREE)),
    "pairs": ("bert", TaskSpec(kind="classification", metric="accuracy", class_names=THREE, pair=True)),
    "causal": ("gpt2", TaskSpec(kind="classification", metric="accuracy", class_names=THREE)),
    "regression": ("bert", TaskSpec(kind="regression", metric="pearson", target_mean=3.0, target_std=2.0)),
    "tags": ("bert", TaskSpec(kind="token-classification", metric="token_f1", class_names=("B-a", "I-a", "O"))),
    "texts": ("t5", TaskSpec(kind="text-to-text", metric="exact_match", target_length=4)),
    "language": ("llama", TaskSpec(kind="language-modelling", metric="neg_perplexity")),
    "images": ("vit", TaskSpec(kind="classification", metric="accuracy", class_names=THREE, **IMAGE)),
}
TEXTS = [
    "good film",
    "the very bad plot \U0001f600",
    "a",
    "film " * 60,
    "\u0644\u0627 \ud83d e\u0301 good",
    "bad \x00 actor",
]


def predictor_of(kind: str) -> Predictor:
    family, task = TASKS[kind]
    model = stirred(build_model(tiny_backbone(family), method_from_dict("full"), task, seed=0)).eval()
    tokenizer = None if kind == "images" else text_tokenizer("decoder" if family in ("gpt2", "llama") else "t5")
    return Predictor(model, tokenizer, max_length=None if kind == "images" else 12)


def inputs_of(kind: str) -> list[Any]:
    if kind == "images":
        return [picture(index) for index in range(5)]
    return [(text, "film") for text in TEXTS] if kind == "pairs" else TEXTS


def numbers_and_words(answer: Any) -> tuple[list[float], list[Any]]:
    """The floats of an answer and all else, in order."""
    if isinstance(answer, float):
        return [answer], []
    parts = answer.values() if isinstance(answer, dict) else answer if isinstance(answer, list) else None
    if parts is None:
        return [], [answer]
    pairs = [numbers_and_words(part) for part in parts]
    return [one for floats, _ in pairs for one in floats], [one for _, words in pairs for one in words]


@pytest.mark.parametrize("kind", TASKS)
def test_batches_and_single_rows_are_answered_alike(kind: str) -> None:
    predictor, inputs = predictor_of(kind), inputs_of(kind)
    alone = [predictor.predict(one) for one in inputs]
    floats, words = numbers_and_words(alone)
    for batch_size in (2, 32):
        together = numbers_and_words(predictor.predict(inputs, batch_size))
        assert together[1] == words
        assert together[0] == pytest.approx(floats, abs=1e-5, rel=1e-5)
    assert floats or words
    called = predictor(inputs)
    assert len(called) == len(inputs)
    first = called[0] if isinstance(called[0], list) else [called[0]]
    assert numbers_and_words(predictor(inputs[0]))[1] == numbers_and_words(first)[1]
    assert predictor.predict([]) == predictor([]) == []


def test_a_call_answers_as_a_pipeline_does() -> None:
    predictor = predictor_of("classification")
    answer = predictor.predict("good film")
    best = {"label": answer["label"], "score": answer["scores"][answer["label"]]}
    assert predictor("good film") == [best]
    assert predictor(["good film", "bad"])[0] == pytest.approx(best)
    every = predictor("good film", top_k=None)
    assert [row["label"] for row in every] == sorted(answer["scores"], key=lambda name: -answer["scores"][name])
    assert predictor("good film", top_k=2) == every[:2]
    assert [len(rows) for rows in predictor(["good film", "bad"], top_k=2)] == [2, 2]
    assert sum(row["score"] for row in every) == pytest.approx(1)
    for wrong in (0, -1, True, "all"):
        with pytest.raises(DataError, match="top_k must be a whole number"):
            predictor("good film", top_k=wrong)  # type: ignore[arg-type]  # what a person may give


@pytest.mark.parametrize(
    ("kind", "keys"),
    [("regression", {"label", "score"}), ("texts", {"generated_text"}), ("language", {"nll", "perplexity", "tokens"})],
)
def test_other_tasks_have_their_own_form(kind: str, keys: set[str]) -> None:
    predictor = predictor_of(kind)
    (alone,) = predictor("good film")
    assert set(alone) == keys
    with pytest.raises(DataError, match="has none: leave it out"):
        predictor("good film", top_k=2)


def test_tags_come_word_by_word_and_images_five_at_most() -> None:
    rows = predictor_of("tags")(["good film", ["a"]])
    assert [[row["word"] for row in words] for words in rows] == [["good", "film"], ["a"]]
    assert all(set(row) == {"entity", "word", "index"} for words in rows for row in words)
    predictor = predictor_of("images")
    assert len(predictor(picture(0))) == 3  # as many as there are classes
    assert [len(row) for row in predictor(np.stack([picture(0), picture(1)]))] == [3, 3]


def test_where_it_answers_is_said_or_refused(tmp_path: Path) -> None:
    source = str(make_model(tmp_path / "model"))
    model = build_model(load_backbone(source), method_from_dict("linear_probe"), TASKS["classification"][1], seed=0)
    folder = save_checkpoint(model, tmp_path / "kept", max_length=12)
    assert next(sherl.load(folder, device="cpu").model.parameters()).device == torch.device("cpu")
    for wrong in ("cuda:99", "abacus"):
        with pytest.raises(SpecError, match=f"The device '{wrong}' cannot be used"):
            sherl.load(folder, device=wrong)
