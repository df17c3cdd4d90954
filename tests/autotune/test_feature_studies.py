"""Whole studies whose trials read hidden states from a store: the same results, less memory, and whatever happens to the store."""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from autotune.config import StudyConfig
from autotune.features.errand import Errand, Stored
from autotune.features.worker import fill
from autotune.memory.device import cpu_device
from autotune.memory.process import ProcessMeter
from autotune.outcome import Candidate, Outcome, Status, TrialRecord
from autotune.search import StudyRecord
from autotune.space import SearchSpace
from autotune.study.features import StudyFeatures, store_features
from autotune.trial.fork_server import ForkServer
from autotune.trial.process import TrialProcess
from autotune.trial.request import Finished, TrialRequest
from sherl.backbones import Backbone, backbone_from_config, load_config
from sherl.checkpoint import load_checkpoint
from sherl.data import DataSpec, PreparedData, prepare
from sherl.evaluation import evaluate
from sherl.features import Place as HiddenPlace

from .small_study import SPACE, autotune, make_inputs

pytestmark = pytest.mark.slow


def trials(study: Path) -> list[TrialRecord]:
    with StudyRecord.open(study / "study.db") as record:
        return record.trials()


def told(trial: TrialRecord) -> dict[str, Any] | None:
    assert trial.outcome is not None
    found: dict[str, Any] | None = trial.outcome.details.get("features")
    return found


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A study with a store, and what it printed."""
    folder = tmp_path_factory.mktemp("features")
    options = {**make_inputs(folder), "--memory-cap": "2GB", "--trials": "5", "--seed": "3"}
    store = {"--study-dir": str(folder / "study"), "--features": str(folder / "store")}
    return folder / "study", autotune("run", options={**options, **store}).stdout


@pytest.fixture(scope="module")
def pairs(study: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> list[tuple[TrialRecord, Outcome]]:
    """Each trial of the study, and what becomes of it when it computes everything itself."""
    folder, settings = study[0], StudyConfig.load(study[0])
    found = []
    with ForkServer(backbone=settings.model) as server:
        for trial in trials(folder):
            realised = trial.candidate.realised
            request = TrialRequest(
                number=trial.number,
                backbone_source=settings.model,
                prepared_dir=str(folder / "prepared"),
                output_dir=str(tmp_path_factory.mktemp("without")),
                memory_cap=2 * 10**9,
                method=realised.method,
                training={**realised.training, "seed": trial.seed},
                predicted=trial.outcome.predicted if trial.outcome else None,
            )
            *_, last = TrialProcess(request, server, ProcessMeter()).events()
            assert isinstance(last, Finished)
            found.append((trial, last.outcome))
    return found


def test_trials_that_read_have_the_results_of_those_that_compute(pairs: list[tuple[TrialRecord, Outcome]]) -> None:
    assert {trial.candidate.method["name"] for trial, _ in pairs} == {"sherl", "linear_probe", "full"}
    for trial, computed in pairs:
        read = trial.outcome
        assert read is not None
        assert (read.status, computed.status) == (Status.COMPLETE, Status.COMPLETE), computed.reason
        assert [epoch.metrics for epoch in read.epochs] == [epoch.metrics for epoch in computed.epochs]
        for mine, theirs in zip(read.epochs, computed.epochs, strict=True):
            assert mine.train_loss == pytest.approx(theirs.train_loss, rel=1e-6)


def test_prediction_and_measurement_know_what_is_not_loaded(pairs: list[tuple[TrialRecord, Outcome]]) -> None:
    for trial, computed in pairs:
        assert trial.outcome is not None
        assert trial.outcome.predicted is not None
        assert trial.outcome.peak is not None
        assert computed.peak is not None
        assert trial.outcome.predicted.allocated == trial.outcome.peak.allocated
        if trial.candidate.method["name"] == "full":
            assert told(trial) is None
            assert trial.outcome.peak.allocated == computed.peak.allocated
        else:
            found = told(trial)
            assert found is not None
            assert found["read"] is True
            assert trial.outcome.peak.allocated < computed.peak.allocated


def test_a_member_of_the_front_is_scored_from_the_store_too(study: tuple[Path, str]) -> None:
    scored = [trial for trial in trials(study[0]) if trial.test_metrics is not None]
    assert scored
    for trial in scored:
        assert trial.outcome is not None
        assert trial.outcome.checkpoint is not None
        model = load_checkpoint(trial.outcome.checkpoint)  # whole, without a store
        data = PreparedData.open(study[0] / "prepared")
        assert trial.test_metrics == pytest.approx(evaluate(model, data.part("test"), 8))


def test_the_command_says_what_is_stored_and_who_does_without(study: tuple[Path, str]) -> None:
    _, printed = study
    assert "stored: 4 hidden states" in printed
    assert "as was asked for" in printed
    assert "without stored hidden states: method full trains something in all blocks" in printed


# ---- the phase alone


class Said:
    """A listener that remembers."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []
        self.phases: list[str] = []
        self.stored: list[tuple[int, int]] = []

    def progress(self, what: str, done: int, total: int) -> None:
        assert what == "rows' hidden states stored"
        self.stored.append((done, total))

    def phase(self, name: str, text: str) -> None:
        self.phases.append(f"{name}: {text}")

    def note(self, text: str) -> None:
        self.notes.append(text)

    def warning(self, text: str) -> None:
        self.warnings.append(text)


