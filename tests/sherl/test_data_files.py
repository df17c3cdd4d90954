"""Files of every format, well and badly made; all that is wrong is said at once, with row, column and what is allowed."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sherl.data.examples import Reading, read_examples
from sherl.data.files import FORMATS, read_file
from sherl.data.labels import ClassReader, decide_targets, ordered_classes
from sherl.data.settings import DataSpec
from sherl.data.sources import read_sources
from sherl.errors import DataError, SherlError, SpecError
from tests.sherl.data_samples import two_class_rows, write_csv, write_jsonl

ROWS = [{"text": f'a "film", of\tgood {n} é🎬', "label": "pos" if n % 2 else "neg"} for n in range(4)]


def _write(path: Path, name: str) -> Path:
    if name == "csv":
        return write_csv(path, [tuple(row.values()) for row in ROWS])
    if name == "tsv":
        quoted = ["\t".join('"' + cell.replace('"', '""') + '"' for cell in row.values()) for row in ROWS]
        path.write_text("\n".join(["text\tlabel", *quoted]), encoding="utf-8")
    elif name == "json":
        path.write_text(json.dumps({"version": 1, "data": ROWS}), encoding="utf-8")
    elif name == "jsonl":
        return write_jsonl(path, ROWS)
    elif name == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    return path


def read(path: Path | str, **settings: Any) -> Reading:
    spec = DataSpec(train=str(path), **settings)
    return read_examples(read_sources(spec), spec)


def problems_of(path: Path | str, **settings: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(path, **settings)
    return str(caught.value)


@pytest.mark.parametrize("name", list(FORMATS))
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str, ending: str) -> None:
    path = _write(tmp_path / f"Data.{name.upper()}", name)
    if ending:
        packed = tmp_path / f"packed.{name}{ending}"
        packed.write_bytes(gzip.compress(path.read_bytes()))
        path = packed
    part = read(path).parts["train"]
    assert [{"text": text, "label": label} for text, label in zip(part.texts, part.labels, strict=True)] == ROWS


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbftext,label\r\nfine,1\r\n\r\npoor,0\r\n",
        "text,label\nfine,1\npoor,0\n".encode("utf-16"),
        b"text;label\nfine;1\npoor;0",
        b"text\tlabel\nfine\t1\npoor\t0\n",
        b' text , label\nfine,1\n"poor",0\n',
    ],
)
def test_csv_as_people_and_programs_write_it(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "data.csv").write_bytes(content)
    assert read_file(tmp_path / "data.csv").columns == {"text": ["fine", "poor"], "label": ["1", "0"]}


def test_a_tsv_with_lone_quotes_keeps_every_line(tmp_path: Path) -> None:
    (tmp_path / "glue.tsv").write_text('sentence\tlabel\n"good\t1\nbad"\t0\n"very" good\t1\n', encoding="utf-8")
    assert read_file(tmp_path / "glue.tsv").columns["sentence"] == ['"good', 'bad"', '"very" good']


def test_long_documents_are_read(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "long.csv", [("word " * 60_000, "a"), ("short", "b")])
    assert len(read_file(path).columns["text"][0]) == 300_000


def test_rows_and_lines_are_named_also_after_texts_of_several_lines(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(b'text,label\n"one\ntwo",1\n,0\nsm\xf8r,1\nfour,1,1\nfive,\nsix,0\n')
    with pytest.raises(DataError) as caught:
        read_file(tmp_path / "x.csv")
    message = str(caught.value)
    assert "x.csv: 2 problems" in message
    assert r"row 3 (line 5): b'sm\xf8r' is no UTF-8" in message
    assert "row 4 (line 6): 3 cells were given, the header names 2 columns" in message
    (tmp_path / "x.csv").write_bytes(b'text,label\n"one\ntwo",1\n,0\nfive,\nsix,0\n')
    message = problems_of(tmp_path / "x.csv")
    assert "row 2 (line 4), column 'text': '' was given; a text that is not empty is needed" in message
    assert "row 3 (line 5), column 'label': '' was given; a class" in message


def test_a_file_of_another_encoding_is_one_problem(tmp_path: Path) -> None:
    rows = "".join(f"schön {number},gut\n" for number in range(50))
    (tmp_path / "x.csv").write_bytes(f"text,label\n{rows}".encode("latin-1"))
    with pytest.raises(DataError) as caught:
        read_file(tmp_path / "x.csv")
    message = str(caught.value)
    assert "x.csv: 1 problem\n" in message
    assert (
        r"row 1 (line 2): b'sch\xf6n 0' is no UTF-8, nor are cells of 49 more rows; save the file as UTF-8" in message
    )
    assert "iconv -f WINDOWS-1252 -t UTF-8" in message


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.csv", b"", "the file is empty"),
        ("a.csv", b"text,label\n", "there is no row"),
        ("a.csv", b"text,text\na,b\n", "columns must have different names, ['text']"),
        ("a.csv", b'text,label\n"open,1\nb,0\n', "the quote that opens in line 2 is never closed"),
        ("a.jsonl", b'{"text": "a"\n[1]\n{"text": "\xff"}\n', "a.jsonl: 3 problems"),
        ("a.json", b'{"text": ', "this is no JSON"),
        ("a.json", b"3", "a list of objects is needed"),
        ("a.json", b'[{"text": "a"}, 3]', "row 2: 3 was given; a JSON object is needed"),
        ("a.json", b'{"a": [1], "b": [2]}', "an object that holds one such list"),
        ("a.parquet", b"PAR1 not really", "no readable parquet file"),
        ("a.csv.gz", b"plain", "no complete gzip file"),
        ("a.xlsx", b"PK", "no known format; known are .csv, .json, .jsonl, .parquet, .tsv"),
        ("a", b"text", "no known format"),
        ("a.txt", b"text", "language-modelling and token-classification would read it"),
    ],
)
def test_files_that_cannot_be_read_say_why(tmp_path: Path, name: str, content: bytes, expected: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_file(tmp_path / name)
    assert expected in str(caught.value)


def test_a_missing_file_a_folder_and_a_wrong_name_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(DataError, match="is a folder"):
        read_file(tmp_path / "folder.csv")
    assert "there is no such file" in problems_of(tmp_path / "nowhere.csv")
    assert "no packaged set (amazon-reviews, movie-reviews" in problems_of("./nowhere")


def test_problems_of_all_parts_come_at_once(tmp_path: Path) -> None:
    train = write_jsonl(
        tmp_path / "train.jsonl",
        [
            {"text": "fine", "label": "a"},
            {"text": None, "label": "b"},
            {"text": "x"},
            {"text": ["l"], "label": "a"},
            {"text": "\ud83c", "label": "b"},
        ],
    )
    valid = write_csv(tmp_path / "valid.csv", [("good", "a"), ("bad", "c"), (" ", "B")])
    test = write_csv(tmp_path / "test.csv", [("good", "a")], ("sentence", "label"))
    message = problems_of(train, valid=str(valid), test=str(test))
    assert message.startswith("train.jsonl, valid.csv, test.csv: 8 problems\n")
    for expected in (
        "train.jsonl row 2 (line 2), column 'text': nothing was given",
        "train.jsonl row 3 (line 3), column 'label': nothing was given",
        "train.jsonl row 4 (line 4), column 'text': ['l'] was given",
        "train.jsonl row 5 (line 5), column 'text': '\\ud83c' was given; it holds half of a surrogate pair",
        "valid.csv row 2 (line 3), column 'label': 'c' was given; the training part has only the classes 'a', 'b'",
        "valid.csv row 3 (line 4), column 'text': ' ' was given",
        "valid.csv row 3 (line 4), column 'label': 'B' was given",
        "test.csv: the training part's columns 'text' are missing; it has the columns 'sentence', 'label'",
    ):
        assert expected in message


def test_many_problems_are_counted_and_all_are_kept(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "x.csv", [("", "a" if n % 2 else "b") for n in range(50)])
    with pytest.raises(DataError) as caught:
        read(path)
    assert len(caught.value.problems) == 50
    assert "50 problems" in str(caught.value)
    assert "and 30 more" in str(caught.value)


def test_unreadable_sources_of_several_parts_come_at_once(tmp_path: Path) -> None:
    message = problems_of(tmp_path / "a.csv", valid=str(tmp_path / "b.csv"))
    assert "a.csv" in message
    assert "b.csv" in message


def test_targets_that_are_no_numbers_are_each_named(tmp_path: Path) -> None:
    rows = [(f"t{n}", n / 7) for n in range(30)]
    bad = [("a", "n/a"), ("b", "nan"), ("c", "inf"), ("d", ""), ("e", "3,5"), ("f", "1e99")]
    message = problems_of(write_csv(tmp_path / "x.csv", [*rows, *bad]), task="regression")
    assert "6 problems" in message
    for place, (_, given) in enumerate(bad, start=31):
        assert f"row {place} (line {place + 1}), column 'label': {given!r} was given; a finite number" in message
    few_bad = write_csv(tmp_path / "y.csv", [*rows, ("a", "n/a")])
    assert "'n/a' was given; a finite number" in problems_of(few_bad)  # decided as values, not as 31 classes


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["3.5"] * 9, "every target is 3.5"),
        ([1.7e9 + n / 7 for n in range(9)], "cannot be told apart in float32"),
    ],
)
def test_targets_that_nothing_can_be_learnt_of(tmp_path: Path, labels: list[Any], expected: str) -> None:
    path = write_csv(tmp_path / "x.csv", [(f"t{n}", label) for n, label in enumerate(labels)])
    assert expected in problems_of(path, task="regression")


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([f"id-{n}" for n in range(40)], "40 different classes in 40 rows"),
        (range(12), "12 different classes in 12 rows"),
        (range(500), "it counts the rows from 0 to 499"),
        (["a"] * 9, "every label is 'a'; at least two classes"),
    ],
)
def test_columns_that_are_no_labels(tmp_path: Path, labels: Any, expected: str) -> None:
    path = write_csv(tmp_path / "x.csv", [(f"t{n}", label) for n, label in enumerate(labels)])
    assert expected in problems_of(path)


@pytest.mark.parametrize(
    ("labels", "targets"),
    [
        ([True, False, True], "classes"),
        (["true", "False"], "classes"),
        (["0", "1", "1", "0"], "classes"),
        ([1, 2, 3, 4, 5] * 4, "classes"),
        ([0.0, 1.0, 1.0], "classes"),
        ([0.5, 1.0, 0.5], "classes"),
        ([0.5, 1.0, 1.5, 2.0], "values"),
        (["3.25", "-1", "0.5"], "values"),
        (list(range(77)) * 10, "classes"),
        ([n * 37 for n in range(100)], "values"),
        (["spam", "ham"], "classes"),
        ([n / 3 for n in range(95)] + ["?"] * 5, "values"),
        ([], "classes"),
    ],
)
def test_what_labels_are_taken_for(labels: list[Any], targets: str) -> None:
    assert decide_targets(labels) == targets


@pytest.mark.parametrize(
    ("cells", "names"),
    [
        ([1, 0, "1", 1.0, "0.0"], ("0", "1")),
        ([True, "False", "TRUE"], ("false", "true")),
        (["10", "9", "-1"], ("-1", "9", "10")),
        (["007", "7"], ("007", "7")),
        (["1.0", "1.5"], ("1.0", "1.5")),
        ([" spam", "ham ", "True"], ("True", "ham", "spam")),
        (["b", 2, True], ("2", "b", "true")),
    ],
)
def test_class_names_are_text_in_a_sensible_order(cells: list[Any], names: tuple[str, ...]) -> None:
    reader = ClassReader(cells)
    read_names = [reader.name(cell) for cell in cells]
    assert None not in read_names
    assert ordered_classes([name for name in read_names if name is not None]) == names


def test_classes_are_one_thing_in_files_of_different_formats(tmp_path: Path) -> None:
    train = write_jsonl(tmp_path / "t.jsonl", [{"text": f"t{n}", "label": n % 2 == 0} for n in range(8)])
    valid = write_csv(tmp_path / "v.csv", [("x", "True"), ("y", "FALSE")])
    reading = read(train, valid=str(valid))
    assert reading.classes == ("false", "true")
    assert reading.parts["valid"].labels == ["true", "false"]


@pytest.mark.parametrize(
    ("header", "settings", "columns"),
    [
        (("text", "label"), {}, ("text", None, "label")),
        (("Review ", "RATING"), {}, ("Review", None, "RATING")),
        (("idx", "premise", "hypothesis", "label"), {}, ("premise", "hypothesis", "label")),
        (("sentence1", "sentence2", "score"), {}, ("sentence1", "sentence2", "score")),
        (("sentence1", "sentence2", "label"), {"text": "sentence2"}, ("sentence2", None, "label")),
        (("question", "answer", "label"), {"pair": "answer"}, ("question", "answer", "label")),
        (("headline", "sarcastic"), {}, ("headline", None, "sarcastic")),
        (("utt", "label"), {}, ("utt", None, "label")),
        (("text", "label", "rating"), {"label": "rating"}, ("text", None, "rating")),
        (("a", "b", "c"), {"text": "a", "pair": "b", "label": "c"}, ("a", "b", "c")),
    ],
)
def test_columns_are_found_or_taken_as_given(
    tmp_path: Path, header: tuple[str, ...], settings: dict[str, str], columns: tuple[str, str | None, str]
) -> None:
    rows = [[f"{n} {name}" for name in header[:-1]] + ["yes" if n % 2 else "no"] for n in range(6)]
    found = read(write_csv(tmp_path / "x.csv", rows, header), **settings).columns
    assert (found.text, found.pair, found.label) == columns


@pytest.mark.parametrize(
    ("header", "settings", "expected"),
    [
        (("text", "label", "rating"), {}, "the label may be in any of 'label', 'rating'; say which with --label"),
        (("text", "sentence", "label"), {}, "the text may be in any of 'text', 'sentence'; say which with --text"),
        (("a", "b", "c"), {}, "no column has an obvious name for the label"),
        (("text", "label"), {"label": "Label"}, "--label names the column 'Label'; it has the columns 'text', 'label'"),
        (("text", "label"), {"text": "txt", "pair": "p"}, "2 problems"),
    ],
)
def test_columns_that_are_not_clear_are_named(
    tmp_path: Path, header: tuple[str, ...], settings: dict[str, str], expected: str
) -> None:
    path = write_csv(tmp_path / "x.csv", [["1"] * len(header)] * 3, header)
    assert expected in problems_of(path, **settings)


def test_a_metric_decides_what_whole_numbers_are(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "x.csv", [(f"t{n}", n % 5) for n in range(20)])
    assert read(path).targets == "classes"
    assert read(path, metric="pearson").targets == "values"
    assert read(path, task="regression").targets == "values"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"metric": "acuracy"}, "Did you mean 'accuracy'"),
        ({"task": "regression", "metric": "f1"}, "'f1' scores classes, but the labels are values"),
        ({"task": "ranking"}, "task must be one of auto, classification, regression"),
        ({"train_rows": 0, "seed": "x"}, "train_rows must be a whole number of at least 2, 0 was given; seed"),
        ({"text": "a", "label": "a"}, "must be different columns"),
        ({"valid": "v.csv"}, "without train"),
        ({"train": " "}, "train must be a text that is not empty"),
    ],
)
def test_settings_are_checked_where_they_are_made(settings: dict[str, Any], expected: str) -> None:
    with pytest.raises(SherlError) as caught:
        DataSpec(**settings)
    assert expected in str(caught.value)


def test_settings_survive_their_dictionary_and_unknown_keys_are_refused() -> None:
    spec = DataSpec(train="a.csv", metric="f1", train_rows=10)
    assert DataSpec.from_dict(spec.to_dict()) == spec
    with pytest.raises(SpecError, match=r"'trian' \(did you mean 'train'\?\)"):
        DataSpec.from_dict({"trian": "a.csv"})


def test_a_name_with_an_extension_goes_to_its_reader_and_not_to_the_hub(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "plain.csv", two_class_rows(9))
    assert len(read(path).parts["train"]) == 9
