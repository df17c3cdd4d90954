"""Raw text in, answers out; and the whole way on a real model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertTokenizerFast

import sherl
from sherl.checkpoint import save_checkpoint
from sherl.errors import CheckpointError, DataError
from sherl.predictor import Predictor
from sherl.spec import TaskSpec
from tests.sherl.toys import SHERL, TWO_CLASSES, VOCABULARY, toy_backbone, toy_model

PAIRS = TaskSpec(kind="classification", metric="accuracy", class_names=("no", "yes", "maybe"), pair=True)
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "film", "a", "b", "c", "##s", "é"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("words") / "vocab.txt"
    path.write_text("\n".join([*WORDS, *(f"w{index}" for index in range(VOCABULARY - len(WORDS)))]), encoding="utf-8")
    return BertTokenizerFast(vocab=str(path))


@pytest.fixture
def predictor(tokenizer: Any) -> Predictor:
    model = toy_model(SHERL)
    model.eval()
    return Predictor(model, tokenizer, max_length=16)


TEXTS = ["good film", "", "a b c a b c a b c", "bad", "snow ☃ \U0001f600", "\x00", "good " * 500, "bad"]


def test_a_list_gives_a_list_and_a_text_one_answer(predictor: Predictor) -> None:
    answers = predictor.predict(TEXTS)
    assert len(answers) == len(TEXTS)
    assert answers[3]["scores"] == pytest.approx(answers[7]["scores"], abs=1e-5)
    single = predictor.predict("good film")
    assert isinstance(single, dict)
    assert single["label"] in TWO_CLASSES.class_names
    assert set(single["scores"]) == set(TWO_CLASSES.class_names)
    assert sum(single["scores"].values()) == pytest.approx(1)
    assert single["label"] == max(single["scores"], key=single["scores"].__getitem__)
    json.dumps(answers)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_an_answer_does_not_depend_on_its_company(predictor: Predictor, batch_size: int) -> None:
    together = predictor.logits(TEXTS, batch_size=batch_size)
    alone = torch.cat([predictor.logits(text) for text in TEXTS])
    assert together.shape == (len(TEXTS), 2)
    assert torch.allclose(together, alone, atol=1e-5)
    assert torch.unique(alone, dim=0).shape[0] > 4  # the texts do differ


def test_nothing_in_nothing_out(predictor: Predictor) -> None:
    assert predictor.predict([]) == []
    assert predictor.logits([]).shape == (0, 2)


def test_any_iterable_of_texts_will_do(predictor: Predictor) -> None:
    expected = predictor.predict(["good", "bad"])
    assert predictor.predict(("good", "bad")) == expected
    assert predictor.predict(text for text in ["good", "bad"]) == expected


def test_a_half_surrogate_is_a_text(predictor: Predictor) -> None:
    assert predictor.predict("good \ud83d film")["label"] in TWO_CLASSES.class_names
    assert torch.allclose(predictor.logits("é\U0001f600"), predictor.logits("é\ud83d\ude00"))


@pytest.mark.parametrize("wrong", [None, 3, b"bytes", {"text": "x"}])
def test_what_is_no_list_is_refused(predictor: Predictor, wrong: Any) -> None:
    with pytest.raises(DataError, match=type(wrong).__name__):
        predictor.predict(wrong)


def test_what_is_no_text_is_named_by_index(predictor: Predictor) -> None:
    with pytest.raises(DataError) as caught:
        predictor.predict(["good", None, "bad", 4.5, ("a", "b")])  # type: ignore[list-item]
    for words in ("index 1", "NoneType", "index 3", "4.5", "index 4", "a string is needed"):
        assert words in str(caught.value)
    assert "index 0" not in str(caught.value)
    with pytest.raises(DataError, match="and 90 more"):
        predictor.predict([None] * 100)  # type: ignore[list-item]


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_size_below_one_is_refused(predictor: Predictor, batch_size: int) -> None:
    with pytest.raises(DataError, match="batch_size"):
        predictor.predict(["a"], batch_size=batch_size)


def test_pairs(tokenizer: Any) -> None:
    predictor = Predictor(toy_model(task=PAIRS), tokenizer, max_length=16)
    pairs = [("good film", "bad"), ("", ""), ("a " * 50, "b " * 50), ("bad", "good film")]
    answers = predictor.predict(pairs)
    assert [set(answer["scores"]) for answer in answers] == [set(PAIRS.class_names)] * 4
    assert predictor.predict(pairs[0])["scores"] == pytest.approx(answers[0]["scores"], abs=1e-5)
    assert predictor.predict([list(pair) for pair in pairs])[3]["label"] == answers[3]["label"]  # type: ignore[misc]
    assert not torch.allclose(predictor.logits(pairs[:1]), predictor.logits(pairs[3:]))  # the order counts
    for wrong in ("good", ["good", "bad"], [("a", "b", "c")], [("a", None)]):
        with pytest.raises(DataError, match="pair of strings"):
            predictor.predict(wrong)  # type: ignore[arg-type]


def test_regression_gives_values(tokenizer: Any) -> None:
    task = TaskSpec(kind="regression", metric="pearson", target_mean=100.0, target_std=5.0)
    answers = Predictor(toy_model(task=task), tokenizer, max_length=16).predict(["good", "bad"])
    assert all(abs(answer["value"] - 100) < 100 for answer in answers)


def test_long_texts_are_cut_as_asked(tokenizer: Any) -> None:
    short = Predictor(toy_model(), tokenizer, max_length=5)
    assert torch.allclose(short.logits("good bad film a b c"), short.logits("good bad film"), atol=1e-6)
    assert not torch.allclose(short.logits("good bad film"), short.logits("good bad"), atol=1e-6)


# ---- sherl.load


def test_importing_sherl_loads_nothing_heavy() -> None:
    code = "import sys, sherl; assert not {'torch', 'transformers', 'numpy'} & set(sys.modules); assert 'load' in dir(sherl)"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="nonesuch"):
        _ = sherl.nonesuch


def test_load_takes_tokenizer_files_from_the_folder(tmp_path: Path, tokenizer: Any) -> None:
    model = toy_model(SHERL)
    model.eval()
    folder = save_checkpoint(model, tmp_path / "kept", max_length=16)
    with pytest.raises(CheckpointError, match="tokenizer"):
        sherl.load(folder, backbone=toy_backbone())
    tokenizer.save_pretrained(folder)
    loaded = sherl.load(folder, backbone=toy_backbone())
    assert torch.allclose(loaded.logits(TEXTS), Predictor(model, tokenizer, max_length=16).logits(TEXTS), atol=1e-6)
    (folder / "tokenizer_config.json").write_text("null")
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json holds null"):
        sherl.load(folder, backbone=toy_backbone())


def test_load_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint"):
        sherl.load(tmp_path)


WHOLE_WAY = """
import hashlib, json, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
import sherl
from sherl.backbones import DEFAULT_BACKBONE, load_backbone
from sherl.checkpoint import save_checkpoint
from sherl.data import DataSpec, PreparedData, prepare
from sherl.evaluation import predict_logits
from sherl.methods import method_from_dict
from sherl.model import build_model
from sherl.spec import TrainingConfig
from sherl.training import fit, rehearse