Phase = Callable[..., tuple[StudyFeatures, Said]]


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Backbone, PreparedData, SearchSpace]:
    folder = tmp_path_factory.mktemp("phase")
    options = make_inputs(folder)
    config = load_config(options["--model"])
    with torch.device("meta"):
        backbone = backbone_from_config(config)
    spec = DataSpec(train=options["--train"], text="review", label="stars")
    data = prepare(spec, backbone_source=options["--model"], directory=folder / "prepared", max_length=32)
    (folder / "s.yaml").write_text(SPACE)
    return options["--model"], backbone, data, SearchSpace.load(folder / "s.yaml", depth=3, width=32)


@pytest.fixture
def phase(material: tuple[str, Backbone, PreparedData, SearchSpace], tmp_path: Path) -> Phase:
    model, backbone, data, space = material

    # in this process, as starting one takes seconds
    def run(features: str = str(tmp_path / "store"), worker: Any = fill, **settings: Any) -> tuple[StudyFeatures, Said]:
        config = StudyConfig(**{"memory_cap": "2GB", "model": model, "features": features, **settings})
        said = Said()
        return store_features(config, backbone, data, space, cpu_device(), 1, said, worker), said  # type: ignore[arg-type]

    return run


PROBE = Candidate(method={"name": "linear_probe"}, training={"learning_rate": 1e-3, "batch_size": 8}, params={})
FULL = Candidate(method={"name": "full"}, training={"learning_rate": 1e-3, "batch_size": 8}, params={})


def test_a_second_study_finds_what_the_first_has_stored(phase: Phase) -> None:
    first, said = phase()
    with first:
        shared = first.of(PROBE)
        assert shared is not None
        assert [tuple(place) for place in shared.places] == [("blocks", 3)]
        assert first.of(FULL) is None
        assert not said.warnings
        assert len({total for _, total in said.stored}) == 1
        assert said.stored[-1][0] == said.stored[-1][1], "told up to the last row"
    files = {path: path.stat().st_ino for path in Path(shared.root).rglob("*.bin")}
    with phase()[0] as second:
        assert second.of(PROBE) == shared
    assert {path: path.stat().st_ino for path in Path(shared.root).rglob("*.bin")} == files


def test_a_damaged_file_is_found_said_and_stored_anew(phase: Phase) -> None:
    with phase()[0] as first:
        shared = first.of(PROBE)
    assert shared is not None
    damaged = next(iter(sorted(Path(shared.root).rglob("train.blocks.3.*.bin"))))
    content = bytearray(damaged.read_bytes())
    content[100] ^= 255
    damaged.write_bytes(content)
    again, said = phase()
    with again:
        assert any("damaged row" in note for note in said.notes)
        assert again.of(PROBE) == shared
        notes: list[str] = []
        assert shared.readers(("train",), notes) is not None


def test_a_store_that_goes_away_under_a_trial_is_said_by_it(phase: Phase) -> None:
    with phase()[0] as made:
        shared = made.of(PROBE)
        assert shared is not None
        shutil.rmtree(shared.root)
        notes: list[str] = []
        assert shared.readers(("train", "valid"), notes) is None
        assert "holds no hidden states" in notes[-1]


def test_a_sort_of_trials_that_computes_faster_does_not_read_what_others_have_stored(phase: Phase) -> None:
    def filled(errand: Errand, say: Callable[[dict[str, Any]], None]) -> Stored:
        stored = replace(fill(errand, say), slower=((HiddenPlace("blocks", 3),),))
        return Stored.from_dict(json.loads(json.dumps(asdict(stored))))

    with phase(worker=filled)[0] as made:
        assert made.of(PROBE) is None
    with phase()[0] as made:
        assert made.of(PROBE) is not None


