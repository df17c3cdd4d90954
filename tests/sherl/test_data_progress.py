"""Preparation tells how far it is: every row or image once, up to all of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from sherl.data import DataSpec, encoding, prepare_with, tagged
from sherl.data.image_settings import ImageSettings
from sherl.data.images import prepare_images
from sherl.data.progress import counted
from tests.sherl.data_samples import two_class_rows, write_csv, write_jsonl
from tests.sherl.image_samples import write_folder
from tests.sherl.text_to_text_samples import text_tokenizer


class Told(list[tuple[str, int, int]]):
    def __call__(self, what: str, done: int, total: int) -> None:
        self.append((what, done, total))


def test_counting_adds_up() -> None:
    told = Told()
    further = counted(told, "rows", 10)
    further(4)
    further(6)
    assert told == [("rows", 4, 10), ("rows", 10, 10)]


@pytest.mark.parametrize("task", ["classification", "text-to-text", "language-modelling", "token-classification"])
def test_rows_are_told_as_they_are_tokenised(task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "ROWS_AT_ONCE", 7)
    monkeypatch.setattr(tagged, "ROWS_AT_ONCE", 7)
    if task == "token-classification":
        rows = [{"words": ["good", "film"], "tags": ["O", name]} for name in ("A", "B") for _ in range(30)]
        for place, row in enumerate(rows):
            row["words"] = [f"w{place}", *row["words"][1:]]
        source = write_jsonl(tmp_path / "rows.jsonl", rows)
    else:
        source = write_csv(tmp_path / "rows.csv", two_class_rows(60))
    told = Told()
    spec = DataSpec(train=str(source), task=task)  # type: ignore[arg-type]  # one of the tasks
    data = prepare_with(
        text_tokenizer(further=("neg", "pos")), spec, directory=tmp_path / "p", max_length=12, progress=told
    )
    rows_in_all = sum(len(data.part(part)) for part in ("train", "valid", "test"))
    assert {what for what, _, _ in told} == {"rows tokenised"}
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)
    assert told[-1] == ("rows tokenised", rows_in_all, rows_in_all)
    assert len(told) > 6, "not only when a part is done"
    told.clear()
    prepare_with(text_tokenizer(further=("neg", "pos")), spec, directory=tmp_path / "p", max_length=12, progress=told)
    assert told == [], "what is there is opened"


def test_images_are_told_as_they_are_read_and_decoded(tmp_path: Path) -> None:
    write_folder(tmp_path / "pictures", {"cat": 12, "dog": 12})
    settings = ImageSettings(size=(8, 8), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    told = Told()
    prepare_images(DataSpec(train=str(tmp_path / "pictures")), settings, directory=tmp_path / "p", progress=told)
    assert told == [(what, done, 24) for what in ("images read", "images decoded") for done in range(1, 25)]
