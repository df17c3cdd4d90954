"""Where backbones come from: the package, folders and hub ids; what is said when one does not come."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from sherl.backbones import (
    DEFAULT_BACKBONE,
    backbone_from_config,
    load_backbone,
    load_config,
    load_tokenizer,
    resolve_source,
)
from sherl.errors import SpecError, UnsupportedBackboneError
from sherl.methods import method_from_dict
from tests.sherl.tiny import tiny_backbone, tiny_batch, tiny_config

WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A saved masked language model: a head and a pooler that a backbone leaves out."""
    torch.manual_seed(0)
    model = transformers.BertForMaskedLM(tiny_config("bert"))
    transformers.utils.logging.disable_progress_bar()
    model.save_pretrained(tmp_path)
    return tmp_path


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_the_packaged_model_has_a_name() -> None:
    assert (Path(resolve_source(DEFAULT_BACKBONE)) / "config.json").is_file()
    config = load_config(DEFAULT_BACKBONE)
    assert (config.model_type, config.num_hidden_layers, config.hidden_size) == ("bert", 6, 384)


@pytest.mark.parametrize("family", ["bert", "llama", "t5", "vit"])
def test_types_that_no_precision_has_are_refused(family: str, folder: Path) -> None:
    said = r"torch\.float16.*allowed are torch\.float32 \(precision fp32\), torch\.bfloat16 \(bf16\)"
    with pytest.raises(SpecError, match=said):
        backbone_from_config(tiny_config(family), dtype=torch.float16)
    with pytest.raises(SpecError, match=said):
        load_backbone(str(folder), dtype=torch.float16)


def test_the_packaged_model_may_be_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def missing(_name: str) -> Path:
        raise ModuleNotFoundError

    monkeypatch.setattr(resources, "files", missing)
    with pytest.raises(SpecError, match=r"pip install -e '\.\[demo\]'"):
        resolve_source(DEFAULT_BACKBONE)
    monkeypatch.setattr(resources, "files", lambda _name: tmp_path)
    with pytest.raises(SpecError, match="damaged"):
        resolve_source(DEFAULT_BACKBONE)


