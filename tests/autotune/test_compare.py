"""Comparing studies: who is better at which memory, what may be compared at all, and the files of it."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from autotune.cli.app import app
from autotune.config import StudyConfig
from autotune.errors import StudyError
from autotune.outcome import MemoryFigures
from autotune.report.compare import Compared, compare
from autotune.report.comparison_files import comparison_chart, write_comparison
from autotune.report.front import hypervolume
from autotune.search import StudyRecord
from autotune.study import compare_studies
from sherl.data.prepared import FORMAT_VERSION
from tests.autotune._records import point
from tests.autotune.search_samples import candidate, complete
from tests.autotune.test_report_page import EVIL, Reader, loads

A = Compared(name="a", model="minilm", points=(point(0, 0.7, 100), point(1, 0.8, 300), point(2, 0.6, 400)))
B = Compared(name="b", model="mpnet", points=(point(0, 0.75, 200), point(1, 0.8, 300)))


def make_study(folder: Path, metrics: list[float], **prepared: Any) -> Path:
    """A finished study as it lies in a folder, without its models."""
    (folder / "prepared").mkdir(parents=True)
    config = StudyConfig.parse(
        {
            "memory_cap": 8 * 10**9,
            "model": prepared.pop("model", "all-minilm-l6-v2"),
            "study_dir": str(folder),
            "name": folder.name,
        }
    )
    config.save(folder / StudyConfig.FILE_NAME)
    metric, meter = prepared.pop("metric", "accuracy"), prepared.pop("meter", "process private bytes")
    task = {"kind": "classification", "class_names": ["no", "yes"], "metric": metric} | prepared.pop("task", {})
    columns = prepared.pop("columns", {})
    key = {"content": {"train": "one"}, "data": {"seed": 0}, "tokenizer": str(folder), "max_length": 64} | prepared
    meta = {
        "format_version": FORMAT_VERSION, "files": {}, "key": key, "summary": {"columns": columns}, "parts": [],
        "task": task,
    }  # fmt: skip
    (folder / "prepared" / "meta.json").write_text(json.dumps(meta))
    with StudyRecord.create(folder / "study.db", "study", settings={}) as record:
        for index, value in enumerate(metrics):
            number = record.start(candidate(1e-3 * (index + 1)), seed=0)
            peak = MemoryFigures(allocated=10**8 * (index + 1), device=10**9, meter=meter)
            record.finish(number, complete(value, peak=peak))
    return folder


def test_who_is_better_at_which_memory() -> None:
    found = compare([A, B], metric_name="accuracy")
    assert [(s.least, s.metric, s.studies) for s in found.better] == [
        (100, 0.7, ("a",)),
        (200, 0.75, ("b",)),
        (300, 0.8, ("a", "b")),
    ]
    assert found.sentences == [
        "From 100 B of tensors to 200 B, a is best: accuracy 0.7000.",
        "From 200 B of tensors to 300 B, b is best: accuracy 0.7500.",
        "From 300 B of tensors on, a and b are level: accuracy 0.8000.",
    ]


def test_hypervolumes_have_one_reference() -> None:
    found = compare([A, B], metric_name="accuracy")
    assert found.reference is not None
    assert found.reference == pytest.approx((0.69, 404))  # a tenth of the fronts' height below their worst member
    assert found.hypervolumes == {study.name: hypervolume(study.points, found.reference) for study in (A, B)}
    assert found.hypervolumes["a"] == pytest.approx(0.01 * 304 + 0.1 * 104)


def test_the_figure_has_a_line_and_every_member_of_each_study() -> None:
    scene = comparison_chart(compare([A, B], metric_name="accuracy")).scene
    assert [mark.hint for mark in scene.marks("study")] == ["a", "b"]
    assert [(mark.x, mark.y) for mark in scene.marks("member")] == [(0.1, 0.7), (0.3, 0.8), (0.2, 0.75), (0.3, 0.8)]
    forms = {mark.hint.splitlines()[0]: type(mark.shapes[0]).__name__ for mark in scene.marks("member")}
    assert forms == {"a": "Circle", "b": "Line"}  # not by colour alone
    assert "a (minilm)" in scene.words


def test_studies_without_a_front_are_compared_too(tmp_path: Path) -> None:
    found = compare([Compared(name="x", model="", points=()), Compared(name="y", model="", points=())], metric_name="m")
    assert found.sentences == ["No study has a front yet."]
    assert all(path.stat().st_size for path in write_comparison(tmp_path, found).all())


def test_files_hold_names_as_text_and_load_nothing(tmp_path: Path) -> None:
    evil = Compared(name=EVIL, model=EVIL, points=(point(0, 0.7, 100, label=EVIL),))
    paths = write_comparison(tmp_path, compare([evil, B], metric_name="accuracy", warnings=[EVIL]))
    text = paths.html.read_text(encoding="utf-8")
    assert Reader(text).tags["script"] == 1
    assert loads(text) == []
    with paths.csv.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["study"], row["number"]) for row in rows] == [(EVIL, "0"), ("b", "0"), ("b", "1")]
    assert json.loads(paths.json.read_text())["studies"][1]["hypervolume"] >= 0


def test_studies_of_different_models_are_compared(tmp_path: Path) -> None:
    one = make_study(tmp_path / "one", [0.7, 0.8])
    other = make_study(tmp_path / "other", [0.75], model="bert", max_length=128, meter="nvml, this process")
    found, paths = compare_studies([one, other], tmp_path / "out")
    assert [(study.name, study.model, len(study.points)) for study in found.studies] == [
        ("one", "all-minilm-l6-v2", 2),
        ("other", "bert", 1),
    ]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {path.name for path in paths.all()}
    assert "cut at different numbers of tokens: one at 64, other at 128" in found.warnings[0]
    assert "measured differently" in found.warnings[1]


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"metric": "matthews"}, "different metrics"),
        ({"content": {"train": "two"}}, "train one and two"),
        ({"data": {"seed": 1}}, "data: seed 0 and 1"),
        ({"data": {"seed": 0, "train_rows": 50}}, "train_rows None and 50"),
        ({"data": {"seed": 0, "unit": "stream"}}, "unit row and stream"),
        ({"data": {"seed": 0, "label": "price"}}, "columns: label stars and price"),
        ({"data": {"seed": 0}, "columns": {"label": "price"}}, "columns: label stars and price"),
        ({"task": {"class_names": ["a", "b"]}}, "class_names"),
        ({"task": {"kind": "regression", "class_names": []}}, "kind classification and regression"),
    ],
)
def test_other_metrics_and_other_rows_are_refused(tmp_path: Path, other: dict[str, Any], words: str) -> None:
    known = {"data": {"seed": 0, "label": "stars"}}
    folders = [make_study(tmp_path / "one", [0.7], **known), make_study(tmp_path / "other", [0.7], **other)]
    with pytest.raises(StudyError, match=words):
        compare_studies(folders, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "data",
    [
        {"seed": 0, "metric": "accuracy"},  # the default one, by name
        {"seed": 0, "task": "classification"},  # what auto finds
        {"seed": 0, "label": "stars"},  # what is found by its name
        {"seed": 0, "image_size": 64, "template": "a review: {text}"},  # how a model reads a row
        {"seed": 0, "train_rows": None, "unit": "row", "whole_train": False, "pair": None},
        {},  # prepared before there was any of them
    ],
)
def test_equal_rows_are_compared_however_they_were_asked_for(tmp_path: Path, data: dict[str, Any]) -> None:
    folders = [make_study(tmp_path / "one", [0.7]), make_study(tmp_path / "other", [0.8], data=data)]
    found, _ = compare_studies(folders, tmp_path / "out")
    assert found.warnings == ()


def test_images_of_different_sizes_are_compared_with_a_warning(tmp_path: Path) -> None:
    tasks = [{"image_size": [size, size]} for size in (64, 96)]
    folders = [make_study(tmp_path / str(n), [0.7], task=task) for n, task in enumerate(tasks)]
    found, _ = compare_studies(folders, tmp_path / "out")
    assert found.warnings == (
        "The images are the same but were read at different sizes: 0 at 64 x 64, 1 at 96 x 96 pixels.",
    )


def test_too_few_studies_and_one_twice_are_refused(tmp_path: Path) -> None:
    one = make_study(tmp_path / "one", [0.7])
    with pytest.raises(StudyError, match="two or more"):
        compare_studies([one], tmp_path / "out")
    with pytest.raises(StudyError, match="named twice"):
        compare_studies([one, tmp_path / "one" / ".." / "one"], tmp_path / "out")


def test_the_command(tmp_path: Path) -> None:
    folders = [str(make_study(tmp_path / name, [0.7, 0.8])) for name in ("one", "other")]
    arguments = ["report", "--compare", *folders, "--out", str(tmp_path / "out")]
    told = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert [study["name"] for study in told["studies"]] == ["one", "other"]
    assert all(Path(file).is_file() for file in told["files"])
    printed = CliRunner().invoke(app, arguments).stdout
    assert "one and other are level" in printed
    assert "validation accuracy over peak of tensor bytes" in printed
    assert "100.0%" in printed


@pytest.mark.parametrize("arguments", [["one", "two"], ["--out", "somewhere"]])
def test_the_command_says_what_goes_with_compare(arguments: list[str]) -> None:
    result = CliRunner().invoke(app, ["report", *arguments])
    assert result.exit_code != 0
    assert "--compare" in str(result.exception)


def test_the_report_of_one_study_is_printed_with_a_plot(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "one", [0.7, 0.8])
    printed = CliRunner().invoke(app, ["report", str(folder)]).stdout
    assert "Accuracy-memory front" in printed
    assert "validation accuracy over peak of tensor bytes (MB)" in printed
    assert "report.html" in printed
    told = json.loads(CliRunner().invoke(app, ["report", "--study-dir", str(folder), "--json"]).stdout)
    assert len(told["front"]) == 2
    hint = (folder / "report" / "figures" / "hypervolume.html").read_text()
    assert "after 0." in hint  # seconds since the study began, from the record
