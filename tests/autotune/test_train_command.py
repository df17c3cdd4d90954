"""``autotune train``: all rows without a leak, killed and gone on with, refused where it does not fit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

import sherl
from autotune.cli.app import app
from autotune.errors import ConfigError, StudyError
from autotune.study.folder import StudyFolder
from autotune.study.train_settings import Changes, differences
from autotune.study.train_sources import settings_from_file, settings_from_study
from sherl.data import DataSpec, PreparedData, prepare
from tests.autotune.finished_study import finished_study
from tests.autotune.small_study import autotune, command, environment, make_inputs

SECONDS = 200.0
EPOCHS = "6"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    """Learns from 40 of its 120 rows."""
    return finished_study(tmp_path_factory.mktemp("train"), train_rows=40, valid_rows=20, test_rows=20)


def options(study: StudyFolder, out: Path) -> dict[str, str]:
    return {"--from-study": str(study.path), "--out": str(out), "--epochs": EPOCHS, "--threads": "1"}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "trainables.safetensors")


def begin(study: StudyFolder, out: Path) -> subprocess.Popen[str]:
    """The command in a process group of its own, once it has kept two epochs."""
    process = subprocess.Popen(
        command("train", "--json", options=options(study, out)), env=environment(), start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    state = out.with_name(f"{out.name}.training") / "trial" / "training.state"
    end, seen = time.monotonic() + SECONDS, set[int]()
    while len(seen) < 2:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "no epoch was kept in time"
        if state.exists():
            seen.add(state.stat().st_ino)
        time.sleep(0.002)
    return process


def finish(process: subprocess.Popen[str]) -> tuple[str, str]:
    try:
        return process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def unbroken(study: StudyFolder) -> tuple[Path, dict[str, Any]]:
    out = study.path.parent / "unbroken"
    return out, json.loads(autotune("train", "--json", options=options(study, out)).stdout)


@pytest.mark.slow
def test_an_export_of_the_best_epoch_on_all_rows(study: StudyFolder, unbroken: tuple[Path, dict[str, Any]]) -> None:
    out, told = unbroken
    assert told["rows"] == {"train": 80, "valid": 20, "test": 20}
    assert told["epochs"] == int(EPOCHS)
    assert told["interrupted"] is False
    assert set(told["test"]) == set(told["validation"])
    card = (out / "README.md").read_text()
    assert f"It is trial 0 of small, trained for {EPOCHS} epochs on 80 rows; epoch {told['best_epoch']}" in card
    assert f"| validation | accuracy | {told['validation']['accuracy']:.4f} |" in card
    assert not out.with_name("unbroken.training").exists()
    assert sherl.load(out).predict("good film")["label"] in ("neg", "pos")
    assert json.loads((out / "export.json").read_text())["outcome"]["peak"]["device"] < 3_000_000_000
    del study


@pytest.mark.slow
def test_killed_and_interrupted_it_ends_with_the_weights_of_an_unbroken_run(
    study: StudyFolder, unbroken: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    out = tmp_path / "model"
    killed = begin(study, out)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate(timeout=30)
    work = out.with_name("model.training")
    assert (work / "trial" / "training.state").exists()
    assert not out.exists()
    wrong = autotune("train", options={**options(study, out), "--epochs": "7"}, code=3)
    assert "begun with other settings" in wrong.stderr
    done = autotune("train", "--json", options=options(study, out))
    assert "going on behind epoch" in done.stderr
    told = json.loads(done.stdout)
    assert {**told, "directory": "", "device_bytes": 0} == {**unbroken[1], "directory": "", "device_bytes": 0}
    expected = weights(unbroken[0])
    for name, tensor in weights(out).items():
        assert torch.equal(tensor, expected[name]), name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]
    again = autotune("train", options=options(study, out), code=3)
    assert "holds an earlier export" in again.stderr


@pytest.mark.slow
def test_ctrl_c_ends_it_in_order_and_says_how_to_go_on(study: StudyFolder, tmp_path: Path) -> None:
    out = tmp_path / "model"
    process = begin(study, out)
    os.kill(process.pid, signal.SIGINT)
    said, errors = finish(process)
    assert process.returncode == 130, errors
    assert said == ""
    assert "the same command goes on:\n  autotune train" in errors
    assert "Traceback" not in errors
    assert (tmp_path / "model.training" / "trial" / "training.state").exists()


def test_ctrl_c_before_the_training_keeps_nothing_and_says_so(
    study: StudyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("autotune.study.train.prepared_data", interrupted)
    words = [word for pair in options(study, tmp_path / "model").items() for word in pair]
    done = CliRunner().invoke(app, ["train", *words])
    assert done.exit_code == 130
    assert "interrupted before the training began: nothing is kept of it" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_what_does_not_fit_is_refused_with_the_reason_and_leaves_nothing(study: StudyFolder, tmp_path: Path) -> None:
    tight = {**options(study, tmp_path / "model"), "--memory-cap": "20MB"}
    done = autotune("train", options=tight, code=4)
    assert "cannot be trained: its predicted peak of" in done.stderr
    assert "over the cap of 20.00 MB" in done.stderr
    assert list(tmp_path.iterdir()) == []


# ---- all rows


def test_all_rows_are_learnt_from_and_held_out_ones_stay_what_they_were(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path)
    plain = {
        "train": inputs["--train"],
        "text": "review",
        "label": "stars",
        "train_rows": 40,
        "valid_rows": 20,
        "test_rows": 20,
    }
    parts: list[PreparedData] = []
    for name, whole in (("some", False), ("all", True)):
        spec = DataSpec.from_dict({**plain, "whole_train": whole})
        parts.append(prepare(spec, backbone_source=inputs["--model"], directory=tmp_path / name, max_length=24))
    some, every = parts
    for held_out in ("valid", "test"):
        assert list(some.part(held_out).texts) == list(every.part(held_out).texts)
    assert set(some.part("train").texts) < set(every.part("train").texts)
    assert len(every.part("train")) == 80
    held = {*every.part("valid").texts, *every.part("test").texts}
    assert not held & set(every.part("train").texts)
    assert "whole_train" not in DataSpec.from_dict(plain).to_dict()  # what was prepared before is still known
    assert DataSpec.from_dict(DataSpec(whole_train=True).to_dict()).whole_train


# ---- what is trained


def test_a_trial_of_a_study_with_changes(study: StudyFolder) -> None:
    settings = settings_from_study(
        study.path, None, Changes(epochs=9, seed=4, memory_cap="1GB", data={"label": "other"})
    )
    assert settings.candidate.method["name"] == "sherl"
    assert settings.candidate.plan == {}  # chosen anew for the cap
    assert (settings.candidate.training["epochs"], settings.seed, settings.number) == (9, 4, 0)
    assert settings.config.memory_cap == 1_000_000_000
    assert settings.config.data["whole_train"] is True
    assert settings.config.data["label"] == "other"
    same = settings_from_study(study.path, 0, Changes(whole=False))
    assert "whole_train" not in same.config.data
    assert same.seed == 5
    assert differences(json.loads(json.dumps(same.to_dict())), same) == []
    assert [line.partition(" ")[0] for line in differences(same.to_dict(), settings)] == ["training", "seed", "data"]


def test_a_file_that_a_person_wrote(tmp_path: Path) -> None:
    file = tmp_path / "one.yaml"
    file.write_text(
        "method: {name: lora, rank: 4}\ntraining: {learning_rate: 1e-3, batch_size: 8}\nmodel: all-minilm-l6-v2\n"
        "data: {train: movie-reviews}\nmemory_cap: 2GB\nseed: 3\n"
    )
    settings = settings_from_file(file, None, Changes())
    assert settings.candidate.method == {"name": "lora", "rank": 4, "alpha": 16, "activation_checkpointing": False}
    assert settings.candidate.training["learning_rate"] == 1e-3
    assert (settings.seed, settings.config.memory_cap, settings.config.model) == (3, 2_000_000_000, "all-minilm-l6-v2")


def test_every_problem_of_a_file_is_told_at_once(tmp_path: Path) -> None:
    file = tmp_path / "one.json"
    file.write_text(
        json.dumps({"method": "loraa", "training": {"batch_size": 0}, "memory_cap": "much", "data": {"trian": "x"}})
    )
    with pytest.raises(ConfigError) as caught:
        settings_from_file(file, None, Changes())
    for words in ("method: ", "'lora'", "learning_rate", "data: ", "'train'", "memory_cap", "model"):
        assert words in str(caught.value), words
    file.write_text(json.dumps({"metod": "lora"}))
    with pytest.raises(ConfigError, match=r"metod: unknown; did you mean method\?"):
        settings_from_file(file, None, Changes())
    file.write_text("[1, 2]")
    with pytest.raises(ConfigError, match="must hold a mapping"):
        settings_from_file(file, None, Changes())
    with pytest.raises(ConfigError, match="is no file of settings"):
        settings_from_file(tmp_path / "none.yaml", None, Changes())


def test_a_front_leads_to_its_study_and_an_export_to_its_trial(study: StudyFolder, tmp_path: Path) -> None:
    from autotune.study import export_from_study, report_study

    report_study(study.path)
    settings = settings_from_file(study.report / "front.json", 0, Changes())
    assert settings == settings_from_study(study.path, 0, Changes())
    stray = tmp_path / "far" / "front.json"
    stray.parent.mkdir()
    stray.write_text((study.report / "front.json").read_text())
    with pytest.raises(StudyError, match="--from-study"):
        settings_from_file(stray, None, Changes())
    export_from_study(study.path, tmp_path / "model")
    with pytest.raises(ConfigError, match="data: missing"):  # it lies in a file of this machine, which no export tells
        settings_from_file(tmp_path / "model", None, Changes())
    rows = {"train": "rows.csv", "text": "review", "label": "stars"}
    settings = settings_from_file(tmp_path / "model", None, Changes(data=rows))
    assert settings.candidate.method["name"] == "sherl"
    assert settings.seed == 5
    assert settings.config.max_length == 24
    assert settings.config.memory_cap == 3_000_000_000
    with pytest.raises(ConfigError, match="--trial names a trial of a study"):
        settings_from_file(tmp_path / "model", 3, Changes(data=rows))
