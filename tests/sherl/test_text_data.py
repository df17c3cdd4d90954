"""Text-to-text data: prompts, target tokens, what scores them, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sherl.backbones import load_backbone
from sherl.data import DataSpec, PreparedData, prepare, prepare_with
from sherl.data.target_texts import encode_targets
from sherl.data.templates import fitted
from sherl.errors import DataError, SpecError
from sherl.evaluation import evaluate
from sherl.methods import method_from_dict
from sherl.model import build_model
from sherl.spec import TrainingConfig
from sherl.tasks import task_for
from sherl.training import fit
from tests.sherl.data_samples import sentence, write_csv
from tests.sherl.text_to_text_samples import END, saved_model, text_tokenizer

TEMPLATE = "rte sentence1 : {text} sentence2 : {pair}"
PAIRS = [(f"{sentence(n)}", f"{sentence(n + 3)}", "yes" if n % 2 else "no film") for n in range(60)]


def make(
    source: Path, folder: Path, *, style: str = "t5", max_length: int | None = 20, **settings: Any
) -> PreparedData:
    decoder = settings.pop("decoder", False)
    spec = DataSpec(train=str(source), task="text-to-text", **settings)
    return prepare_with(text_tokenizer(style), spec, directory=folder, max_length=max_length, decoder=decoder)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return write_csv(tmp_path / "pairs.csv", PAIRS, ("sentence1", "sentence2", "label"))


@pytest.mark.parametrize("template", [None, TEMPLATE])
def test_batches_hold_the_prompt_and_the_targets_tokens(pairs: Path, tmp_path: Path, template: str | None) -> None:
    tokenizer = text_tokenizer()
    data = make(pairs, tmp_path / "p", template=template, max_length=40)
    truth = {(first, second): label for first, second, label in PAIRS}
    part, seen = data.part("train"), 0
    for batch, rows in part.eval_batches(7):
        widths = []
        for place, row in enumerate(rows.tolist()):
            pair = part.texts[row]
            assert isinstance(pair, tuple)
            given = [TEMPLATE.format(text=pair[0], pair=pair[1])] if template else list(pair)
            ids = tokenizer(*given, truncation=True, max_length=40)["input_ids"]
            assert batch["input_ids"][place, : len(ids)].tolist() == ids
            target = [*tokenizer(truth[pair[0], pair[1]], add_special_tokens=False)["input_ids"], END]
            assert batch["labels"][place].tolist() == target + [-100] * (batch["labels"].shape[1] - len(target))
            widths.append(len(target))
            seen += 1
        assert batch["labels"].shape[1] == max(widths)
        assert batch["labels"].dtype == torch.int64
    assert seen == len(part)
    assert data.task.template == (template or "")
    assert data.task.class_names == ("no film", "yes")
    assert data.task.label_tokens == ((19, 6, END), (18, END))
    assert data.task.target_length == 3
    assert data.task.metric == "accuracy"
    task_for(data.task)


def test_the_largest_batch_has_the_longest_input_and_the_longest_target(tmp_path: Path) -> None:
    rows = [(" ".join(["good"] * (n + 1)), "very " * (40 - n) + "bad") for n in range(40)]
    data = make(write_csv(tmp_path / "x.csv", rows), tmp_path / "p", metric="exact_match", max_length=None)
    part = data.part("train")
    largest = part.largest_batch(3)
    widths = [(batch["input_ids"].shape[1], batch["labels"].shape[1]) for batch in part.batches(3, seed=0)]
    assert largest["labels"].shape == (3, part.longest_label)
    assert part.longest_label == max(width for _, width in widths)
    assert largest["input_ids"].shape[1] == max(width for width, _ in widths)


@pytest.mark.parametrize(
    ("labels", "settings", "classes", "metric"),
    [
        (["yes", "no"] * 20, {}, ("no", "yes"), "accuracy"),
        (["yes", "no"] * 20, {"metric": "exact_match"}, (), "exact_match"),
        ([0, 1, 2, 1] * 10, {}, ("0", "1", "2"), "accuracy"),
        ([f"very {' good' * n}" for n in range(40)], {}, (), "exact_match"),
        (["0", "1", "2", "3"] * 10, {"metric": "pearson"}, ("0", "1", "2", "3"), "pearson"),
    ],
)
def test_what_scores_the_targets(
    tmp_path: Path, labels: list[Any], settings: dict[str, Any], classes: tuple[str, ...], metric: str
) -> None:
    path = write_csv(tmp_path / "x.csv", [(f"{sentence(n)}", label) for n, label in enumerate(labels)])
    task = make(path, tmp_path / "p", **settings).task
    assert (task.class_names, task.metric) == (classes, metric)


def test_targets_that_only_another_part_has_make_them_free_texts(tmp_path: Path) -> None:
    train = write_csv(tmp_path / "t.csv", [(sentence(n), "yes" if n % 2 else "no") for n in range(20)])
    valid = write_csv(tmp_path / "v.csv", [(sentence(n), "maybe") for n in range(30, 34)])
    assert make(train, tmp_path / "p", valid=str(valid)).task.metric == "exact_match"
    with pytest.raises(DataError, match="training part has only the classes 'no', 'yes'"):
        make(train, tmp_path / "q", valid=str(valid), metric="accuracy")


def test_written_numbers_are_scored_as_numbers_and_other_answers_as_minus_one(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "x.csv", [(sentence(n), str(n % 4)) for n in range(40)])
    task = task_for(make(path, tmp_path / "p", metric="neg_mae").task)
    tokens = {name: list(ids) for name, ids in zip(task.spec.class_names, task.spec.label_tokens, strict=True)}
    truth = torch.tensor([tokens["3"], tokens["1"], tokens["0"]])
    written = torch.tensor([tokens["3"], tokens["3"], [5, END]])
    assert task.predictions(written).tolist() == [3.0, 3.0, -1.0]
    assert task.metrics(written, truth)["neg_mae"] == pytest.approx(-(0 + 2 + 1) / 3)


@pytest.mark.parametrize(
    ("style", "decoder", "expected"),
    [("t5", False, (18, END)), ("bart", False, (0, 18, END)), ("decoder", False, (18, END)), ("bart", True, (18, END))],
)
def test_every_target_ends_with_its_end_token_once(style: str, decoder: bool, expected: tuple[int, ...]) -> None:
    assert encode_targets(text_tokenizer(style), ["yes"], decoder=decoder) == [expected]


def test_a_tokenizer_without_an_end_token_or_a_target_without_tokens_is_refused() -> None:
    tokenizer = text_tokenizer()
    tokenizer.backend_tokenizer.normalizer = __import__("tokenizers").normalizers.Replace("yes", "")
    with pytest.raises(DataError, match=r"no token of 1 target\(s\), such as 'yes'"):
        encode_targets(tokenizer, ["no", "yes"], decoder=False)
    tokenizer.eos_token = None
    with pytest.raises(DataError, match="no end token"):
        encode_targets(tokenizer, ["no"], decoder=False)


def test_classes_that_the_tokenizer_cannot_tell_apart_are_refused(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "x.csv", [(sentence(n), "unknown" if n % 2 else "unheard") for n in range(20)])
    with pytest.raises(DataError, match="same tokens of the targets 'unheard', 'unknown'"):
        make(path, tmp_path / "p")


def test_targets_are_never_cut(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "x.csv", [(sentence(n), "good " * (1 + n % 5) + "film") for n in range(30)])
    with pytest.raises(DataError) as caught:
        make(path, tmp_path / "p", target_length=5, metric="exact_match")
    assert "6 tokens" in str(caught.value)
    assert "7 tokens" in str(caught.value)
    assert len(caught.value.problems) == 12
    assert "give a target_length of 7" in str(caught.value)
    assert make(path, tmp_path / "q", metric="exact_match").task.target_length == 7
    assert make(path, tmp_path / "r", metric="exact_match", target_length=12).task.target_length == 12


def test_targets_over_what_the_backbone_takes_are_refused(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "x.csv", [(sentence(n), "good " * 30 + str(n)) for n in range(20)])
    spec = DataSpec(train=str(path), task="text-to-text")
    for decoder, allowed in ((False, 20), (True, 20 - 12)):
        with pytest.raises(DataError, match=rf"the backbone allows {allowed} tokens") as caught:
            prepare_with(
                text_tokenizer(), spec, directory=tmp_path / "p", max_length=12, max_tokens=20, decoder=decoder
            )
        assert len(caught.value.problems) == 20


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"template": "say {text} {label}"}, r"names \['label'\]"),
        ({"template": "say {"}, "cannot be read"),
        ({"template": "say it"}, "lacks {text}"),
        ({"template": "{text!r}"}, "formats a field"),
        ({"target_length": 0}, "at least 1"),
        ({"metric": "token_f1"}, "scores tags"),
        ({"template": "{text}", "task": "auto"}, "template is a setting of the task text-to-text"),
        ({"target_length": 4, "task": "regression"}, "target_length is a setting of the task text-to-text"),
        ({"unit": "stream"}, "language-modelling"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], expected: str) -> None:
    with pytest.raises(SpecError, match=expected):
        DataSpec(**{"train": "x.csv", "task": "text-to-text", **settings})


def test_templates_and_columns_belong_together(pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"lacks \{pair\}, so that the column 'sentence2' would be lost"):
        make(pairs, tmp_path / "p", template="say {text}")
    with pytest.raises(DataError, match=r"names \{pair\}, but there is one text a row"):
        make(pairs, tmp_path / "p", template=TEMPLATE, text="sentence1")


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (30, 2, "say " + "good " * 5 + ": bad bad ?"),
        (30, 30, "say " + "good " * 3 + ": bad bad bad bad ?"),
        (3, 3, "say good good good : bad bad bad ?"),
    ],
)
def test_long_texts_are_cut_and_the_templates_words_stay(first: int, second: int, expected: str) -> None:
    tokenizer = text_tokenizer(further="?")
    texts = [(" ".join(["good"] * first), " ".join(["bad"] * second))]
    (made,), cut = fitted(tokenizer, "say {text} : {pair} ?", texts, 11)
    assert sorted(str(made).split()) == sorted(expected.split())
    assert str(made).split()[-1] == "?"
    assert cut == (first > 3)
    assert len(tokenizer(made)["input_ids"]) == (11 if cut else 10)
    (whole,), none = fitted(tokenizer, "say {text} : {pair} ?", texts, None)
    assert (whole, none) == ("say {} : {} ?".format(*texts[0]), 0)


def test_letters_of_several_tokens_are_cut_whole() -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({letter: place for place, letter in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    (made,), cut = fitted(tokenizer, "{text}!", ["🎬🎬🎬"], 10)
    assert (made, cut) == ("🎬🎬!", 1)
    assert fitted(tokenizer, "{text}!", ["🎬"], 3) == (["!"], 1)


def test_a_template_that_is_too_long_itself_is_cut_at_its_end(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "x.csv", [(sentence(n), "yes" if n % 2 else "no") for n in range(20)])
    data = make(path, tmp_path / "p", template="say " * 30 + "{text}", max_length=8)
    assert set(data.part("train").lengths.tolist()) == {8}
    assert any("14 of 14 rows of train cut at 8 tokens" in note for note in data.summary["notes"])


def test_braces_in_texts_are_letters(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "x.csv", [(f"good {{text}} {{{n}", "yes" if n % 2 else "no") for n in range(20)])
    data = make(path, tmp_path / "p", template="say {{ {text}", max_length=None)
    # say, {, good, {text}, {n, end
    assert set(data.part("train").lengths.tolist()) == {6}


def test_a_csv_trains_a_t5_that_then_writes_the_answers(tmp_path: Path) -> None:
    rows = [
        (f"{word} {other}", f"say {word}")
        for word in ("good", "bad", "film", "plot")
        for other in ["the", "a", "of", "very", "not", "actor"]
    ]
    write_csv(tmp_path / "train.csv", rows)
    source = saved_model(tmp_path / "model")
    spec = DataSpec(
        train=str(tmp_path / "train.csv"), task="text-to-text", valid_rows=4, test_rows=4, template="say {text}"
    )
    data = prepare(spec, backbone_source=source, directory=tmp_path / "p", max_length=16)
    model = build_model(load_backbone(source), method_from_dict("full"), data.task, seed=0)
    training = TrainingConfig(learning_rate=1e-2, batch_size=8, epochs=60, weight_decay=0.0)
    progress = list(fit(model, data.part("train"), data.part("valid"), training))
    assert progress[-1].train_loss < 0.3 * progress[0].train_loss
    assert evaluate(model, data.part("train"), 8)["accuracy"] > 0.8