folder, rehearsed = Path(sys.argv[1]), sys.argv[2] == "rehearsed"
rows = [("The %s was %s." % (thing, word), label) for thing in
        ("film", "book", "play", "song", "meal", "trip", "game", "show")
        for word, label in (("wonderful", "good"), ("awful", "bad"), ("a delight", "good"), ("a disaster", "bad"),
                            ("superb", "good"), ("dreadful", "bad"), ("charming", "good"), ("dull", "bad"))]
folder.mkdir(parents=True, exist_ok=True)
for name, part in (("train", rows), ("valid", rows[:16])):
    lines = [json.dumps({"text": text, "label": label}) for text, label in part]
    (folder / (name + ".jsonl")).write_text("\\n".join(lines))
data = DataSpec(train=str(folder / "train.jsonl"), valid=str(folder / "valid.jsonl"), text="text", label="label")
prepare(data, backbone_source=DEFAULT_BACKBONE, directory=folder / "prepared", max_length=32)
prepared = PreparedData.open(folder / "prepared")
train, valid = prepared.part("train"), prepared.part("valid")
training = TrainingConfig(learning_rate=3e-3, batch_size=8, epochs=4, seed=5)
method = method_from_dict({"name": "sherl", "reduction_factor": 8, "late_route": {"name": "lora", "rank": 8, "alpha": 16}})
model = build_model(load_backbone(DEFAULT_BACKBONE), method, prepared.task, seed=5)
if rehearsed:
    rehearse(model, train.largest_batch(8), valid.largest_batch(8), training)
seen = list(fit(model, train, valid, training))
logits = predict_logits(model, valid, 8)
digest = hashlib.sha256()
for name, tensor in sorted(model.trainable_state().items()):
    digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
save_checkpoint(model, folder / "kept", max_length=32)
again = sherl.load(folder / "kept").logits(list(valid.texts))
print(json.dumps({"losses": [p.train_loss for p in seen], "metrics": [p.metrics for p in seen],
                  "sha256": digest.hexdigest(), "logits": logits.tolist(), "loaded": again.tolist()}))
"""


@pytest.mark.slow
def test_the_whole_way_on_a_real_model_twice(tmp_path: Path) -> None:
    results = []
    for name in ("rehearsed", "plain"):
        run = subprocess.run(
            [sys.executable, "-c", WHOLE_WAY, str(tmp_path / name), name],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        results.append(json.loads(run.stdout.splitlines()[-1]))
    one, other = results
    assert one["losses"][-1] < 0.5 * one["losses"][0]
    assert one["metrics"][-1]["accuracy"] >= 0.9
    assert torch.allclose(torch.tensor(one["logits"]), torch.tensor(one["loaded"]), atol=1e-5)
    assert one == other  # a rehearsal changes nothing, and two fresh processes agree to the bit
