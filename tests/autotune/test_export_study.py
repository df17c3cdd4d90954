"""``autotune export`` of a study: which trial is the selected one now, a copy elsewhere, plugins, the commands that it prints."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

import sherl
from autotune.errors import ConfigError, SelectionError, StudyError
from autotune.outcome import Confirmation, Outcome, Status
from autotune.search import StudyRecord
from autotune.study import export_from_study, report_study, select_from_study
from autotune.study.folder import StudyFolder
from autotune.study.train_settings import Changes
from autotune.study.train_sources import settings_from_study
from tests.autotune.finished_study import finished_study
from tests.autotune.small_study import autotune, make_model


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    return finished_study(tmp_path_factory.mktemp("made"))


@pytest.fixture
def study(made: StudyFolder, tmp_path: Path) -> StudyFolder:
    """A copy that a test may change; its backbone lies where the first one's does."""
    shutil.copytree(made.path, tmp_path / "study")
    return StudyFolder(tmp_path / "study")


def confirm(study: StudyFolder, *metrics: float, number: int = 0) -> None:
    with StudyRecord.open(study.record_file, write=True) as record:
        for seed, metric in enumerate(metrics, 100):
            outcome = Outcome(status=Status.COMPLETE, metric=metric)
            record.confirm(number, Confirmation(seed=seed, outcome=outcome))


def better(study: StudyFolder) -> int:
    """Another trial of the same weights with a metric that is higher, for less memory; its number."""
    with StudyRecord.open(study.record_file, write=True) as record:
        first = record.trial(0)
        assert first.outcome is not None
        number = record.start(first.candidate, seed=6)
        record.finish(number, Outcome.from_dict({**first.outcome.to_dict(), "metric": 0.999}))
    shutil.copytree(study.trial(0), study.trial(number))
    return number


# ---- the selected trial


def test_what_meets_the_rule_no_more_is_not_exported(study: StudyFolder, tmp_path: Path) -> None:
    with StudyRecord.open(study.record_file) as record:
        outcome = record.trial(0).outcome
    assert outcome is not None
    assert outcome.metric is not None
    select_from_study(study.path, min_metric=outcome.metric)
    assert "Selected: Trial 0" in report_study(study.path).closing
    confirm(study, 0.1, 0.2)
    with pytest.raises(SelectionError, match=r"rule of the last `autotune select` any more.*to reach a metric of"):
        export_from_study(study.path, tmp_path / "model")
    assert not (tmp_path / "model").exists()
    refused = autotune("export", tmp_path / "model", options={"--study-dir": str(study.path)}, code=5)
    assert "any more" in refused.stderr
    with pytest.raises(SelectionError, match="any more"):
        settings_from_study(study.path, None, Changes())
    closing = report_study(study.path).closing
    assert "Selected: nothing. No member of the front meets the rule of the last `autotune select` any more." in closing
    export_from_study(study.path, tmp_path / "model", trial=0)
    card = (tmp_path / "model" / "README.md").read_text()
    assert "is the only member" not in card, "it was selected once, and is not now"
    assert "the validation accuracy was 0.1500" in card


def test_the_rule_picks_among_the_trials_of_now(study: StudyFolder, tmp_path: Path) -> None:
    select_from_study(study.path)
    number = better(study)
    exported = export_from_study(study.path, tmp_path / "model")
    assert exported.trial == number
    assert exported.explanation.startswith(f"Trial 0 was selected; by the same rule it is now trial {number}.")
    assert f"Trial {number}, sherl" in (tmp_path / "model" / "README.md").read_text()
    assert settings_from_study(study.path, None, Changes()).number == number


def test_the_card_s_reason_is_of_the_points_of_now(study: StudyFolder, tmp_path: Path) -> None:
    select_from_study(study.path)
    confirm(study, 0.61, 0.63)
    for options in ({}, {"trial": 0}):
        shutil.rmtree(tmp_path / "model", ignore_errors=True)
        export_from_study(study.path, tmp_path / "model", **options)
        card = (tmp_path / "model" / "README.md").read_text()
        assert "over 2 other seeds" in card
        assert "unconfirmed" not in card


@pytest.mark.parametrize(
    "text", ['{"poi', "[1]", '{"rule": {}}', '{"point": {"number": 0}, "rule": {"speed": 1}}', "{}"]
)
def test_a_damaged_selection_is_said_with_what_to_do(text: str, study: StudyFolder, tmp_path: Path) -> None:
    study.selection_file.write_text(text)
    with pytest.raises(StudyError, match=r"selection\.json.*`autotune select` again"):
        export_from_study(study.path, tmp_path / "model")
    assert not (tmp_path / "model").exists()
    assert export_from_study(study.path, tmp_path / "model", trial=0).trial == 0
    select_from_study(study.path)
    assert export_from_study(study.path, tmp_path / "model").trial == 0


