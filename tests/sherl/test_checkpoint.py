"""What is written, what is read, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from sherl import checkpoint as module
from sherl.backbones import Backbone
from sherl.checkpoint import MANIFEST_FILE, WEIGHTS_FILE, load_checkpoint, read_manifest, save_checkpoint
from sherl.errors import CheckpointError
from sherl.evaluation import eval_step
from sherl.model import TaskModel
from sherl.training import fit
from tests.sherl.toys import NUMBER, SHERL, TWO_CLASSES, settings, toy_backbone, toy_model, toy_rows

METHODS: list[Any] = ["full", SHERL, "linear_probe", "lora", "bitfit"]


def trained(method: Any = SHERL, **changes: Any) -> TaskModel:
    model = toy_model(method, **changes)
    precision = "bf16" if changes.get("dtype") is torch.bfloat16 else "fp32"
    for _ in fit(model, toy_rows(16), toy_rows(4), settings(epochs=1, precision=precision)):
        pass
    return model


def logits_of(model: TaskModel) -> Tensor:
    return eval_step(model, toy_rows(6).batch(list(range(6))))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save_checkpoint(trained(), tmp_path / "kept", max_length=24, extra={"note": "é ☃"})


@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_loaded_model_is_the_saved_one(method: Any, dtype: torch.dtype, tmp_path: Path) -> None:
    model = trained(method, dtype=dtype)
    state, logits = {k: v.clone() for k, v in model.trainable_state().items()}, logits_of(model)
    folder = save_checkpoint(model, tmp_path / "a" / "b", max_length=24)
    loaded = load_checkpoint(folder, backbone=toy_backbone(dtype=dtype))
    assert not loaded.training
    assert torch.allclose(logits_of(loaded), logits, atol=1e-6)
    again = loaded.trainable_state()
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], tensor) and again[name].dtype == tensor.dtype for name, tensor in state.items())
    # and the loaded one can be saved and loaded again: full fine-tuning has changed the backbone's weights meanwhile
    twice = load_checkpoint(save_checkpoint(loaded, tmp_path / "c", max_length=24), backbone=toy_backbone(dtype=dtype))
    assert torch.allclose(logits_of(twice), logits, atol=1e-6)


def test_the_folder_holds_trainables_and_a_json_only(saved: Path) -> None:
    assert sorted(path.name for path in saved.iterdir()) == [MANIFEST_FILE, WEIGHTS_FILE]
    frozen = sum(tensor.nbytes for tensor in toy_backbone().model.state_dict().values())
    assert sum(tensor.nbytes for tensor in load_file(saved / WEIGHTS_FILE).values()) < frozen / 4
    manifest = read_manifest(saved)
    assert manifest.method["name"] == "sherl"
    assert manifest.task == TWO_CLASSES.to_dict()
    assert (manifest.precision, manifest.max_length, manifest.extra) == ("fp32", 24, {"note": "é ☃"})
    assert manifest.backbone_fingerprint == toy_backbone().fingerprint


def test_regression_statistics_travel(tmp_path: Path) -> None:
    folder = save_checkpoint(trained("linear_probe", task=NUMBER), tmp_path / "x", max_length=None)
    loaded = load_checkpoint(folder, backbone=toy_backbone())
    assert loaded.task == NUMBER


def test_a_checkpoint_is_replaced_and_other_files_stay(saved: Path) -> None:
    (saved / "README.md").write_text("card", encoding="utf-8")
    other = trained("linear_probe")
    save_checkpoint(other, saved, max_length=None)
    assert sorted(path.name for path in saved.iterdir()) == ["README.md", MANIFEST_FILE, WEIGHTS_FILE]
    loaded = load_checkpoint(saved, backbone=toy_backbone())
    assert torch.allclose(logits_of(loaded), logits_of(other), atol=1e-6)


@pytest.mark.parametrize("dies_at", range(1, 8))
def test_cut_short_at_any_moment_one_of_both_is_whole(saved: Path, dies_at: int, monkeypatch: Any) -> None:
    """As a kill would leave it: the n-th change in the file system and all later ones do not happen."""
    old, new = load_checkpoint(saved, backbone=toy_backbone()), trained("linear_probe")
    count = 0

    def mortal(work: Any) -> Any:
        def counted(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count >= dies_at:
                raise KeyboardInterrupt
            return work(*args, **kwargs)

        return counted

    with monkeypatch.context() as patch:
        patch.setattr(module, "save_file", mortal(module.save_file))
        patch.setattr(os, "replace", mortal(os.replace))
        patch.setattr(Path, "write_text", mortal(Path.write_text))
        patch.setattr(Path, "unlink", mortal(Path.unlink))
        patch.setattr(module, "_flush_to_disk", mortal(module._flush_to_disk))
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(new, saved, max_length=None)
    loaded = load_checkpoint(saved, backbone=toy_backbone())
    expected = old if read_manifest(saved).method["name"] == "sherl" else new
    assert torch.allclose(logits_of(loaded), logits_of(expected), atol=1e-6)
    save_checkpoint(new, saved, max_length=None)  # and the next attempt succeeds
    assert read_manifest(saved).method["name"] == "linear_probe"


def test_what_json_cannot_hold_leaves_the_old_one(saved: Path) -> None:
    before = (saved / MANIFEST_FILE).read_bytes()
    with pytest.raises(TypeError):
        save_checkpoint(trained(), saved, max_length=None, extra={"tensor": torch.ones(1)})
    assert (saved / MANIFEST_FILE).read_bytes() == before
    assert sorted(path.name for path in saved.iterdir()) == [MANIFEST_FILE, WEIGHTS_FILE]


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="is a file"):
        save_checkpoint(toy_model("linear_probe"), tmp_path / "file", max_length=None)
    with pytest.raises(CheckpointError, match="no checkpoint"):
        read_manifest(tmp_path / "file")


# ---- refusals


def test_another_backbone_is_refused(saved: Path) -> None:
    other = toy_backbone(seed=1)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(saved, backbone=other)
    for words in (toy_backbone().fingerprint, other.fingerprint, "backbone="):
        assert words in str(caught.value)


def test_another_precision_is_refused(saved: Path) -> None:
    with pytest.raises(CheckpointError, match=r"fp32.*bf16.*dtype=torch\.float32"):
        load_checkpoint(saved, backbone=toy_backbone(dtype=torch.bfloat16))


def test_a_backbone_without_a_source_must_be_given(saved: Path) -> None:
    with pytest.raises(CheckpointError, match="backbone="):
        load_checkpoint(saved)


def test_a_source_that_is_gone(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="backbone="):
        load_checkpoint(saved, backbone=str(tmp_path / "nowhere"))


def edit(folder: Path, **changes: Any) -> None:
    plain = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
    (folder / MANIFEST_FILE).write_text(json.dumps({**plain, **changes}), encoding="utf-8")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, "no sherl checkpoint"),
        ({"format_version": 99}, r"version 99.* reads 1"),
        ({"format_version": None}, "version None"),
        ({"method": {"name": "nonesuch"}}, "nonesuch"),
        ({"method": {"name": "sherl", "reduction_factors": 3}}, "reduction_factor"),
        ({"method": 5}, "damaged"),
        ({"task": {"kind": "nonesuch", "metric": "accuracy"}}, "nonesuch"),
        ({"task": {"kind": "classification", "colour": 1}}, "colour|metric"),
        ({"backbone": {}}, "damaged"),
        ({"backbone": "x"}, "damaged"),
        ({"weights": None}, "damaged"),
        ({"precision": "fp8"}, "damaged"),
        ({"max_length": "long"}, "damaged"),
    ],
)
def test_an_odd_manifest_is_refused(saved: Path, changes: dict[str, Any], message: str) -> None:
    edit(saved, **changes)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(saved, backbone=toy_backbone())


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe\x00", b'{"format": "sherl-checkpoint"'])
def test_a_broken_manifest_is_refused(saved: Path, content: bytes) -> None:
    (saved / MANIFEST_FILE).write_bytes(content)
    with pytest.raises(CheckpointError, match=MANIFEST_FILE):
        load_checkpoint(saved, backbone=toy_backbone())


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "gone"])
def test_broken_weights_are_refused(saved: Path, damage: str) -> None:
    path = saved / WEIGHTS_FILE
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes({"flip": bytes(content), "cut": bytes(content[:-9]), "empty": b"", "gone": b""}[damage])
    if damage == "gone":
        path.unlink()
    with pytest.raises(CheckpointError, match="missing" if damage == "gone" else "damaged"):
        load_checkpoint(saved, backbone=toy_backbone())


@pytest.mark.parametrize("place", ["", "missing", "empty"])
def test_no_checkpoint_there(tmp_path: Path, place: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="no checkpoint"):
        load_checkpoint(tmp_path / place)


def test_missing_and_foreign_tensors_are_listed(saved: Path, tmp_path: Path) -> None:
    wider = save_checkpoint(trained("linear_probe"), tmp_path / "wider", max_length=None)
    shutil.copy(wider / WEIGHTS_FILE, saved / WEIGHTS_FILE)
    edit(saved, weights=json.loads((wider / MANIFEST_FILE).read_text())["weights"])
    backbone = toy_backbone()
    before = logits_of_backbone(backbone)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(saved, backbone=backbone)
    missing = set(trained().trainable_state()) - set(load_file(wider / WEIGHTS_FILE))
    assert any(name in str(caught.value) for name in missing)
    assert torch.equal(logits_of_backbone(backbone), before)  # given back as it came
    assert load_checkpoint(wider, backbone=backbone)


def logits_of_backbone(backbone: Backbone) -> Tensor:
    batch = toy_rows(4).batch([0, 1])
    batch.pop("labels")
    backbone.model.eval()
    with torch.no_grad():
        return backbone.encode(batch)


# ---- odd tensors


def test_shared_and_strided_tensors_are_stored_whole(tmp_path: Path, monkeypatch: Any) -> None:
    whole = torch.arange(12.0).view(3, 4)
    odd = {"tied": whole, "tied_again": whole, "turned": whole.t(), "slice": whole[1], "scalar": torch.tensor(2.0)}
    model = toy_model("linear_probe")
    monkeypatch.setattr(type(model), "trainable_state", lambda _: odd)
    folder = save_checkpoint(model, tmp_path / "odd", max_length=None)
    stored = load_file(folder / WEIGHTS_FILE)
    assert stored.keys() == odd.keys()
    assert all(torch.equal(stored[name], tensor) for name, tensor in odd.items())
