"""Answers of tasks that write text, tag words, classify images or score texts: alone as in company."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import sherl
from sherl.backbones import load_backbone
from sherl.checkpoint import save_checkpoint
from sherl.data import DataSpec, ImageSettings, prepare, prepare_images
from sherl.data.image_part import ImagePart
from sherl.errors import DataError
from sherl.methods import method_from_dict
from sherl.model import build_model
from sherl.predictor import Predictor
from sherl.spec import TaskSpec, TrainingConfig
from sherl.tasks import task_for
from sherl.training import fit
from tests.sherl.data_samples import WORDS, write_csv
from tests.sherl.image_samples import picture, write_folder
from tests.sherl.text_to_text_samples import saved_model, text_tokenizer
from tests.sherl.texts import stirred
from tests.sherl.tiny import tiny_backbone

# ---- text-to-text


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Predictor, Any]:
    """A T5 that has learnt to say a text's first word, saved and loaded again."""
    folder = tmp_path_factory.mktemp("text")
    rows = [(f"{word} {other}", f"say {word}") for word in WORDS[:4] for other in WORDS[4:]]
    write_csv(folder / "train.csv", rows)
    source = saved_model(folder / "model")
    spec = DataSpec(
        train=str(folder / "train.csv"), task="text-to-text", valid_rows=3, test_rows=3, template="rte : {text}"
    )
    data = prepare(spec, backbone_source=source, directory=folder / "p", max_length=16)
    model = build_model(load_backbone(source), method_from_dict("full"), data.task, seed=0)
    training = TrainingConfig(learning_rate=1e-2, batch_size=8, epochs=60, weight_decay=0.0)
    list(fit(model, data.part("train"), data.part("valid"), training))
    save_checkpoint(model.eval(), folder / "kept", max_length=16)
    return sherl.load(folder / "kept"), data


def test_written_answers_come_with_their_class(trained: tuple[Predictor, Any]) -> None:
    predictor, data = trained
    part = data.part("train")
    texts = list(part.texts)
    answers = predictor.predict(texts, batch_size=5)
    names = [f"say {text.split()[0]}" for text in texts]
    right = [answer["label"] == name for answer, name in zip(answers, names, strict=True)]
    assert sum(right) > 0.6 * len(right)  # chance is a quarter
    for answer, ok, name in zip(answers, right, names, strict=True):
        assert set(answer) == {"text", "label"}
        if ok:
            assert answer["text"].replace(" ", "") == name.replace(" ", "")
    assert [predictor.predict(text) for text in texts] == answers
    json.dumps(answers)


def test_the_prompt_is_put_around_what_is_given(trained: tuple[Predictor, Any]) -> None:
    predictor, data = trained
    part = data.part("valid")
    from sherl.evaluation import predict_logits

    assert torch.equal(predictor.logits(list(part.texts)), predict_logits(predictor.model, part, 2))


def test_an_answer_that_is_no_class_and_numbers() -> None:
    task = TaskSpec(
        kind="text-to-text",
        metric="pearson",
        class_names=("0", "1"),
        target_length=2,
        label_tokens=((21, 2), (22, 2)),
    )
    model = stirred(build_model(tiny_backbone("t5"), method_from_dict("full"), task, seed=0)).eval()
    predictor = Predictor(model, text_tokenizer(), max_length=12)
    model.tuned.generate = lambda batch, *_, **__: torch.tensor([[22, 2], [5, 6], [-1, -100]])[
        : len(batch["input_ids"])
    ]  # type: ignore[method-assign]
    answers = predictor.predict(["a good film", "bad film", "film"])
    assert answers[0] == {"text": "1", "value": 1.0}
    assert answers[1]["value"] is None
    assert answers[2] == {"text": "", "value": None}


# ---- words

TAGGED = TaskSpec(kind="token-classification", metric="token_f1", class_names=("B-a", "I-a", "O"))


@pytest.fixture
def tagger() -> Predictor:
    model = stirred(build_model(tiny_backbone("bert"), method_from_dict("full"), TAGGED, seed=0)).eval()
    return Predictor(model, text_tokenizer(), max_length=6)


