"""Language modelling data: rows and streams of tokens, which are their own labels."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from sherl.data import DataSpec, PreparedData, prepare_with
from sherl.errors import DataError, SpecError
from tests.sherl.data_samples import sentence, write_csv, write_jsonl
from tests.sherl.text_to_text_samples import END, text_tokenizer

LINES = [sentence(n).rpartition(" ")[0] + (" film2" if n % 2 else "") for n in range(60)]
PARTS = ("train", "valid", "test")


def make(
    source: Path, folder: Path, *, style: str = "decoder", max_length: int | None = 8, **settings: Any
) -> PreparedData:
    spec = DataSpec(train=str(source), task="language-modelling", **settings)
    return prepare_with(text_tokenizer(style), spec, directory=folder, max_length=max_length)


def _text_file(path: Path) -> Path:
    content = ("\n".join(LINES) + "\n").encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.csv", "a.jsonl"])
@pytest.mark.parametrize("style", ["decoder", "t5"])
def test_a_rows_labels_are_its_tokens(tmp_path: Path, name: str, style: str) -> None:
    path = tmp_path / name
    if name == "a.csv":
        write_csv(path, [(line,) for line in LINES], ("text",))
    elif name == "a.jsonl":
        write_jsonl(path, [{"text": line, "n": n} for n, line in enumerate(LINES)])
    else:
        _text_file(path)
    data = make(path, tmp_path / "p", style=style)
    assert (data.task.kind, data.task.metric) == ("language-modelling", "neg_perplexity")
    tokenizer, seen = text_tokenizer(style), 0
    for part_name in PARTS:
        part = data.part(part_name)
        for batch, rows in part.eval_batches(7):
            counts = batch["attention_mask"].bool()
            assert batch["labels"].shape == batch["input_ids"].shape
            assert bool((batch["labels"][~counts] == -100).all())
            assert bool((batch["labels"][counts] == batch["input_ids"][counts]).all())
            for place, row in enumerate(rows.tolist()):
                expected = [*tokenizer(part.texts[row], add_special_tokens=False)["input_ids"], END]
                ids = batch["labels"][place][counts[place]].tolist()
                if len(expected) <= 8:
                    assert ids == expected
                else:
                    assert len(ids) == 8
                    assert ids[:7] == expected[:7]
                seen += 1
        assert part.largest_batch(4)["labels"].shape == (min(4, len(part)), part.lengths.max())
    assert seen == len({*LINES}) or seen == 60
    assert any("cut at 8 tokens" in note for note in data.summary["notes"])


def test_a_stream_holds_every_token_once_in_blocks(tmp_path: Path) -> None:
    data = make(_text_file(tmp_path / "a.txt"), tmp_path / "p", unit="stream")
    tokenizer = text_tokenizer("decoder")
    whole = [*tokenizer("\n".join(LINES))["input_ids"], END]
    ids: list[int] = []
    for name in PARTS:
        part = data.part(name)
        batch = part.batch(range(len(part)))
        for row, mask in zip(batch["input_ids"].tolist(), batch["attention_mask"].sum(1).tolist(), strict=True):
            ids += row[:mask]
        assert part.lengths.tolist()[:-1] == [8] * (len(part) - 1)
    assert ids == whole[: len(ids)]  # the parts follow one another
    assert len(whole) - len(ids) <= 1
    assert len(data.part("train")) > len(data.part("valid")) >= 2


def test_documents_of_a_stream_are_kept_apart_by_an_end_token(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": line} for line in LINES])
    data = make(path, tmp_path / "p", unit="stream", valid_rows=3, test_rows=4)
    assert (len(data.part("valid")), len(data.part("test"))) == (3, 4)
    ids = data.part("train").batch(range(len(data.part("train"))))["input_ids"].flatten().tolist()
    tokenizer = text_tokenizer("decoder")
    first = tokenizer(LINES[0])["input_ids"]
    assert ids[: len(first) + 1] == [*first, END]
    assert data.part("train").texts[0] == tokenizer.decode(ids[:8])


def test_given_parts_of_a_stream_stay(tmp_path: Path) -> None:
    train = _text_file(tmp_path / "a.txt")
    (tmp_path / "v.txt").write_text("very good film " * 10, encoding="utf-8")
    data = make(train, tmp_path / "p", unit="stream", valid=str(tmp_path / "v.txt"))
    part = data.part("valid")
    assert part.lengths.tolist() == [8, 8, 8, 7]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"label": "text"}, "only the text is read"),
        ({"metric": "accuracy"}, "for these choose one of neg_perplexity, neg_loss, next_token_accuracy"),
        ({"unit": "page"}, "unit must be row or stream"),
        ({"unit": "stream", "max_length": None}, "give max_length"),
        ({"unit": "stream", "max_length": 600}, "too few"),
        ({"text": "body"}, "--text names the column 'body'"),
    ],
)
def test_what_cannot_be_is_said(tmp_path: Path, settings: dict[str, Any], expected: str) -> None:
    with pytest.raises((DataError, SpecError), match=expected):
        make(_text_file(tmp_path / "a.txt"), tmp_path / "p", **settings)


def test_empty_and_unreadable_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\n \n")
    with pytest.raises(DataError, match="no text in it"):
        make(tmp_path / "a.txt", tmp_path / "p")
    (tmp_path / "a.txt").write_bytes(b"sm\xf8r\n")
    with pytest.raises(DataError, match="cannot be read"):
        make(tmp_path / "a.txt", tmp_path / "p")
    with pytest.raises(DataError, match="there is no such file"):
        make(tmp_path / "b.txt", tmp_path / "p")


def test_rows_of_one_token_are_left_out_and_counted(tmp_path: Path) -> None:
    tokenizer = text_tokenizer("decoder")
    tokenizer.eos_token = None
    (tmp_path / "a.txt").write_text("\n".join([*LINES, "good", "bad"]), encoding="utf-8")
    spec = DataSpec(train=str(tmp_path / "a.txt"), task="language-modelling")
    data = prepare_with(tokenizer, spec, directory=tmp_path / "p", max_length=8)
    notes = [note for note in data.summary["notes"] if "have one token" in note]
    assert notes
    assert all(min(data.part(part).lengths) >= 2 for part in PARTS)
