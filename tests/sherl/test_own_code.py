"""Code that lies beside a model: nobody is asked whether it may run, and it never does."""

from __future__ import annotations

import ast
import builtins
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import transformers

from sherl.backbones import DEFAULT_BACKBONE, load_backbone, load_config, load_tokenizer, resolve_source
from sherl.errors import SpecError, UnsupportedBackboneError
from tests.sherl.tiny import tiny_config

ROOT = Path(__file__).parents[2]
CODE = """
from pathlib import Path

Path(__file__).with_name("it-ran").touch()
Path({marker!r}).touch()
raise RuntimeError("it ran")
"""


@pytest.fixture(autouse=True)
def nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*_: Any) -> str:
        raise AssertionError("a question was asked")

    monkeypatch.setattr(builtins, "input", asked)


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """A file that is there once the model's code has run."""
    return tmp_path / "it-ran"


def beside(folder: Path, marker: Path, name: str) -> None:
    (folder / f"{name}.py").write_text(CODE.format(marker=str(marker)))


@pytest.mark.parametrize("kind", ["mycustom", None])
@pytest.mark.parametrize("load", [load_config, load_backbone])
def test_an_architecture_of_its_own_is_refused(
    kind: str | None, load: Any, tmp_path: Path, marker: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    plain = {"model_type": kind, "auto_map": {"AutoConfig": "configuration_own.Own", "AutoModel": "modeling_own.Own"}}
    (folder / "config.json").write_text(json.dumps({key: value for key, value in plain.items() if value}))
    beside(folder, marker, "configuration_own")
    with pytest.raises(
        UnsupportedBackboneError, match=r"own code is not run here.*Allowed are.*--plugin.*your_own_backbone"
    ):
        load(str(folder))
    assert not marker.exists()
    assert capfd.readouterr().out == ""


def test_a_model_class_of_its_own_is_refused(tmp_path: Path, marker: Path) -> None:
    """transformers knows the configuration, and no language model of it: the one that lies beside it is not taken."""
    config = transformers.ViTConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16)
    config.auto_map = dict.fromkeys(["AutoModelForCausalLM", "AutoModel"], "modeling_own.Own")
    config.save_pretrained(tmp_path / "vit")
    beside(tmp_path / "vit", marker, "modeling_own")
    assert load_config(str(tmp_path / "vit")).model_type == "vit"  # transformers' own model is taken
    with pytest.raises(SpecError, match=r"no file named model\.safetensors"):
        load_backbone(str(tmp_path / "vit"))
    assert not marker.exists()


def test_a_known_architecture_with_code_beside_it_is_read_as_transformers_does(tmp_path: Path, marker: Path) -> None:
    config = tiny_config("bert")
    config.auto_map = {"AutoConfig": "configuration_own.Own"}
    config.save_pretrained(tmp_path / "bert")
    beside(tmp_path / "bert", marker, "configuration_own")
    assert load_config(str(tmp_path / "bert")).model_type == "bert"
    assert not marker.exists()


def test_a_tokenizer_of_its_own_is_refused(tmp_path: Path, marker: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    shutil.copy(Path(resolve_source(DEFAULT_BACKBONE)) / "vocab.txt", folder)
    tiny_config("vit").save_pretrained(folder)  # transformers has no tokenizer for it
    own = {"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": ["tokenization_own.OwnTokenizer", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(own))
    beside(folder, marker, "tokenization_own")
    with pytest.raises(SpecError, match=r"tokenizer of .*own code is not run here.*tokenizer\.json"):
        load_tokenizer(str(folder))
    assert not marker.exists()
    assert capfd.readouterr().out == ""


def test_whatever_is_loaded_by_its_name_says_that_no_code_is_run() -> None:
    """transformers asks a person on the terminal where ``trust_remote_code`` is left out."""
    silent = []
    for file in sorted([*(ROOT / "sherl").rglob("*.py"), *(ROOT / "autotune").rglob("*.py")]):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            if node.func.attr not in ("from_pretrained", "from_config"):
                continue
            said = {word.arg: ast.unparse(word.value) for word in node.keywords}
            if said.get("trust_remote_code") != "False":
                silent.append(f"{file.relative_to(ROOT)}:{node.lineno}")
    assert silent == []
