"""Prepared data: batches hold every row once with the least padding, and files are whole, equal and reused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sherl.data import DataSpec, EncodedPart, PreparedData, prepare, prepare_with
from sherl.data.batching import evaluation_plan, training_plan
from sherl.errors import DataError, SpecError
from sherl.forms import form_of
from tests.sherl.data_samples import sentence, tiny_tokenizer, two_class_rows, write_csv, write_jsonl

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=300)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_csv(tmp_path / "reviews.csv", two_class_rows(60))


def make(
    source: Path, folder: Path, *, tokenizer: Any = None, max_length: int | None = 10, **settings: Any
) -> PreparedData:
    spec = DataSpec(train=str(source), **settings)
    return prepare_with(tokenizer or tiny_tokenizer(), spec, directory=folder, max_length=max_length)


@given(LENGTHS, st.integers(1, 40), st.integers(-5, 5), st.integers(0, 3))
def test_every_row_comes_once_an_epoch_and_no_batch_is_larger_than_the_largest(
    lengths: list[int], batch_size: int, seed: int, epoch: int
) -> None:
    array = np.array(lengths)
    rows_allowed, tokens_allowed = min(batch_size, len(array)), array.max()
    for plan in (training_plan(array, batch_size, seed=seed, epoch=epoch), evaluation_plan(array, batch_size)):
        assert sorted(np.concatenate(plan).tolist()) == list(range(len(lengths)))
        assert len(plan) == -(-len(lengths) // batch_size)
        shapes = [(len(rows), int(array[rows].max())) for rows in plan]
        assert all(rows <= rows_allowed and tokens <= tokens_allowed for rows, tokens in shapes)
        assert sum(rows < batch_size for rows, _ in shapes) <= 1
    assert (len(plan[0]), array[plan[0]].max()) == (rows_allowed, tokens_allowed)


def test_a_small_set_meets_its_largest_shape_in_every_training_epoch() -> None:
    lengths = np.arange(1, 101)
    for epoch in range(5):
        shapes = [(len(rows), lengths[rows].max()) for rows in training_plan(lengths, 16, seed=0, epoch=epoch)]
        assert (16, 100) in shapes


def test_bucketing_leaves_little_padding() -> None:
    lengths = np.random.default_rng(0).integers(1, 100, 5000)
    plan = training_plan(lengths, 32, seed=0, epoch=0)
    padded = sum(len(rows) * lengths[rows].max() for rows in plan)
    assert padded < 1.1 * lengths.sum()


def test_the_order_of_batches_follows_seed_and_epoch() -> None:
    lengths = np.random.default_rng(0).integers(1, 50, 400)

    def plan(seed: int, epoch: int) -> list[list[int]]:
        return [rows.tolist() for rows in training_plan(lengths, 8, seed=seed, epoch=epoch)]

    assert plan(1, 0) == plan(1, 0)
    assert plan(1, 0) != plan(2, 0)
    assert plan(1, 0) != plan(1, 1)
    longest = [max(lengths[rows]) for rows in plan(1, 0)]
    assert longest != sorted(longest, reverse=True)  # batches come shuffled, not from long to short


def test_batches_are_the_same_in_another_process() -> None:
    code = "import numpy as np;from sherl.data.batching import training_plan;print([r.tolist() for r in training_plan(np.arange(50)%7+1,8,seed=3,epoch=2)])"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert other.strip() == str([rows.tolist() for rows in training_plan(np.arange(50) % 7 + 1, 8, seed=3, epoch=2)])


@pytest.mark.parametrize("batch_size", [0, -1, True, 2.5])
def test_a_batch_size_that_is_none_is_refused(source: Path, tmp_path: Path, batch_size: Any) -> None:
    part = make(source, tmp_path / "prepared").part("train")
    for call in (part.num_batches, part.eval_batches, part.largest_form, part.largest_batch):
        with pytest.raises(SpecError, match="batch_size must be a whole number"):
            call(batch_size)
    with pytest.raises(SpecError, match="batch_size must be a whole number"):
        part.batches(batch_size, seed=0)


def _check_batch(batch: dict[str, torch.Tensor], part: EncodedPart, rows: list[int], tokenizer: Any) -> None:
    assert all(tensor.dtype == torch.int64 for name, tensor in batch.items() if name != "labels")
    lengths = batch["attention_mask"].sum(1)
    assert lengths.tolist() == part.lengths[rows].tolist()
    assert batch["input_ids"].shape == (len(rows), int(lengths.max()))
    for place, row in enumerate(rows):
        text = part.texts[row]
        pair = text if isinstance(text, tuple) else (text,)
        expected = tokenizer(*pair, truncation=True, max_length=10)["input_ids"]
        length = int(lengths[place])
        assert batch["input_ids"][place, :length].tolist() == expected
        assert batch["attention_mask"][place].tolist() == [1] * length + [0] * (len(batch["input_ids"][place]) - length)
        assert (batch["input_ids"][place, length:] == tokenizer.pad_token_id).all()
        assert batch["labels"][place] == part.labels[row]


@pytest.mark.parametrize("batch_size", [1, 7, 42, 1000])
def test_batches_hold_what_the_tokenizer_says_padded_to_their_longest_row(
    source: Path, tmp_path: Path, batch_size: int
) -> None:
    tokenizer = tiny_tokenizer()
    part = make(source, tmp_path / "prepared").part("train")
    seen: list[int] = []
    for batch, rows in part.eval_batches(batch_size):
        _check_batch(batch, part, rows.tolist(), tokenizer)
        seen += rows.tolist()
    assert seen == part.order.tolist()
    assert sorted(seen) == list(range(len(part)))
    count = sum(1 for _ in part.batches(batch_size, seed=0))
    assert count == part.num_batches(batch_size)
    largest = part.largest_batch(batch_size)
    assert tuple(largest["input_ids"].shape) == (min(batch_size, len(part)), part.lengths.max())
    assert part.largest_form(batch_size) == form_of(largest)


def test_labels_and_classes_belong_to_the_texts(source: Path, tmp_path: Path) -> None:
    data = make(source, tmp_path / "prepared")
    truth = dict(two_class_rows(60))
    assert data.task.class_names == ("neg", "pos")
    for name in ("train", "valid", "test"):
        part = data.part(name)
        assert [data.task.class_names[label] for label in part.labels] == [truth[str(text)] for text in part.texts]
    assert data.summary["rows"] == {"train": 42, "valid": 9, "test": 9}
    assert sum(data.summary["classes"]["train"].values()) == 42


def test_pairs_have_token_types_and_single_texts_none(source: Path, tmp_path: Path) -> None:
    rows = [{"premise": sentence(n), "hypothesis": sentence(n + 1), "label": n % 3} for n in range(30)]
    pairs = make(write_jsonl(tmp_path / "pairs.jsonl", rows), tmp_path / "pairs")
    assert pairs.task.pair
    assert pairs.has_token_types
    part = pairs.part("train")
    batch = part.batch([0, 5])
    for place, row in enumerate((0, 5)):
        expected = tiny_tokenizer()(*part.texts[row], truncation=True, max_length=10)
        assert batch["token_type_ids"][place, : part.lengths[row]].tolist() == expected["token_type_ids"]
    assert isinstance(part.texts[0], tuple)
    plain = tiny_tokenizer(token_types=False)
    assert not make(tmp_path / "pairs.jsonl", tmp_path / "plain", tokenizer=plain).has_token_types
    single = make(source, tmp_path / "single")
    assert "token_type_ids" not in single.part("train").batch([0])


def test_rows_that_are_cut_are_counted(source: Path, tmp_path: Path) -> None:
    data = make(source, tmp_path / "cut", max_length=6)
    lengths = {name: data.part(name).lengths for name in ("train", "valid", "test")}
    assert max(array.max() for array in lengths.values()) == 6
    truncated = data.summary["tokens"]["train"]["truncated"]
    assert 0 < truncated < 42
    assert any(f"{truncated} of 42 rows of train cut at 6 tokens" in note for note in data.summary["notes"])
    assert make(source, tmp_path / "whole", max_length=None).summary["tokens"]["train"]["truncated"] == 0


def test_regression_keeps_targets_and_their_statistics(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "prices.csv", [(sentence(n), 1000.5 * n) for n in range(40)], ("review", "price"))
    data = make(source, tmp_path / "prepared")
    train = data.part("train")
    assert train.labels.dtype == torch.float32
    assert data.task.kind == "regression"
    assert data.task.target_mean == pytest.approx(train.labels.double().mean().item())
    assert data.task.target_std == pytest.approx(train.labels.double().std(correction=0).item())
    assert "classes" not in data.summary


def _bytes(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def test_equal_calls_write_equal_bytes_and_the_second_reuses_the_first(source: Path, tmp_path: Path) -> None:
    make(source, tmp_path / "one", tokenizer=tiny_tokenizer())
    make(source, tmp_path / "two", tokenizer=tiny_tokenizer())
    assert _bytes(tmp_path / "one") == _bytes(tmp_path / "two")
    before = (tmp_path / "one" / "meta.json").stat().st_mtime_ns
    make(source, tmp_path / "one")
    assert (tmp_path / "one" / "meta.json").stat().st_mtime_ns == before
    assert not [entry for entry in tmp_path.iterdir() if entry.name.startswith(".")]


@pytest.mark.parametrize(
    ("change", "named"), [({"seed": 1}, "seed"), ({"max_length": 8}, "max_length"), ({"train_rows": 9}, "train_rows")]
)
def test_a_folder_of_other_settings_is_never_overwritten(
    source: Path, tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    make(source, tmp_path / "prepared")
    before = _bytes(tmp_path / "prepared")
    with pytest.raises(DataError, match=f"prepared otherwise: {named} differ"):
        make(source, tmp_path / "prepared", **change)
    write_csv(source, two_class_rows(61))
    with pytest.raises(DataError, match="content differ"):
        make(source, tmp_path / "prepared")
    assert _bytes(tmp_path / "prepared") == before


def test_a_half_written_or_damaged_folder_is_never_opened_but_made_again(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "prepared"
    make(source, folder)
    whole = _bytes(folder)
    (folder / "meta.json").unlink()
    with pytest.raises(DataError, match="not finished"):
        PreparedData.open(folder)
    make(source, folder)
    (folder / "train.safetensors").write_bytes(b"cut")
    with pytest.raises(DataError, match=r"damaged: train\.safetensors"):
        PreparedData.open(folder)
    make(source, folder)
    assert _bytes(folder) == whole
    (folder / "meta.json").write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match="cannot be read"):
        PreparedData.open(folder)
    (folder / "meta.json").write_text(json.dumps({"format_version": 99, "files": {}}), encoding="utf-8")
    with pytest.raises(DataError, match="format version 99"):
        PreparedData.open(folder)
    with pytest.raises(DataError, match="no such folder"):
        PreparedData.open(tmp_path / "nowhere")


def test_a_folder_with_other_things_in_it_is_left_alone(source: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(DataError, match=r"holds other things \(thesis.txt\)"):
        make(source, tmp_path / "mine")
    with pytest.raises(DataError, match="is a file"):
        make(source, tmp_path / "mine" / "thesis.txt")
    assert (tmp_path / "mine" / "thesis.txt").read_text(encoding="utf-8") == "years of work"


def test_a_failure_while_writing_leaves_nothing(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("sherl.data.preparation.save_part", full)
    with pytest.raises(DataError, match=r"cannot be written.*No space left"):
        make(source, tmp_path / "prepared")
    assert [entry.name for entry in tmp_path.iterdir()] == ["reviews.csv"]


def test_a_process_that_was_faster_with_other_settings_is_noticed(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(source, tmp_path / "faster", seed=1)

    def overtaken(ready: Path, target: Path, **_: Any) -> None:
        assert ready.exists()
        (tmp_path / "faster").rename(target)

    monkeypatch.setattr("sherl.data.writing.install_folder", overtaken)
    with pytest.raises(DataError, match="prepared otherwise: seed differ"):
        make(source, tmp_path / "prepared")


def test_an_unknown_part_is_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no part 'dev'; parts are train, valid, test"):
        make(source, tmp_path / "prepared").part("dev")


def test_odd_letters_survive(tmp_path: Path) -> None:
    texts = [
        "zero\u200bwidth",
        "line\u2028separator",
        "next\x85line",
        "𝔽ilm 🎬",
        "tab\tinside",
        'quote " and, comma',
        "два\nстроки",
        "é" * 9,
    ]
    source = write_csv(tmp_path / "odd.csv", [(f"{text} {n}", n % 2) for n in range(3) for text in texts])
    data = make(source, tmp_path / "prepared")
    seen = {str(text) for name in ("train", "valid", "test") for text in data.part(name).texts}
    assert seen == {f"{text} {n}" for n in range(3) for text in texts}


def test_the_real_backbone_prepares_and_bounds_the_length(source: Path, tmp_path: Path) -> None:
    spec = DataSpec(train=str(source))
    data = prepare(spec, backbone_source="all-minilm-l6-v2", directory=tmp_path / "prepared", max_length=None)
    assert data.max_length is not None
    assert data.max_length <= 512
    ids = data.part("train").batch([0])["input_ids"][0]
    assert (ids[0], ids[-1]) == (101, 102)
    assert not data.has_token_types
    with pytest.raises(SpecError, match="takes at most"):
        prepare(spec, backbone_source="all-minilm-l6-v2", directory=tmp_path / "long", max_length=513)
    with pytest.raises(SpecError, match="max_length must be a whole number of at least 5"):
        prepare(spec, backbone_source="all-minilm-l6-v2", directory=tmp_path / "short", max_length=2)
