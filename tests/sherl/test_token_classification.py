"""Tags of words: entities, metrics, alignment of words with tokens, files, and a model that learns them."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import BertTokenizerFast, PreTrainedTokenizerFast

from sherl.data import DataSpec, PreparedData, hub, prepare_with
from sherl.data.tagged import encode_words
from sherl.errors import DataError, SpecError, UnsupportedBackboneError
from sherl.evaluation import evaluate, predict_logits
from sherl.methods import method_from_dict
from sherl.metrics import metric_for
from sherl.model import build_model
from sherl.spans import BREAK, entities
from sherl.spec import TaskSpec, TrainingConfig
from sherl.tasks import task_for
from sherl.training import compute_gradients, fit, make_optimizer
from tests.sherl.data_samples import WORDS, write_csv, write_jsonl
from tests.sherl.text_to_text_samples import text_tokenizer
from tests.sherl.tiny import tiny_backbone

TAGS = ("B-a", "I-a", "O")
SPEC = TaskSpec(kind="token-classification", metric="entity_f1", class_names=TAGS)

GAPS = st.tuples(st.integers(0, 2), st.integers(1, 4), st.sampled_from(["PER", "LOC", "I-X"]))


def _render(runs: list[tuple[int, int, str]], style: str) -> tuple[list[str], set[tuple[int, int, str]]]:
    """Tags of runs (words outside, words inside, type), and the spans that were meant."""
    tags: list[str] = []
    spans: set[tuple[int, int, str]] = set()
    before = ""
    for gap, length, kind in runs:
        tags += ["O"] * gap
        spans.add((len(tags), len(tags) + length, kind))
        if style == "iob1":
            first = "B" if not gap and before == kind else "I"
            marks = [first] + ["I"] * (length - 1)
        elif style == "iob2":
            marks = ["B"] + ["I"] * (length - 1)
        else:
            marks = ["S"] if length == 1 else ["B", *["I"] * (length - 2), "E"]
        tags += [f"{mark}-{kind}" for mark in marks]
        before = kind
    return tags, spans


@pytest.mark.parametrize("style", ["iob1", "iob2", "iobes"])
@given(runs=st.lists(GAPS, max_size=6))
def test_entities_are_the_spans_that_were_written(style: str, runs: list[tuple[int, int, str]]) -> None:
    tags, spans = _render(runs, style)
    assert entities(tags) == spans


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        (["O", "I-a", "I-b"], {(1, 2, "a"), (2, 3, "b")}),
        (["B-a", BREAK, "I-a"], {(0, 1, "a"), (2, 3, "a")}),
        (["E-a", "I-a"], {(0, 1, "a"), (1, 2, "a")}),
        (["noun", "noun", "verb"], {(0, 2, "noun"), (2, 3, "verb")}),
        ([], set()),
    ],
)
def test_entities_of_tags_that_are_out_of_order(tags: list[str], expected: set[tuple[int, int, str]]) -> None:
    assert entities(tags) == expected


@given(st.lists(GAPS, max_size=5), st.lists(GAPS, max_size=5))
def test_entity_f1_is_that_of_precision_and_recall(one: Any, other: Any) -> None:
    (truth, right), (guess, found) = _render(one, "iob2"), _render(other, "iob2")
    length = max(len(truth), len(guess)) + 1
    truth, guess = [tags + ["O"] * (length - len(tags)) for tags in (truth, guess)]
    hits = len([span for span in found if span in right])
    precision, recall = hits / len(found) if found else 0.0, hits / len(right) if right else 0.0
    expected = 2 * precision * recall / (precision + recall) if hits else 0.0
    scored = metric_for("entity_f1", "tags")(np.array(truth, object), np.array(guess, object), 3)
    assert scored == pytest.approx(expected)


# ---- the task


def test_loss_and_metrics_pass_over_tokens_without_a_label() -> None:
    task = task_for(SPEC)
    labels = torch.tensor([[-100, 0, -100, 1, 2], [-100, 2, 2, -100, -100]])
    logits = torch.randn(2, 5, 3)
    loss = task.loss(logits, labels)
    counts = labels != -100
    expected = torch.nn.functional.cross_entropy(logits[counts], labels[counts])
    torch.testing.assert_close(loss, expected)
    assert float(task.loss_weight(labels)) == 5
    assert float(task.loss(logits, torch.full_like(labels, -100))) == 0
    written = torch.tensor([[2, 0, 0, 1, 2], [0, 2, 0, 1, 1]])
    scores = task.metrics(written, labels)
    assert scores["token_accuracy"] == pytest.approx(4 / 5)
    assert scores["token_f1"] == pytest.approx(np.mean([2 / 3, 1, 4 / 5]))
    assert scores["entity_f1"] == pytest.approx(2 * 1 / (1 + 2))  # the second row's B-a is an entity too many
    assert tuple(scores) == task.metric_names


def test_tokens_that_are_not_finite_show() -> None:
    task = task_for(SPEC)
    logits = torch.zeros(1, 3, 3)
    logits[0, 1, 0] = math.nan
    written = task.answers(logits)
    assert written.tolist() == [[0, -1, 0]]
    assert all(math.isnan(score) for score in task.metrics(written, torch.tensor([[0, 1, 2]])).values())
    assert math.isfinite(task.metrics(written, torch.tensor([[0, -100, 2]]))["token_f1"])
    assert task.decode(written) == [{"tags": ["B-a", None, "B-a"]}]


def test_bad_tasks_and_backbones_are_refused() -> None:
    with pytest.raises(SpecError, match="at least two different tags"):
        task_for(TaskSpec(kind="token-classification", metric="token_f1", class_names=("O",)))
    with pytest.raises(SpecError, match="scores classes"):
        task_for(TaskSpec(kind="token-classification", metric="accuracy", class_names=TAGS))
    with pytest.raises(UnsupportedBackboneError, match=r"answers every token.*t5"):
        build_model(tiny_backbone("t5"), method_from_dict("full"), SPEC, seed=0)
    with pytest.raises(DataError, match="shape"):
        task_for(SPEC).metrics(torch.zeros(1, 2), torch.zeros(1, 3))


# ---- words and tokens


def _wordpieces(tmp_path: Path) -> Any:
    path = tmp_path / "vocab.txt"
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "new", "york", "un", "##believ", "##able", "!", "n", "##o", "is"]
    path.write_text("\n".join(pieces), encoding="utf-8")
    return BertTokenizerFast(vocab=str(path))


def _byte_pairs() -> Any:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({letter: place for place, letter in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="!")


SENTENCES = [("new", "unbelievable", "york", "!"), ("no", "is"), ("un-able", "york!", "new york")]


def test_the_first_token_of_each_word_carries_its_tag(tmp_path: Path) -> None:
    tokenizer = _wordpieces(tmp_path)
    encoded, begun = encode_words(tokenizer, SENTENCES, None)
    first = tokenizer.convert_ids_to_tokens(encoded.ids[: encoded.offsets[1]].tolist())
    assert first == ["[CLS]", "new", "un", "##believ", "##able", "york", "!", "[SEP]"]
    assert begun[: encoded.offsets[1]].tolist() == [-1, 0, 1, -1, -1, 2, 3, -1]
    for row, words in enumerate(SENTENCES):
        own = begun[encoded.offsets[row] : encoded.offsets[row + 1]]
        assert own[own >= 0].tolist() == list(range(len(words)))
    cut, begun = encode_words(tokenizer, SENTENCES[:1], 5)
    assert (cut.truncated, begun.tolist()) == (1, [-1, 0, 1, -1, -1])


def test_byte_pairs_hold_the_blank_before_a_word(tmp_path: Path) -> None:
    tokenizer = _byte_pairs()
    encoded, begun = encode_words(tokenizer, [("ab", "é", "c")], None)
    assert tokenizer.decode(encoded.ids) == "ab é c"
    begins = [int(np.flatnonzero(begun == word)[0]) for word in range(3)]
    assert begins[0] == 0
    assert begins[1] in (2, 3)
    assert sorted(begun[begun >= 0].tolist()) == [0, 1, 2]


def test_words_that_leave_no_token_are_begun_by_none() -> None:
    tokenizer = text_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("plot", "")
    _, begun = encode_words(tokenizer, [("good", "plot", "film")], None)
    assert begun.tolist() == [0, 2, -1]


# ---- files

ROWS = [
    {"tokens": ["good", *("very" for _ in range(n % 3)), f"n{n}"], "tags": ["B-a", *("I-a" for _ in range(n % 3)), "O"]}
    for n in range(30)
]


def make(source: Path | str, folder: Path, **settings: Any) -> PreparedData:
    spec = DataSpec(train=str(source), task="token-classification", **settings)
    return prepare_with(text_tokenizer(), spec, directory=folder, max_length=20)


def _conll(path: Path, mark: str) -> Path:
    sentences = [
        "\n".join(f"{word}{mark}x{mark}{tag}" for word, tag in zip(row["tokens"], row["tags"], strict=True))
        for row in ROWS
    ]
    path.write_text("-DOCSTART- -X- O\n\n" + "\n\n".join(sentences) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("form", ["jsonl", "tabs", "blanks"])
def test_files_of_every_form_give_the_same_rows(tmp_path: Path, form: str) -> None:
    if form == "jsonl":
        path = write_jsonl(tmp_path / "a.jsonl", ROWS)
    else:
        path = _conll(tmp_path / "a.conll", "\t" if form == "tabs" else " ")
    data = make(path, tmp_path / "p")
    assert data.task.class_names == TAGS
    assert data.task.metric == "entity_f1"
    truth = {tuple(row["tokens"]): list(row["tags"]) for row in ROWS}
    seen = 0
    for name in ("train", "valid", "test"):
        part = data.part(name)
        for batch, rows in part.eval_batches(4):
            assert batch["labels"].shape == batch["input_ids"].shape
            for labels, row in zip(batch["labels"].tolist(), rows.tolist(), strict=True):
                tags = [TAGS[label] for label in labels if label != -100]
                assert tags == truth[tuple(part.texts[row])]
                assert labels[len(tags)] == -100  # the end token
                seen += 1
    assert seen == 30


def test_words_of_the_hub_have_their_tags_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    features = datasets.Features(
        {
            "tokens": datasets.Sequence(datasets.Value("string")),
            "ner_tags": datasets.Sequence(datasets.ClassLabel(names=list(TAGS))),
        }
    )
    rows = {
        "tokens": [row["tokens"] for row in ROWS],
        "ner_tags": [[TAGS.index(t) for t in row["tags"]] for row in ROWS],
    }
    loaded = datasets.DatasetDict({"train": datasets.Dataset.from_dict(rows, features=features)})
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: loaded)
    monkeypatch.setattr(hub, "hub_reachable", lambda: True)
    assert make("owner/ner", tmp_path / "p").task.class_names == TAGS


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([{"tokens": ["a", "b"], "tags": ["O"]}] * 3, r"row 1 \(line 1\): 2 words but 1 tags"),
        ([{"tokens": "a b", "tags": ["O"]}] * 3, "a list of words"),
        ([{"tokens": ["a", " "], "tags": ["O", "O"]}] * 3, "a list of words"),
        ([{"tokens": ["a"], "tags": [None]}] * 3, "a list of tags"),
        ([{"tokens": ["a"], "tags": ["O"]}] * 3, "every tag is 'O'"),
        ([{"w": ["a"], "tags": ["O"]}] * 3, "the words have no column named tokens or words; name it with --text"),
    ],
)
def test_rows_that_cannot_be_are_named(tmp_path: Path, rows: list[dict[str, Any]], expected: str) -> None:
    with pytest.raises(DataError, match=expected):
        make(write_jsonl(tmp_path / "a.jsonl", rows), tmp_path / "p")


def test_foreign_tags_and_lines_without_a_tag_are_named(tmp_path: Path) -> None:
    train = write_jsonl(tmp_path / "a.jsonl", ROWS)
    valid = write_jsonl(tmp_path / "v.jsonl", [{"tokens": ["x"], "tags": ["B-z"]}] * 2)
    with pytest.raises(DataError, match=r"v\.jsonl row 1 .*'B-z' stand nowhere in the training part"):
        make(train, tmp_path / "p", valid=str(valid))
    (tmp_path / "b.conll").write_text("good O\nfilm\n\n\nvery\n", encoding="utf-8")
    with pytest.raises(DataError) as caught:
        make(tmp_path / "b.conll", tmp_path / "p")
    assert "line 2: 'film'" in str(caught.value)
    assert "line 5: 'very'" in str(caught.value)
    with pytest.raises(DataError, match="a list of words"):
        make(write_csv(tmp_path / "c.csv", [("a", "O")] * 3, ("tokens", "tags")), tmp_path / "p")


# ---- learning


def _learnable(path: Path) -> Path:
    draw = random.Random(0)
    rows = []
    for _ in range(120):
        words = draw.choices(WORDS, k=draw.randint(3, 8))
        tags = ["B-a" if w == "film" else "I-a" if p and words[p - 1] == "film" else "O" for p, w in enumerate(words)]
        rows.append({"tokens": words, "tags": tags})
    return write_jsonl(path, rows)


@pytest.mark.parametrize("method", ["full", "sherl"])
def test_a_model_learns_tags_and_is_scored_in_any_batches(tmp_path: Path, method: str) -> None:
    data = make(_learnable(tmp_path / "a.jsonl"), tmp_path / "p")
    model = build_model(tiny_backbone("bert"), method_from_dict(method), data.task, seed=0)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # it would drown hidden states of 16 numbers
    training = TrainingConfig(learning_rate=2e-3, batch_size=8, epochs=40, weight_decay=0.0)
    progress = list(fit(model, data.part("train"), data.part("valid"), training))
    assert progress[-1].train_loss < (0.2 if method == "full" else 0.9) * progress[0].train_loss
    part = data.part("train")
    if method == "full":
        assert evaluate(model, part, 16)["entity_f1"] > 0.9
    assert evaluate(model, part, 5) == pytest.approx(evaluate(model, part, 64))
    assert predict_logits(model, part, 5).shape == (len(part), part.longest_label)


def test_accumulated_gradients_are_those_of_the_whole_batch(tmp_path: Path) -> None:
    batch = make(_learnable(tmp_path / "a.jsonl"), tmp_path / "p").part("train").largest_batch(7)
    model = build_model(tiny_backbone("bert"), method_from_dict("full"), SPEC, seed=0)
    optimizer, _ = make_optimizer(model, TrainingConfig(learning_rate=1e-2), total_steps=1)
    found = []
    for pieces in (1, 3):
        optimizer.zero_grad()
        compute_gradients(model, batch, optimizer, pieces)
        found.append(torch.cat([p.grad.flatten() for p in model.trainable_parameters() if p.grad is not None]))
    assert float(found[0].abs().max()) > 0
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=1e-4)
