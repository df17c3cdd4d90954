"""``autotune predict --file``: every row of a file is answered as it would be alone, in batches, into a file or a stream."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from autotune.cli.app import app
from autotune.deploy.answers import answer_rows, rows_of_file, rows_of_lines
from autotune.study import export_from_study
from sherl.errors import DataError
from tests.autotune.finished_study import finished_study
from tests.autotune.small_study import autotune
from tests.sherl.image_samples import picture
from tests.sherl.test_predictor_call import TASKS, predictor_of

TEXTS = ["good film", "", 'a very bad plot, "and" not good', "bad " * 30, "film"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("predict")
    export_from_study(finished_study(folder).path, folder / "exported")
    return folder / "exported"


def answered(kind: str, rows: Any, **options: Any) -> list[Any]:
    lines: list[str] = []
    done = answer_rows(predictor_of(kind), rows, lines.append, source="rows", **{"batch_size": 2, **options})
    answers = [json.loads(line) for line in "".join(lines).splitlines()]
    assert done == len(answers)
    return answers


def test_a_file_and_standard_input_are_answered_as_texts_are(model: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"review": text, "n": 1}) + "\n" for text in TEXTS))
    (tmp_path / "rows.txt").write_text("\n".join(TEXTS))
    expected = json.loads(autotune("predict", model, "--json", "--", *TEXTS).stdout)
    out = tmp_path / "answers.jsonl"
    done = autotune("predict", model, options={"--file": str(tmp_path / "rows.jsonl"), "--out": str(out)})
    assert (done.stdout, done.stderr) == ("", f"5 answers are in {out}.\n")
    streamed = autotune("predict", model, options={"--file": str(tmp_path / "rows.txt")}).stdout
    piped = CliRunner().invoke(app, ["predict", str(model), "--file", "-", "--batch-size", "2"], input="\n".join(TEXTS))
    assert piped.exit_code == 0, piped.output
    for told in (out.read_text(), streamed, piped.stdout):
        answers = [json.loads(line) for line in told.splitlines()]
        assert [one["label"] for one in answers] == [one["label"] for one in expected]
        for one, other in zip(answers, expected, strict=True):
            assert one["scores"] == pytest.approx(other["scores"], abs=1e-5)


def test_what_does_not_go_together_is_refused(model: Path, tmp_path: Path) -> None:
    for words in (["text", "--file", "rows.csv"], [], ["text", "--out", "x.jsonl"], ["text", "--text", "review"]):
        assert "--file" in autotune("predict", model, *words, code=2).stderr
    assert "has no columns" in autotune("predict", model, "--file", "-", "--text", "a", code=2).stderr
    assert "no such file" in autotune("predict", model, "--file", tmp_path / "none.csv", code=2).stderr
    (tmp_path / "rows.txt").write_text("good film\n")
    nowhere = {"--file": str(tmp_path / "rows.txt"), "--out": str(tmp_path / "none" / "x.jsonl")}
    assert "cannot be written" in autotune("predict", model, options=nowhere, code=2).stderr


def test_pairs_tags_and_images_have_their_rows(tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("premise,hypothesis,label\ngood film,bad plot,1\na,b,0\n")
    expected = [("good film", "bad plot"), ("a", "b")]
    assert rows_of_file(pairs, TASKS["pairs"][1]) == expected
    assert list(rows_of_lines(["good film\tbad plot\n", "a\tb"], TASKS["pairs"][1], "rows")) == expected
    with pytest.raises(DataError, match="rows line 2: a pair of texts is needed, apart by a tab; 'alone' was given"):
        list(rows_of_lines(["a\tb", "alone"], TASKS["pairs"][1], "rows"))
    tagged = tmp_path / "tagged.jsonl"
    tagged.write_text('{"tokens": ["good", "film"]}\n{"tokens": "a film"}\n')
    assert rows_of_file(tagged, TASKS["tags"][1]) == [["good", "film"], "a film"]
    assert [len(one["tags"]) for one in answered("tags", rows_of_file(tagged, TASKS["tags"][1]))] == [2, 2]
    Image.fromarray(picture(3)).save(tmp_path / "photo.png")
    (tmp_path / "photos.csv").write_text("image,label\nphoto.png,1\n")
    rows = rows_of_file(tmp_path / "photos.csv", TASKS["images"][1])
    assert rows == [str(tmp_path / "photo.png")]
    assert set(answered("images", rows)[0]) == {"label", "scores"}


def test_columns_are_named_or_obvious(tmp_path: Path) -> None:
    task = TASKS["classification"][1]
    file = tmp_path / "rows.csv"
    file.write_text("remark\ngood\n")
    assert rows_of_file(file, task) == ["good"], "the only one"
    file.write_text("remark,note\ngood,bad\n")
    with pytest.raises(DataError, match="say with --text which column to read; it has 'remark', 'note'"):
        rows_of_file(file, task)
    with pytest.raises(DataError, match="--text names the column 'nothing'"):
        rows_of_file(file, task, text="nothing")
    assert rows_of_file(file, task, text="note") == ["bad"]
    with pytest.raises(DataError, match="2 problems"):
        rows_of_file(file, TASKS["pairs"][1])
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n{"text": 3}\n{"text": null}\n')
    with pytest.raises(DataError, match=r"(?s)row 2 .*3 was given; a text is needed.*row 3 .*nothing was given"):
        rows_of_file(tmp_path / "rows.jsonl", task)


def test_rows_are_read_a_batch_at_a_time_where_they_come_one_by_one() -> None:
    """And many rows at once of a file; the answers do not depend on it."""
    read: list[int] = []
    seen: list[int] = []

    def rows() -> Any:
        for number, text in enumerate(TEXTS):
            read.append(number)
            yield text

    answer_rows(
        predictor_of("classification"), rows(), lambda _: seen.append(len(read)), source="rows", batch_size=2, soon=True
    )
    assert seen == [2, 4, 5]
    one_by_one = answered("classification", TEXTS, soon=True)
    for one, other in zip(one_by_one, answered("classification", TEXTS), strict=True):
        assert one["scores"] == pytest.approx(other["scores"], abs=1e-5)
    with pytest.raises(DataError, match="batch_size must be at least 1"):
        answered("classification", TEXTS, batch_size=0)


def test_a_row_that_cannot_be_answered_is_found_by_its_number(tmp_path: Path) -> None:
    Image.fromarray(picture(3)).save(tmp_path / "photo.png")
    rows = [str(tmp_path / name) for name in ("photo.png", "photo.png", "photo.png", "none.png")]
    with pytest.raises(DataError, match=r"(?s)rows, of rows 3 to 4 \(index 0 is row 3\).*index 1"):
        answered("images", rows, soon=True)
