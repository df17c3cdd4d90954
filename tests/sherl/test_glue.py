"""GLUE by the protocol: prompts, targets, metrics and splits of all eight tasks, from files and from the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest

from sherl.data import DataSpec, PreparedData, hub, prepare_with
from sherl.data.glue import GLUE
from sherl.data.sources import read_settled
from sherl.errors import DataError, UnknownNameError
from sherl.tasks import task_for
from tests.sherl.data_samples import tiny_tokenizer
from tests.sherl.glue_samples import HEADERS, line, words, write_glue
from tests.sherl.text_to_text_samples import text_tokenizer

PUBLISHED = {
    # prompt, classes, metric, small set, epochs
    "cola": ("cola sentence: {text}", 2, "matthews", True, 20),
    "sst2": ("sst2 sentence: {text}", 2, "accuracy", False, 10),
    "mrpc": ("mrpc sentence1: {text} sentence2: {pair}", 2, "accuracy_f1", True, 20),
    "qqp": ("qqp question1: {text} question2: {pair}", 2, "accuracy_f1", False, 10),
    "stsb": ("stsb sentence1: {text} sentence2: {pair}", 26, "pearson_spearman", True, 20),
    "mnli": ("mnli premise: {text} hypothesis: {pair}", 3, "accuracy", False, 10),
    "qnli": ("qnli question: {text} sentence: {pair}", 2, "accuracy", False, 10),
    "rte": ("rte sentence1: {text} sentence2: {pair}", 2, "accuracy", True, 20),
}
RATINGS = [f"{n / 5:.1f}" for n in range(26)]
every_task = pytest.mark.parametrize("name", list(PUBLISHED))


def make(folder: Path, name: str, out: Path, **settings: Any) -> PreparedData:
    spec = DataSpec(train=f"glue:{name}@{folder}", **settings)
    tokenizer = text_tokenizer(further=RATINGS) if settings.get("task") == "text-to-text" else tiny_tokenizer()
    return prepare_with(tokenizer, spec, directory=out, max_length=32)


def test_these_are_the_eight_tasks() -> None:
    assert set(GLUE.names()) == set(PUBLISHED)


@every_task
def test_prompt_targets_metric_and_epochs(name: str, tmp_path: Path) -> None:
    template, classes, metric, small, epochs = PUBLISHED[name]
    folder = write_glue(tmp_path, name, train=80, dev=60)
    spec, _ = read_settled(DataSpec(train=f"glue:{name}@{folder}", task="text-to-text"))
    assert (spec.template, spec.metric) == (template, metric)
    row = GLUE.get(name)
    assert (row.small, row.epochs) == (small, epochs)
    _, sources = read_settled(spec.from_dict({"train": spec.train, "task": "text-to-text"}))
    targets = {cell for table in sources.tables.values() for cell in table.columns["label"]}
    expected = set(RATINGS) if name == "stsb" else {str(n) for n in range(classes)}
    assert targets == expected


@every_task
def test_validation_is_halved_or_becomes_the_test_part(name: str, tmp_path: Path) -> None:
    folder = write_glue(tmp_path, name, train=1300 if not PUBLISHED[name][3] else 60, dev=41)
    data = make(folder, name, tmp_path / "p", task="classification" if name != "stsb" else "regression")
    dev = {words(1000 + n) for n in range(60, 60 + 41)}
    rows = data.summary["rows"]
    firsts = {p: {t if isinstance(t, str) else t[0] for t in data.part(p).texts} for p in ("train", "valid", "test")}
    if PUBLISHED[name][3]:
        assert rows == {"train": 60, "valid": 20, "test": 21}
        assert firsts["valid"] | firsts["test"] == dev
        assert not firsts["valid"] & firsts["test"]
    else:
        assert rows == {"train": 300, "valid": 1000, "test": 41}
        assert firsts["test"] == {words(1000 + n) for n in range(1300, 1341)}
        assert firsts["train"] | firsts["valid"] == {words(1000 + n) for n in range(1300)}
    assert data.summary["name"] == f"glue:{name}"


def test_the_halves_follow_the_seed(tmp_path: Path) -> None:
    folder = write_glue(tmp_path, "rte")
    valid = [set(make(folder, "rte", tmp_path / str(k), seed=k).part("valid").texts) for k in (0, 1)]
    again = set(make(folder, "rte", tmp_path / "again", seed=0).part("valid").texts)
    assert valid[0] == again != valid[1]


@every_task
def test_rows_are_prepared_as_text_to_text(name: str, tmp_path: Path) -> None:
    data = make(write_glue(tmp_path, name), name, tmp_path / "p", task="text-to-text", valid_rows=10)
    task = task_for(data.task)
    assert task.targets == ("values" if name == "stsb" else "classes")
    assert data.task.template == PUBLISHED[name][0]
    batch = data.part("valid").largest_batch(4)
    scores = task.metrics(batch["labels"], batch["labels"])
    assert scores[PUBLISHED[name][2]] == pytest.approx(1.0)


def test_as_plain_classification_and_regression(tmp_path: Path) -> None:
    data = make(write_glue(tmp_path, "mnli"), "mnli", tmp_path / "p", valid_rows=10)
    assert data.task.kind == "classification"
    assert data.task.class_names == ("entailment", "neutral", "contradiction")
    assert data.task.pair
    ratings = make(write_glue(tmp_path, "stsb"), "stsb", tmp_path / "q")
    assert ratings.task.kind == "regression"
    assert 5.0 >= float(ratings.part("train").labels.max()) > 4.8  # as they are, not rounded


def test_quotes_are_letters_and_gaps_are_counted(tmp_path: Path) -> None:
    folder = write_glue(tmp_path, "qqp")
    path = folder / "QQP" / "train.tsv"
    path.write_text(path.read_text() + "7\t1\t1\tgood\n8\t1\t1\t\tfilm\t0\n", encoding="utf-8")
    data = make(folder, "qqp", tmp_path / "p", valid_rows=10)
    assert any(note.startswith("2 rows of train.tsv lack a text or a label") for note in data.summary["notes"])
    texts = [text[0] for text in data.part("train").texts]
    assert sum(text.startswith('"') for text in texts) > 3


def test_mnli_rows_without_a_majority_are_left_out(tmp_path: Path) -> None:
    folder = write_glue(tmp_path, "mnli")
    path = folder / "MNLI" / "dev_matched.tsv"
    path.write_text(path.read_text() + line("mnli", 900).rpartition("\t")[0] + "\t-\n", encoding="utf-8")
    assert make(folder, "mnli", tmp_path / "p", valid_rows=10).summary["rows"]["test"] == 40


def test_mrpc_as_it_is_downloaded(tmp_path: Path) -> None:
    (tmp_path / "MRPC").mkdir()
    lines = "\n".join([HEADERS["mrpc"], *(line("mrpc", n) for n in range(60))])
    (tmp_path / "MRPC" / "msr_paraphrase_train.txt").write_text("\ufeff" + lines, encoding="utf-8")
    ids = "\n".join(f"{n}\t{n + 5000}" for n in range(40, 60))
    (tmp_path / "MRPC" / "dev_ids.tsv").write_text(ids, encoding="utf-8")
    data = make(tmp_path, "mrpc", tmp_path / "p")
    assert data.summary["rows"] == {"train": 40, "valid": 10, "test": 10}
    held = {text[0] for part in ("valid", "test") for text in data.part(part).texts}
    assert held == {words(1000 + n) for n in range(40, 60)}


def test_the_folder_of_one_task_will_do(tmp_path: Path) -> None:
    folder = write_glue(tmp_path, "rte") / "RTE"
    assert make(folder, "rte", tmp_path / "p").summary["rows"]["train"] == 60


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("rte", {}, r"dev\.tsv is missing.*Needed are .*train\.tsv.*download, which holds RTE/"),
        ("mrpc", {}, r"or msr_paraphrase_train\.txt and dev_ids\.tsv in that folder"),
        ("mnli", {}, r"dev_matched\.tsv"),
        ("rte", {"valid": "v.csv"}, "leave out --valid"),
        ("rte", {"text": "sentence1"}, "leave out --text"),
        ("rte", {"task": "regression"}, "text-to-text or classification; regression was given"),
    ],
)
def test_what_is_not_there_is_named(name: str, settings: dict[str, Any], expected: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=expected):
        make(tmp_path, name, tmp_path / "p", **settings)


def test_wrong_names_and_wrong_cells(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'rte'"):
        read_settled(DataSpec(train="glue:rta"))
    with pytest.raises(DataError, match="no folder stands behind '@'"):
        read_settled(DataSpec(train="glue:rte@"))
    folder = write_glue(tmp_path, "rte")
    path = folder / "RTE" / "train.tsv"
    path.write_text(path.read_text() + "7\tgood\n", encoding="utf-8")
    with pytest.raises(DataError, match="line 62: 2 cells were given, 4 are expected"):
        make(folder, "rte", tmp_path / "p")
    path.write_text(path.read_text().replace("7\tgood\n", "7\tgood\tfilm\tperhaps\n"), encoding="utf-8")
    with pytest.raises(DataError, match=r"line 62.*'perhaps' was given; allowed are entailment, not_entailment"):
        make(folder, "rte", tmp_path / "p")


def test_the_hubs_data_set_gives_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = list(GLUE.get("rte").class_names)
    features = datasets.Features(
        {
            "sentence1": datasets.Value("string"),
            "sentence2": datasets.Value("string"),
            "label": datasets.ClassLabel(names=names),
            "idx": datasets.Value("int32"),
        }
    )

    def split(numbers: range, hidden: bool = False) -> datasets.Dataset:
        cells = [line("rte", n).split("\t") for n in numbers]
        columns = {
            "sentence1": [c[1] for c in cells],
            "sentence2": [c[2] for c in cells],
            "label": [-1 if hidden else names.index(c[3]) for c in cells],
            "idx": list(numbers),
        }
        return datasets.Dataset.from_dict(columns, features=features)

    asked: list[tuple[Any, ...]] = []
    loaded = {"train": split(range(60)), "validation": split(range(60, 100)), "test": split(range(9), hidden=True)}
    monkeypatch.setattr(datasets, "load_dataset", lambda *args: (asked.append(args), datasets.DatasetDict(loaded))[1])
    monkeypatch.setattr(hub, "hub_reachable", lambda: True)
    spec = DataSpec(train="glue:rte", task="text-to-text")
    of_hub = prepare_with(text_tokenizer(further=RATINGS), spec, directory=tmp_path / "hub", max_length=32)
    assert asked == [("nyu-mll/glue", "rte")]
    of_files = make(write_glue(tmp_path / "files", "rte"), "rte", tmp_path / "p", task="text-to-text")
    for part in ("train", "valid", "test"):
        assert of_hub.part(part).texts == of_files.part(part).texts
        assert of_hub.part(part).labels.tolist() == of_files.part(part).labels.tolist()
