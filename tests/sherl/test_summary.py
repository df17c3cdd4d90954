"""What summaries say of every method: what trains and where, what is tapped, what is kept."""

from __future__ import annotations

from typing import Any

import pytest

from sherl.methods import METHODS, method_from_dict
from sherl.summary import Summary, spans, summarize
from tests.sherl.texts import text_backbone
from tests.sherl.tiny import tiny_backbone


def of(family: str = "bert", **plain: Any) -> Summary:
    backbone = text_backbone(family) if family == "t5" else tiny_backbone(family)
    return summarize(
        method_from_dict({"reduction_factor": 2, **plain} if "name" not in plain else plain).apply(backbone, seed=0)
    )


def sherl(family: str = "bert", **settings: Any) -> Summary:
    return of(family, name="sherl", reduction_factor=2, **settings)


@pytest.mark.parametrize("name", METHODS.names())
def test_every_method_has_one(name: str) -> None:
    plain = {"name": name, "reduction_factor": 2} if name in ("sherl", "ladder", "unipt") else {"name": name}
    summary = of(**plain)
    said = str(summary)
    assert f"{name} on bert: gradients in {3 - summary.first_trainable_layer} of 3 blocks" in said
    assert "taps " in said
    assert "keeps for backward" in said
    for part, count in summary.trainable.items():
        assert f"trainable: {part}" in said
        assert f"{count:,}" in said


@pytest.mark.parametrize(
    ("plain", "blocks"),
    [
        ({"name": "lora"}, {"lora": (0, 1, 2)}),
        ({"name": "adapter"}, {"adapter": (0, 1, 2)}),
        ({"name": "bitfit"}, {"biases": (0, 1, 2)}),
        ({"name": "full"}, {"model": (0, 1, 2)}),
        ({"name": "prompt"}, {}),
        ({"name": "linear_probe"}, {}),
        ({"name": "unipt"}, {}),
        ({"name": "sherl", "reduction_factor": 2, "late_route": "lora"}, {"late": (2,)}),
        ({"name": "sherl", "reduction_factor": 2, "late_route": "adapter", "start_layer": 1}, {"late": (1, 2)}),
        ({"name": "sherl", "reduction_factor": 2, "late_route": "full", "start_layer": 1}, {"late": (1, 2)}),
    ],
    ids=str,
)
def test_where_parts_lie(plain: dict[str, Any], blocks: dict[str, tuple[int, ...]]) -> None:
    assert of(**plain).blocks == blocks


def test_what_is_tapped() -> None:
    assert sherl().tapped == {"blocks": (0, 1, 2)}
    assert sherl(kept_layers=[0], start_layer=2).tapped == {"blocks": (0, 1, 2)}
    assert sherl(kept_layers=[], start_layer=2).tapped == {"blocks": (0, 2)}
    assert sherl(start_layer=1).tapped == {"blocks": (0, 1)}
    assert sherl(start_layer=1, insertion="multi").tapped == {"blocks": (0, 1, 2)}
    assert sherl(regulate=False, kept_layers="last:1").tapped == {"blocks": (0, 3)}
    assert sherl("t5").tapped == {"encoder": (0, 1, 2, 3), "decoder": (0, 1, 2)}
    assert of("t5", name="unipt", kept_layers="drop:0").tapped == {"encoder": (0, 2, 3), "decoder": (0, 2, 3)}
    assert of("t5", name="ladder", reduction_factor=2, kept_layers=[1]).tapped == {"encoder": (0, 2), "decoder": (0, 2)}
    assert of(name="lora").tapped == {}


def test_what_is_kept() -> None:
    assert of(name="lora").kept == ("the activations of all blocks, 16 wide",)
    again = of(name="full", activation_checkpointing=True)
    assert again.kept == ("the inputs alone (they run again in backward) of all blocks, 16 wide",)
    late = sherl(start_layer=1).kept
    assert late[0] == "the activations of blocks 1-2, 16 wide"
    assert late[1].startswith("2 hidden states, 16 wide")
    assert late[2].startswith("of the fusion")
    assert "2 fusions" in sherl("t5").kept[-1]
    assert "6 figures of tokens x tokens" in of("t5", name="unipt").kept[-1]
    assert of(name="ladder", reduction_factor=2).kept[-1].endswith("activations of its 3 blocks, 8 wide")
    probe = of(name="linear_probe")
    assert probe.kept == ()
    assert "nothing of the backbone" in str(probe)
    assert "taps                  nothing" in str(probe)


def test_spans() -> None:
    assert spans([3, 0, 1, 2, 7]) == "0-3, 7"
    assert spans([]) == ""
