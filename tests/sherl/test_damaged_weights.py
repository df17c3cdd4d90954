"""Weights and tokenizers that are damaged, or more than they should be: a plain word, and nothing of them is run."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from sherl.backbones import DEFAULT_BACKBONE, load_backbone, load_tokenizer, require_weights, resolve_source
from sherl.errors import SpecError
from tests.sherl.tiny import tiny_config

WEIGHTS, PICKLED, INDEX = "model.safetensors", "pytorch_model.bin", "model.safetensors.index.json"
ANOTHER = r"\. Take another copy of the model, or save it anew"


@pytest.fixture
def model() -> Any:
    torch.manual_seed(0)
    return transformers.BertModel(tiny_config("bert"))


@pytest.fixture
def folder(model: Any, tmp_path: Path) -> Path:
    transformers.utils.logging.disable_progress_bar()
    model.save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


class Runs:
    """What runs a command as soon as it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("kept", [0, 7, 100, -1])
def test_weights_that_were_cut_off(kept: int, folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:kept])
    with pytest.raises(SpecError, match=f"weights of .* do not load: .*{ANOTHER}"):
        load_backbone(str(folder))


@pytest.mark.parametrize("zipped", [False, True])
def test_a_pickle_is_read_for_tensors_alone(zipped: bool, folder: Path, tmp_path: Path) -> None:
    (folder / WEIGHTS).unlink()
    marker = tmp_path / "it-ran"
    if zipped:
        torch.save({"embeddings": Runs(marker)}, folder / PICKLED)
    else:
        (folder / PICKLED).write_bytes(pickle.dumps({"embeddings": Runs(marker)}, protocol=2))
    with pytest.raises(SpecError, match=r"only tensors are read of it.*save_pretrained, which writes safetensors"):
        load_backbone(str(folder))
    assert not marker.exists()


def test_a_pickle_of_tensors_is_taken(folder: Path, model: Any) -> None:
    (folder / WEIGHTS).unlink()
    torch.save(model.state_dict(), folder / PICKLED)
    assert load_backbone(str(folder)).depth == 3


@pytest.mark.parametrize("content", [b"", b"garbage" * 100, pickle.dumps([1, 2], protocol=2)])
def test_damaged_pickles(content: bytes, folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / PICKLED).write_bytes(content)
    with pytest.raises(SpecError, match=r"weights of .* do not load"):
        load_backbone(str(folder))


@pytest.mark.parametrize(
    "content", ["", "null", "[]", "{}", '{"weight_map": null}', '{"weight_map": {}, "metadata": {}}']
)
def test_damaged_lists_of_parts(content: str, folder: Path, model: Any) -> None:
    (folder / WEIGHTS).unlink()
    model.save_pretrained(folder, max_shard_size="5KB")
    assert load_backbone(str(folder)).depth == 3
    (folder / INDEX).write_text(content)
    with pytest.raises(SpecError, match=r"weights of .* do not load|are no complete bert model"):
        load_backbone(str(folder))


@pytest.mark.parametrize(("dtype", "said"), [(torch.int8, "I8"), (torch.float8_e4m3fn, "F8_E4M3")])
def test_weights_of_other_types_are_refused(dtype: torch.dtype, said: str, folder: Path) -> None:
    """transformers would cast them, and a checkpoint quantised by hand would train from noise."""
    save_file(
        {name: one.to(dtype) for name, one in load_file(folder / WEIGHTS).items()}, folder / WEIGHTS, {"format": "pt"}
    )
    with pytest.raises(SpecError, match=rf"no plain numbers: .* of the type {said}; allowed are BF16, F16, F32, F64\."):
        load_backbone(str(folder))