def test_every_word_has_its_tag_alone_and_in_company(tagger: Predictor) -> None:
    sentences = [["good", "film"], "the very bad plot", ["a"], "good film"]
    answers = tagger.predict(sentences, batch_size=2)
    assert [answer["words"] for answer in answers] == [
        ["good", "film"],
        ["the", "very", "bad", "plot"],
        ["a"],
        ["good", "film"],
    ]
    assert all(len(answer["tags"]) == len(answer["words"]) for answer in answers)
    assert {tag for answer in answers for tag in answer["tags"]} <= set(TAGGED.class_names)
    assert answers[0] == answers[3] == tagger.predict("good film") == tagger.predict(("good", "film"))
    assert [tagger.predict([sentence])[0] for sentence in sentences] == answers
    assert tagger.predict([]) == []
    json.dumps(answers)


def test_words_that_are_cut_off_have_no_tag(tagger: Predictor) -> None:
    tags = tagger.predict("good bad film plot actor very not")["tags"]
    assert all(tags[:5])
    assert tags[5:] == [None, None]


def test_what_is_no_sentence_is_named(tagger: Predictor) -> None:
    with pytest.raises(DataError) as caught:
        tagger.predict(["good", "", ["a", " "], [3], []])
    for index in (1, 2, 3, 4):
        assert f"index {index}: a string, or a list of words" in str(caught.value)
    assert "index 0" not in str(caught.value)


# ---- images


class Pixels(nn.Module):
    """Stands in for a vision model: classes by the mean of each channel."""

    def __init__(self, task: TaskSpec) -> None:
        super().__init__()
        self.task, self.linear = task, nn.Linear(3, task.num_outputs)

    def outputs(self, batch: dict[str, Tensor], *, whole_length: bool = False) -> Tensor:
        made: Tensor = self.linear(batch["pixel_values"].mean((2, 3)))
        return made


def test_images_of_every_sort_get_the_answer_of_their_pixels(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "pets", {"cat": 10, "dog": 10})
    settings = ImageSettings((8, 8), (0.5, 0.4, 0.3), (0.1, 0.2, 0.3))
    data = prepare_images(DataSpec(train=str(folder)), settings, directory=tmp_path / "p")
    model: Any = Pixels(data.task).eval()
    predictor = Predictor(model, None, max_length=None)
    part = data.part("train")
    assert isinstance(part, ImagePart)
    paths = [tmp_path / str(name) for name in part.texts]
    batch = part.batch(range(len(part)))
    with torch.no_grad():
        expected = task_for(data.task).decode(model.outputs(batch))
    answers = predictor.predict(paths, batch_size=3)
    assert [answer["label"] for answer in answers] == [answer["label"] for answer in expected]
    for n, path in enumerate(paths[:4]):
        array = picture(int(path.stem))
        for one in (path, str(path), Image.open(path), array, path.read_bytes()):
            assert predictor.predict(one)["scores"] == pytest.approx(expected[n]["scores"], abs=1e-5)
    stacked = np.stack([picture(n) for n in range(3)])
    assert len(predictor.predict(stacked)) == 3
    assert predictor.predict([]) == []
    with pytest.raises(DataError) as caught:
        predictor.predict([paths[0], tmp_path / "none.png", 7, np.zeros((2, 2, 2), np.uint8)])
    for expected_words in ("index 1", "index 2: a path, an image", "index 3"):
        assert expected_words in str(caught.value)
    assert "index 0" not in str(caught.value)


# ---- texts that are scored


def test_a_texts_likelihood() -> None:
    task = TaskSpec(kind="language-modelling", metric="neg_perplexity")
    model = stirred(build_model(tiny_backbone("llama"), method_from_dict("full"), task, seed=0)).eval()
    predictor = Predictor(model, text_tokenizer("decoder"), max_length=12)
    texts = ["good film", "the very bad plot", "a"]
    answers = predictor.predict(texts)
    assert answers[2] == {"nll": None, "perplexity": None, "tokens": 0}
    for text, answer in zip(texts[:2], answers[:2], strict=True):
        ids = torch.tensor([text_tokenizer("decoder")(text)["input_ids"]])
        with torch.no_grad():
            logs = torch.log_softmax(model({"input_ids": ids, "attention_mask": torch.ones_like(ids)}), -1)
        nll = -float(torch.stack([logs[0, place, token] for place, token in enumerate(ids[0, 1:].tolist())]).mean())
        assert answer["nll"] == pytest.approx(nll, abs=1e-5)
        assert answer["perplexity"] == pytest.approx(math.exp(nll), rel=1e-4)
        assert answer["tokens"] == ids.shape[1] - 1
    assert predictor.predict(texts[1]) == answers[1]
