"""What names the code of a backbone: equal for equal code, another where a file that computes was changed."""

from __future__ import annotations

import functools
import importlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import nn
from transformers.models.bert.modeling_bert import BertSelfOutput

from sherl.backbones import Backbone
from sherl.backbones.source_code import code_of
from sherl.errors import SpecError
from tests.sherl.tiny import tiny_backbone

OWN = """
import math
import numpy
from torch import Tensor, nn
from transformers import BertModel
from own_helper import scale
from sherl.backbones import FAMILIES

class Norm(nn.Module):
    def forward(self, hidden: Tensor) -> Tensor:
        return scale(hidden)

def masks(config, mask, dtype):
    return mask
"""
HELPER = "from own_package.deep.inner import FACTOR\n\ndef scale(hidden):\n    return FACTOR.value * hidden\n"
INNER = "class Factor:\n    value = 2.0\n\nFACTOR = Factor()\n"
NAMES = ("own_module", "own_helper", "own_package", "own_package.deep", "own_package.deep.inner")


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Modules of one's own, that can be imported from a folder."""
    (tmp_path / "own_package" / "deep").mkdir(parents=True)
    (tmp_path / "own_module.py").write_text(OWN)
    (tmp_path / "own_helper.py").write_text(HELPER)
    (tmp_path / "own_package" / "__init__.py").write_text("NAME = 1\n")  # and deep has no file of its own
    (tmp_path / "own_package" / "deep" / "inner.py").write_text(INNER)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in NAMES:
        sys.modules.pop(name, None)


def module() -> Any:
    return importlib.import_module("own_module")


def with_norm() -> Backbone:
    backbone = tiny_backbone("bert")
    backbone.model.embeddings.LayerNorm = module().Norm()
    return backbone


def with_row() -> Backbone:
    backbone = tiny_backbone("bert")
    backbone.layout = replace(backbone.layout, masks=module().masks)  # type: ignore[call-arg]  # an encoder's row
    return backbone


def with_partial() -> Backbone:
    backbone = tiny_backbone("bert")
    made = functools.partial(module().masks, None)
    backbone.layout = replace(backbone.layout, masks=made)  # type: ignore[call-arg]  # an encoder's row
    return backbone


def with_function() -> Backbone:
    backbone = tiny_backbone("bert")
    backbone.model.encoder.layer[0].output.forward = module().scale
    return backbone


def test_of_libraries_versions_are_enough() -> None:
    code = code_of(tiny_backbone("bert"))
    assert (code["sources"], code["libraries"]) == ({}, {})
    assert code == code_of(tiny_backbone("bert", seed=1))
    assert code == json.loads(json.dumps(code))
    assert len({code_of(tiny_backbone(name))["row"] for name in ("bert", "electra", "t5", "vit")}) == 4


def test_what_stands_where_in_the_model_counts() -> None:
    """A class that makes another model of the same file."""
    backbone = tiny_backbone("bert")
    before = code_of(backbone)
    backbone.model.embeddings.LayerNorm = nn.Identity()
    after = code_of(backbone)
    assert before["classes"] != after["classes"]
    assert {**before, "classes": after["classes"]} == after


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize("made", [with_norm, with_row, with_partial, with_function])
def test_own_modules_and_what_they_use_are_read(made: Callable[[], Backbone]) -> None:
    code = code_of(made())
    read = {name for name in NAMES if name != "own_package.deep"}
    assert set(code["sources"]) == (read - {"own_module"} if made is with_function else read)
    assert set(code["libraries"]) <= {"numpy"}
    assert code == code_of(made())


@pytest.mark.parametrize(
    "file", ["own_module.py", "own_helper.py", "own_package/__init__.py", "own_package/deep/inner.py"]
)
def test_a_changed_file_is_other_code(own: Path, file: str) -> None:
    before = code_of(with_norm())
    (own / "not_used.py").write_text("VALUE = 1\n")
    assert code_of(with_norm()) == before
    path = own / file
    path.write_text(path.read_text() + "\nOTHER = 1\n")
    after = code_of(with_norm())
    name = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    assert {one for one in after["sources"] if after["sources"][one] != before["sources"][one]} == {name}


@pytest.mark.usefixtures("own")
def test_a_function_put_in_place_of_a_librarys_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that says that it is the library's."""
    monkeypatch.setattr(BertSelfOutput, "forward", functools.wraps(BertSelfOutput.forward)(module().scale))
    assert "own_helper" in code_of(tiny_backbone("bert"))["sources"]


def test_what_was_typed_in_is_refused() -> None:
    typed: dict[str, Any] = {"__name__": "typed_in", "nn": nn}
    exec("class Norm(nn.LayerNorm):\n    pass\n\ndef masks(*_):\n    return None", typed)
    backbone = tiny_backbone("bert")
    backbone.model.embeddings.LayerNorm = typed["Norm"](16)
    with pytest.raises(SpecError, match=r"class 'Norm' is of 'typed_in', and no such module .* Put it into a file"):
        code_of(backbone)
    backbone = tiny_backbone("bert")
    backbone.layout = replace(backbone.layout, masks=typed["masks"])  # type: ignore[call-arg]  # an encoder's row
    with pytest.raises(SpecError, match="function 'masks' is of 'typed_in'"):
        code_of(backbone)


def test_a_file_that_cannot_be_read_is_refused(own: Path) -> None:
    backbone = with_norm()
    (own / "own_helper.py").unlink()
    with pytest.raises(SpecError, match=r"module 'own_helper' is of 'own_helper', and .*No such file"):
        code_of(backbone)


@pytest.mark.slow
def test_it_is_the_same_in_another_process() -> None:
    line = (
        "import json, sys; from sherl.backbones.source_code import code_of; from tests.sherl.tiny import tiny_backbone;"
        "print(json.dumps(code_of(tiny_backbone('t5'))))"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", line], capture_output=True, text=True, check=True, cwd=root, timeout=120
    )
    assert json.loads(done.stdout) == code_of(tiny_backbone("t5"))
