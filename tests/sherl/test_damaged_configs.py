"""Configurations that no model can be made of, or none that is trained here: a plain word, before anything is priced."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sherl.backbones import load_backbone, load_config
from sherl.errors import SpecError
from tests.sherl.tiny import tiny_config


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
