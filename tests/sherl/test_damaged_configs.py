"""Configurations that no model can be made of, or none that is trained here: a plain word, before anything is priced."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sherl.backbones import backbone_from_config, load_backbone, load_config, require_runs
from sherl.errors import SpecError
from tests.sherl.tiny import ALL_FAMILIES, tiny_config


def written(folder: Path, family: str, **changes: Any) -> str:
    """The source of a tiny configuration with changes."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**tiny_config(family).to_dict(), **changes}))
    return str(folder)


@pytest.mark.parametrize("load", [load_config, load_backbone])
@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"quant_method": "gptq", "bits": 4}, r"quant_method 'gptq', bits 4 "),
        ({"quant_method": "awq", "bits": 4, "version": "gemm"}, r"quant_method 'awq', bits 4 "),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, r"quant_method 'bitsandbytes', load_in_4bit True "),
        ({"load_in_8bit": True}, r"no quant_method is named, load_in_8bit True "),
        ({"quant_method": "fp8", "fmt": "e4m3"}, r"quant_method 'fp8', fmt e4m3 "),
        (
            {"quant_method": "compressed-tensors", "format": "pack-quantized"},
            r"quant_method 'compressed-tensors', format pack-quantized ",
        ),
        ({"quant_method": "a-new-one"}, r"quant_method 'a-new-one' "),
    ],
)
def test_quantised_weights_are_refused(load: Any, told: dict[str, Any], said: str, tmp_path: Path) -> None:
    source = written(tmp_path, "llama", quantization_config=told)
    with pytest.raises(SpecError, match=rf"are quantised: {said}.*Allowed are weights in float32.*dequantize\(\)"):
        load(source)


def test_weights_that_are_not_quantised_are_taken(tmp_path: Path) -> None:
    assert load_config(written(tmp_path, "llama", quantization_config=None)).model_type == "llama"


# ---------------------------------------------------------------------------- damage

BERT = '{"model_type": "bert", "hidden_size": '


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("null", "it holds null, and settings by their names were expected"),
        ("[1, 2]", r"it holds \[1, 2\], and settings"),
        ('"bert"', 'it holds "bert", and settings'),
        ("{}", "says no model_type"),
        ('{"hidden_size": 16}', "says no model_type"),
        (BERT, r"not a valid JSON file \(Expecting value: line 1 column"),
        ("\ufeff{}", r"not a valid JSON file \(Unexpected UTF-8 BOM"),
        (BERT + '"\udce9"}', "not a valid JSON file .*utf-8"),
        (BERT + "null}", r"damaged.*hidden_size.*NoneType"),
        (BERT + '16, "dtype": "floaty"}', "damaged.*floaty"),
        (BERT + '16, "num_hidden_layers": 0}', "num_hidden_layers 0; allowed are 1 to 2000"),
        (BERT + '16, "num_hidden_layers": -2}', "num_hidden_layers -2; allowed are 1 to 2000"),
        (BERT + '16, "num_hidden_layers": 1000000}', "num_hidden_layers 1000000; allowed are 1 to 2000"),
        (BERT + '16, "eos_token_id": 99999999999999999999}', "eos_token_id 99999999999999999999; allowed are"),
    ],
)
@pytest.mark.parametrize("alone", [False, True])
def test_damaged_files_are_told(content: str, said: str, alone: bool, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(SpecError, match=f"{said}.*Take the config.json that the model was published with"):
        load_config(str(file if alone else tmp_path))


@pytest.mark.parametrize(
    ("family", "changes", "said"),
    [
        (
            "bert",
            {"num_attention_heads": 5},
            r"hidden size \(16\) is not a multiple of the number of attention heads \(5\)",
        ),
        ("bert", {"hidden_act": "frob"}, r"KeyError: 'frob' \(given as hidden_act\)"),
        ("bert", {"intermediate_size": 0}, "has the shape .*; allowed are sizes from 1 to"),
        ("gpt2", {"n_inner": 0}, "has the shape .*; allowed are sizes from 1 to"),
        ("bert", {"vocab_size": -3, "pad_token_id": None}, "negative dimension"),
        ("bert", {"vocab_size": 10**30}, "Overflow when unpacking long long"),
        ("bert", {"vocab_size": 2**40}, r"has the shape \[1099511627776, 16\]; allowed are sizes from 1 to 268435456"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "frob"}},
            r"KeyError: 'frob' \(given as rope_parameters.rope_type\)",
        ),
        ("whisper", {"pad_token_id": 50256}, "Padding_idx must be within num_embeddings"),
    ],
)
def test_no_model_is_made_of_damaged_settings(family: str, changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    config = load_config(written(tmp_path, family, **changes))
    with pytest.raises(SpecError, match=said), torch.device("meta"):
        backbone_from_config(config)


@pytest.mark.parametrize(
    ("family", "changes", "said"),
    [
        ("llama", {"head_dim": 3}, "damaged, no model is made of it"),
        ("llama", {"num_attention_heads": 4, "num_key_value_heads": 3}, "damaged, no model is made of it"),
        ("llama", {"dtype": 1.5}, "damaged, no model is made of it"),
        ("bart", {"decoder_layerdrop": None}, "damaged, no model is made of it"),
        ("clip_text_model", {"attention_dropout": None}, "dropout_p"),
        ("swin", {"hidden_size": 2**40}, "says a width of 1099511627776, and its blocks give"),
        ("swin", {"hidden_size": {}}, r"int\(\) argument"),
    ],
)
def test_a_model_that_is_made_and_does_not_run(
    family: str, changes: dict[str, Any], said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = load_config(written(tmp_path, family, **changes))
    capfd.readouterr()
    with pytest.raises(SpecError, match=said):
        require_runs(config)
    assert capfd.readouterr().err == "", "torch logs a traceback of fake tensors that do not fit"


@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_every_family_runs(family: str) -> None:
    require_runs(tiny_config(family))


def test_an_error_of_memory_is_no_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("sherl.backbones.loading._made", full)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        backbone_from_config(tiny_config("bert"))