def test_weights_of_half_precision_are_taken(folder: Path) -> None:
    half = {name: one.to(torch.float16) for name, one in load_file(folder / WEIGHTS).items()}
    save_file({**half, "embeddings.position_ids": torch.arange(4)}, folder / WEIGHTS, {"format": "pt"})
    assert load_backbone(str(folder)).dtype == torch.float32


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # peft asks it
def test_an_adapter_beside_the_model_is_not_put_on_it(folder: Path, model: Any) -> None:
    peft.get_peft_model(model, peft.LoraConfig(target_modules=["query"], r=2)).save_pretrained(folder)
    with pytest.raises(SpecError, match=r"adapter of peft beside the model.*merge_and_unload"):
        load_backbone(str(folder))


def test_weights_are_looked_at_before_a_study(folder: Path, model: Any) -> None:
    source = str(folder)
    require_weights(source)
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SpecError, match=rf"weights of .* do not load: .*{ANOTHER}"):
        require_weights(source)
    (folder / WEIGHTS).unlink()
    with pytest.raises(SpecError, match=rf"it holds no model\.safetensors, .*{ANOTHER}"):
        require_weights(source)
    model.save_pretrained(folder, max_shard_size="5KB")
    require_weights(source)
    (folder / INDEX).write_text('{"weight_map": 3}')
    with pytest.raises(SpecError, match=r"weights of .* do not load: AttributeError"):
        require_weights(source)
    model.save_pretrained(folder, max_shard_size="5KB")
    next(folder.glob("model-00002*")).unlink()
    with pytest.raises(SpecError, match=rf"model-00002-of-.*{ANOTHER}"):
        require_weights(source)
    for file in folder.glob("model*"):
        file.unlink()
    torch.save(model.state_dict(), folder / PICKLED)
    require_weights(source)
    require_weights("google-bert/bert-base-uncased")  # of a hub id nothing is fetched


# ---------------------------------------------------------------------------- tokenizers


@pytest.fixture
def tokenizer_folder(tmp_path: Path) -> Path:
    for file in Path(resolve_source(DEFAULT_BACKBONE)).iterdir():
        if file.suffix in (".json", ".txt"):
            shutil.copy(file, tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "config.json"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", r"is not a valid JSON file \(Expecting value"),
        (b'{"version": ', r"is not a valid JSON file \(Expecting value"),
        (b"\xff\xfe", r"is not a valid JSON file \('utf-8' codec"),
        (b"null", "holds null, and not settings by name"),
        (b"[]", r"holds \[\], and not settings by name"),
    ],
)
def test_a_damaged_file_of_a_tokenizer_is_named(name: str, content: bytes, said: str, tokenizer_folder: Path) -> None:
    (tokenizer_folder / name).write_bytes(content)
    with pytest.raises(SpecError, match=rf"no tokenizer that loads: {name} {said}.*Save one there"):
        load_tokenizer(str(tokenizer_folder))


@pytest.mark.parametrize(
    "settings",
    [
        {"tokenizer_class": 3},
        {"auto_map": 3},
        {"auto_map": []},
        {"tokenizer_class": "BertTokenizer", "model": None},
    ],
)
def test_odd_settings_of_a_tokenizer(settings: dict[str, Any], tokenizer_folder: Path) -> None:
    (tokenizer_folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(SpecError, match=r"no tokenizer that loads: \w+Error: .*Save one there"):
        load_tokenizer(str(tokenizer_folder))


@pytest.mark.parametrize("kind", ["BertTokenizer", "T5Tokenizer", "GPT2Tokenizer"])
def test_a_tokenizer_without_words_is_none(kind: str, tokenizer_folder: Path) -> None:
    for name in ("tokenizer.json", "vocab.txt"):
        (tokenizer_folder / name).unlink()
    (tokenizer_folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind}))
    with pytest.raises(SpecError, match="no tokenizer that loads: it has no vocabulary"):
        load_tokenizer(str(tokenizer_folder))


def test_a_vocabulary_of_other_letters(tokenizer_folder: Path) -> None:
    (tokenizer_folder / "tokenizer.json").unlink()
    (tokenizer_folder / "vocab.txt").write_bytes(b"\xff\xfe\n\xe9")
    with pytest.raises(SpecError, match=r"no tokenizer that loads: .*UTF-8"):
        load_tokenizer(str(tokenizer_folder))