def test_what_is_gone_is_read_by_no_later_trial(phase: Phase) -> None:
    with phase()[0] as made:
        shared = made.of(PROBE)
        assert shared is not None
        assert not made.lost(PROBE), "it lies there still"
        assert not made.lost(FULL), "it reads nothing"
        assert made.of(PROBE) == shared
        shutil.rmtree(shared.root)
        assert made.lost(PROBE)
        assert made.of(PROBE) is None
        assert not made.lost(PROBE), "that is known by now"


def test_storing_has_half_of_the_time_that_is_left(
    material: tuple[str, Backbone, PreparedData, SearchSpace], tmp_path: Path
) -> None:
    model, backbone, data, space = material
    config, said = StudyConfig(memory_cap="2GB", model=model, features=str(tmp_path / "store")), Said()
    deadline = time.monotonic() + 0.2
    with store_features(config, backbone, data, space, cpu_device(), 1, said, deadline=deadline) as made:  # type: ignore[arg-type]
        assert made.of(PROBE) is None
    assert "half of what was left of the time budget" in said.warnings[0]


def test_a_process_that_fails_is_said_and_the_study_goes_on(phase: Phase, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    made, said = phase(features=str(tmp_path / "file"), worker=None)  # the real process
    assert made.of(PROBE) is None
    assert "every trial computes its own" in said.warnings[0]
    assert "cannot be stored under" in said.warnings[0]
    made, said = phase(worker=lambda *_: "it was ended by signal 9")
    assert made.of(PROBE) is None
    assert "signal 9" in said.warnings[0]


def test_a_process_that_goes_over_the_cap_is_ended_and_said(phase: Phase) -> None:
    made, said = phase(worker=None, memory_cap="100MB")  # less than its imports take
    assert made.of(PROBE) is None
    assert "The process that computes them held" in said.warnings[0]
    assert "over the cap of 100.00 MB" in said.warnings[0]


CLOSED = """
import errno, os
real = os.open
def opened(path, flags, *arguments, **options):
    if {root!r} in str(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    return real(path, flags, *arguments, **options)
os.open = opened
"""


def test_a_folder_that_is_closed_to_the_process_is_said(
    phase: Phase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "closed_folder.py").write_text(CLOSED.format(root=str(tmp_path / "store")))
    monkeypatch.syspath_prepend(tmp_path)
    made, said = phase(worker=None, plugins=("closed_folder",))  # imported by that process alone
    assert made.of(PROBE) is None
    assert "every trial computes its own" in said.warnings[0]
    assert "Permission denied" in said.warnings[0]


def test_a_file_that_is_closed_to_the_study_is_said(phase: Phase, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def filled(errand: Errand, say: Callable[[dict[str, Any]], None]) -> Stored:
        stored = fill(errand, say)

        def opened(path: Any, *arguments: Any, **options: Any) -> int:
            if "valid.blocks.3" in str(path):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return real(path, *arguments, **options)

        monkeypatch.setattr(os, "open", opened)
        return stored

    made, said = phase(worker=filled)
    assert made.of(PROBE) is None
    assert "cannot be read (Permission denied)" in said.warnings[0]
    assert "every trial computes its own hidden states" in said.warnings[1]


def test_too_small_a_budget_stores_some_or_nothing(phase: Phase) -> None:
    made, said = phase(features_budget="1kB")
    assert made.of(PROBE) is None
    assert any("there is room for" in note for note in said.notes)


def test_a_study_that_computes_little_is_not_even_measured(phase: Phase) -> None:
    def never(*_: Any) -> Stored | str:
        raise AssertionError("the process was started")

    made, said = phase(features="auto", worker=never)
    assert made.of(PROBE) is None
    assert "takes no more than" in said.notes[-1]
    assert phase(features="off", worker=never)[1].notes == []


def test_the_rule_is_asked_where_a_person_leaves_it_to_it(
    phase: Phase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOTUNE_CACHE", str(tmp_path / "cache"))
    made, said = phase(features="auto", trials=2_000_000, worker=None)
    shared = made.of(PROBE)
    assert shared is not None, said.notes
    assert Path(shared.root) == tmp_path / "cache" / "features"
    assert any("are saved, the" in note for note in said.notes)