def test_an_answer_that_cannot_be_kept_is_given_all_the_same(study: StudyFolder) -> None:
    study.selection_file.unlink()
    study.selection_file.mkdir()  # which no file can be renamed over
    done = autotune("select", options={"--study-dir": str(study.path)})
    assert done.stdout.startswith("Trial 0, ")
    assert re.search(r"not kept: .*selection\.json cannot be written", done.stderr)
    with pytest.raises(StudyError, match="not kept"):
        select_from_study(study.path)


def test_a_condition_that_makes_no_sense_is_a_wrong_setting(study: StudyFolder) -> None:
    done = autotune("select", options={"--study-dir": str(study.path), "--min-metric": "nan"}, code=2)
    assert "the least metric must be a finite number" in done.stderr


def test_a_folder_that_is_no_model_is_wrong_input(tmp_path: Path) -> None:
    done = autotune("predict", tmp_path / "nowhere", "good film", code=2)
    assert "is no checkpoint" in done.stderr


# ---- elsewhere


def test_a_copy_is_exported_where_the_backbone_is_not(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    made = finished_study(tmp_path / "there")
    export_from_study(made.path, tmp_path / "there" / "exported")
    expected = sherl.load(tmp_path / "there" / "exported").predict("good film")
    here = tmp_path / "here"
    shutil.copytree(made.path, here / "study")
    (tmp_path / "there" / "exported").rename(here / "model_then")
    shutil.rmtree(tmp_path / "there")
    select_from_study(here / "study")
    report_study(here / "study")
    done = export_from_study(here / "study", here / "model")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (here / "model" / name).read_bytes() == (here / "model_then" / name).read_bytes()
    assert "--model" not in done.explanation
    moved = make_model(here / "backbone")
    assert sherl.load(here / "model", backbone=str(moved)).predict("good film") == expected

    with pytest.raises(StudyError, match="--model says where the backbone lies now"):
        export_from_study(here / "study", here / "graph", graphs=["pt2"])
    other = make_model(here / "other", width=16)
    with pytest.raises(ConfigError, match=r"--model .*other.* does not fit the trial"):
        export_from_study(here / "study", here / "graph", backbone=str(other))
    assert not (here / "graph").exists()
    options = {"--study-dir": str(here / "study"), "--model": str(moved)}
    autotune("export", here / "graph", "--torch-export", options=options)
    assert (here / "graph" / "model.pt2").is_file()
    assert json.loads((here / "graph" / "sherl.json").read_text())["backbone"]["source"] == str(moved)
    assert sherl.load(here / "graph").predict("good film") == expected


def test_a_study_that_kept_no_tokenizer_takes_the_backbone_s(study: StudyFolder, tmp_path: Path) -> None:
    meta = json.loads((study.prepared / "meta.json").read_text())
    kept = {name: size for name, size in meta["files"].items() if name.startswith("tokenizer/")}
    assert kept
    meta["files"] = {name: size for name, size in meta["files"].items() if name not in kept}
    (study.prepared / "meta.json").write_text(json.dumps(meta))
    shutil.rmtree(study.prepared / "tokenizer")
    export_from_study(study.path, tmp_path / "model")
    assert (tmp_path / "model" / "tokenizer.json").is_file()


# ---- plugins


def test_the_study_s_plugins_are_imported_and_further_ones(
    study: StudyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("of_the_study", "of_the_command"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / name)!r}, 'w').close()\n")
    settings = json.loads(study.settings_file.read_text())
    study.settings_file.write_text(json.dumps({**settings, "plugins": ["of_the_study"]}))
    export_from_study(study.path, tmp_path / "model", plugins=["of_the_command"])
    assert (tmp_path / "of_the_study").exists()
    assert (tmp_path / "of_the_command").exists()
    done = autotune(
        "export", tmp_path / "other", options={"--study-dir": str(study.path), "--plugin": "no_such"}, code=2
    )
    assert "'no_such' cannot be imported" in done.stderr


# ---- what is printed


def test_printed_commands_hold_for_any_folder(study: StudyFolder, tmp_path: Path) -> None:
    target = tmp_path / "my model's $HOME"
    done = export_from_study(study.path, target)
    (line,) = [line for line in done.explanation.splitlines() if line.startswith("Try it: ")]
    assert shlex.split(line.removeprefix("Try it: ")) == ["autotune", "predict", str(target), "A text."]
    (line,) = [line for line in done.explanation.splitlines() if line.startswith("In Python: ")]
    assert eval(line.removeprefix("In Python: sherl.load")) == str(target)


def test_an_export_that_something_was_added_to_is_replaced_where_that_is_asked_for(
    study: StudyFolder, tmp_path: Path
) -> None:
    export_from_study(study.path, tmp_path / "model")
    (tmp_path / "model" / "notes.md").write_text("mine")
    options = {"--study-dir": str(study.path)}
    refused = autotune("export", tmp_path / "model", options=options, code=3)
    assert "notes.md" in refused.stderr
    autotune("export", tmp_path / "model", "--overwrite", options=options)
    assert not (tmp_path / "model" / "notes.md").exists()