def test_sources(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_source(str(folder)) == str(folder)
    assert resolve_source("google-bert/bert-base-uncased") == "google-bert/bert-base-uncased"
    assert resolve_source("gpt2") == "gpt2"
    monkeypatch.setenv("HOME", str(folder.parent))
    assert resolve_source(f"~/{folder.name}") == str(folder)
    (tmp_path / "empty").mkdir()
    for source, said in [
        (str(tmp_path / "empty"), "no config.json"),
        (str(tmp_path / "nowhere"), "no such folder"),
        ("./nowhere", "no such folder"),
        ("a/b/c", "no such folder"),
        ("", "hub id or 'all-minilm-l6-v2'"),
        (str(folder / WEIGHTS), "no such folder"),
    ]:
        with pytest.raises(SpecError, match=said):
            resolve_source(source)


def test_a_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for load in (load_config, load_backbone, load_tokenizer):
        with pytest.raises(SpecError, match=r"'nobody/nothing-at-all'.*HF_HUB_OFFLINE is set.*give a folder"):
            load("nobody/nothing-at-all")


def test_the_hub_does_not_tell_of_each_try(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def fails(*_: Any, **__: Any) -> None:
        logging.getLogger("huggingface_hub.utils._http").warning("Retrying in 1s [Retry 1/5].")
        raise OSError("no such address")

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", fails)
    logger = logging.getLogger("huggingface_hub")
    monkeypatch.setattr(logger, "propagate", True)
    level = logger.level
    with pytest.raises(SpecError, match="could not be had from the Hugging Face hub: no such address"):
        load_config("owner/name")
    assert caplog.messages == []
    assert logger.level == level, "as before for whoever uses the hub next"


def test_a_folder_loads_quietly(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    capfd.readouterr()
    before = transformers.utils.logging.get_verbosity()
    backbone = load_backbone(str(folder))
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""
    assert transformers.utils.logging.get_verbosity() == before
    assert (backbone.source, backbone.family, backbone.depth) == (str(folder), "bert", 3)
    saved = load_file(folder / WEIGHTS)
    for name, parameter in backbone.model.named_parameters():
        assert torch.equal(parameter, saved[f"bert.{name}"]), name
    assert load_backbone(str(folder), dtype=torch.bfloat16).dtype == torch.bfloat16


def test_loaded_and_made_models_hold_the_same_bytes(folder: Path) -> None:
    loaded, made = load_backbone(str(folder)), backbone_from_config(load_config(str(folder)))

    def storages(model: Any) -> dict[str, int]:
        tensors = [*model.named_parameters(), *model.named_buffers()]
        return {name: tensor.untyped_storage().nbytes() for name, tensor in tensors}

    assert storages(loaded.model) == storages(made.model)


def test_incomplete_weights_are_told_all_at_once(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    del weights["bert.encoder.layer.1.output.dense.bias"]
    weights["bert.embeddings.word_embeddings.weight"] = torch.zeros(5, 16)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(
        SpecError,
        match=r"encoder.layer.1.output.dense.bias is missing; embeddings.word_embeddings.weight is \[5, 16\], \[40, 16\]",
    ):
        load_backbone(str(folder))


def test_damaged_models(folder: Path) -> None:
    source = str(folder)
    (folder / WEIGHTS).write_bytes(b"no weights" * 50)
    with pytest.raises(SpecError, match="do not load"):
        load_backbone(source)
    (folder / WEIGHTS).unlink()
    with pytest.raises(SpecError, match=r"no file named model\.safetensors"):
        load_backbone(source)
    change_config(folder, hidden_size="wide")
    with pytest.raises(SpecError, match=r"damaged.*hidden_size"):
        load_config(source)
    (folder / "config.json").write_text("{")
    with pytest.raises(SpecError, match="not a valid JSON"):
        load_config(source)


def test_unknown_architectures(folder: Path) -> None:
    for kind, said in [
        ("bloom", "'bloom' model, which sherl has no row for"),
        ("flurb", "no architecture that transf"),
    ]:
        change_config(folder, model_type=kind)
        with pytest.raises(UnsupportedBackboneError, match=said):
            load_backbone(str(folder))


def test_tokenizers(folder: Path) -> None:
    ids = load_tokenizer(DEFAULT_BACKBONE)("Hello wörld")["input_ids"]
    assert len(ids) > 3
    with pytest.raises(SpecError, match="no tokenizer that loads: it has no vocabulary"):
        load_tokenizer(str(folder))


# ---------------------------------------------------------------------------- fingerprints


def test_fingerprint_of_a_folder(folder: Path) -> None:
    source = str(folder)
    original = load_backbone(source).fingerprint
    assert load_backbone(source, dtype=torch.bfloat16).fingerprint == original
    change_config(folder, transformers_version="9.9", _name_or_path="elsewhere", torch_dtype="float16")
    assert load_backbone(source).fingerprint == original
    change_config(folder, layer_norm_eps=1e-3)
    with_other_config = load_backbone(source).fingerprint
    assert with_other_config != original
    weights = load_file(folder / WEIGHTS)
    weights["bert.encoder.layer.0.output.dense.bias"][3] += 1e-4
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    assert load_backbone(source).fingerprint not in (original, with_other_config)


def test_fingerprint_of_a_model_made_in_memory() -> None:
    assert tiny_backbone(seed=1).fingerprint == tiny_backbone(seed=1).fingerprint
    prints = {
        tiny_backbone(seed=seed, dtype=dtype).fingerprint
        for seed in (0, 1)
        for dtype in (torch.float32, torch.bfloat16)
    }
    assert len(prints) == 4


@pytest.mark.parametrize("method", ["full", "lora", "sherl"])
def test_fingerprint_is_of_the_weights_before_training(method: str) -> None:
    expected = tiny_backbone().fingerprint
    tuned = method_from_dict(method).apply(tiny_backbone(), seed=0).train()
    tuned(tiny_batch()).sum().backward()
    with torch.no_grad():
        for parameter in tuned.trainable().values():
            parameter.add_(1.0)
    assert tuned.backbone.fingerprint == expected


@pytest.mark.slow
def test_fingerprint_is_the_same_in_another_process(folder: Path) -> None:
    code = (
        "import sys; from sherl.backbones import load_backbone; from tests.sherl.tiny import tiny_backbone;"
        "print(load_backbone(sys.argv[1]).fingerprint, tiny_backbone().fingerprint)"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True, cwd=root, timeout=120
    )
    assert done.stdout.split() == [load_backbone(str(folder)).fingerprint, tiny_backbone().fingerprint]


@pytest.mark.slow
def test_a_hub_id_in_the_cache(folder: Path, tmp_path: Path) -> None:
    """What ``huggingface_hub`` leaves in its cache loads by its id without a network, with the folder's fingerprint."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    stored = tmp_path / "home" / "hub" / "models--someone--tiny-bert"
    (stored / "refs").mkdir(parents=True)
    (stored / "refs" / "main").write_text(commit)
    shutil.copytree(folder, stored / "snapshots" / commit, ignore=shutil.ignore_patterns("home"))
    code = (
        "from sherl.backbones import load_backbone; backbone = load_backbone('someone/tiny-bert');"
        "print(backbone.source, backbone.fingerprint)"
    )
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    environment.pop("HF_HUB_CACHE", None)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment, timeout=120
    )
    assert done.stdout.split() == ["someone/tiny-bert", load_backbone(str(folder)).fingerprint]
