"""What trials read of a store, what they need not load, and why some do without: known from configurations alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from sherl.backbones import Backbone, Without, backbone_from_config
from sherl.features import Place
from sherl.methods import METHODS, method_from_dict
from sherl.sharing import needs_of, stacks_to_store, why_not, without_for
from tests.sherl.feature_samples import READERS, model_of
from tests.sherl.test_features_training import CONTINUED
from tests.sherl.texts import WRITTEN
from tests.sherl.tiny import ALL_FAMILIES, CLASSIFICATION, tiny_backbone, tiny_config


def on_meta(family: str) -> Backbone:
    with torch.device("meta"):
        return backbone_from_config(tiny_config(family))


def blocks(*numbers: int) -> set[Place]:
    return {Place("blocks", n) for n in numbers}


@pytest.mark.parametrize(
    ("settings", "needed"),
    [
        ({"name": "sherl"}, blocks(0, 1, 2)),
        ({"name": "sherl", "start_layer": 1}, blocks(0, 1)),
        ({"name": "sherl", "start_layer": 1, "insertion": "multi"}, blocks(0, 1)),
        ({"name": "sherl", "kept_layers": [1]}, blocks(0, 2)),
        ({"name": "sherl", "regulate": False}, blocks(0, 1, 2, 3)),
        ({"name": "unipt"}, blocks(0, 1, 2, 3)),
        ({"name": "unipt", "kept_layers": [2]}, blocks(0, 3)),
        ({"name": "ladder"}, blocks(0, 1, 2, 3)),
        ({"name": "ladder", "kept_layers": [0]}, blocks(0, 1, 3)),
        ({"name": "linear_probe"}, blocks(3)),
        ({"name": "lora"}, set()),
    ],
)
def test_the_places_that_a_method_needs(settings: dict[str, Any], needed: set[Place]) -> None:
    backbone = on_meta("bert")
    assert needs_of(method_from_dict(settings), CLASSIFICATION, backbone) == needed
    assert backbone.method_name is None
    assert needs_of(method_from_dict(settings), CLASSIFICATION, tiny_backbone("bert")) == needed


def test_the_places_of_two_stacks() -> None:
    backbone = on_meta("t5")
    encoder = {Place("encoder", n) for n in range(4)}
    single = method_from_dict({"name": "sherl"})
    assert needs_of(single, CLASSIFICATION, backbone) == encoder | {Place("decoder", n) for n in range(3)}
    assert needs_of(single, WRITTEN, backbone) == encoder
    probe = method_from_dict({"name": "linear_probe"})
    assert needs_of(probe, CLASSIFICATION, backbone) == {Place("decoder", 3)}
    assert without_for(probe, CLASSIFICATION, backbone, ["decoder"]) == Without(6, ("encoder", "decoder"), True)
    assert without_for(single, WRITTEN, backbone, ["encoder"]) == Without(5, ("encoder",), False)


@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_every_method_is_told_alike_with_weights_and_without(family: str) -> None:
    """A model's own needs are those that its configuration tells."""
    backbone = on_meta(family)
    for name in ("multi", "unipt", "linear_probe"):
        settings = READERS[name]
        method = method_from_dict(settings)
        reason = why_not(method, CLASSIFICATION, backbone)
        if reason is None:
            assert needs_of(method, CLASSIFICATION, backbone) == model_of(family, settings).tuned.needs()
        else:
            assert family in ("lxmert", "vilt", "visual_bert")
            assert family in reason
            assert needs_of(method, CLASSIFICATION, backbone) == frozenset()


def test_why_a_trial_does_without() -> None:
    def told(family: str, settings: Any, task: Any = CLASSIFICATION) -> str:
        reason = why_not(method_from_dict(settings), task, on_meta(family))
        assert reason is not None
        return reason

    for name in ("full", "lora", "adapter", "bitfit", "prompt"):
        assert f"method {name} trains something in all blocks" in told("bert", name)
    assert set(METHODS.names()) == {
        "full",
        "lora",
        "adapter",
        "bitfit",
        "prompt",
        "sherl",
        "unipt",
        "ladder",
        "linear_probe",
    }
    assert "two streams" in told("lxmert", "sherl")
    assert "padding stands in the middle" in told("vilt", "sherl")
    assert "write text" in told("gpt2", "sherl", WRITTEN)
    assert why_not(method_from_dict("sherl"), CONTINUED, on_meta("gpt2")) is None
    assert why_not(method_from_dict("sherl"), WRITTEN, on_meta("bart")) is None
    assert stacks_to_store(WRITTEN, on_meta("gpt2")) == ()
    assert stacks_to_store(WRITTEN, on_meta("bart")) == ("encoder",)


def test_a_family_that_was_found_by_structure_does_without() -> None:
    config = transformers.ErnieConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24
    )
    with torch.device("meta"):
        backbone = backbone_from_config(config)
    assert "its row does not say" in str(why_not(method_from_dict("sherl"), CLASSIFICATION, backbone))


def test_what_starts_from_pretrained_weights_loads_all_of_them() -> None:
    backbone = on_meta("bert")
    pruned, drawn = (method_from_dict({"name": "ladder", "initialisation": how}) for how in ("magnitude", "random"))
    assert without_for(pruned, CLASSIFICATION, backbone, ["blocks"]) is None
    assert without_for(drawn, CLASSIFICATION, backbone, ["blocks"]) == Without(3, ("blocks",), True)
    assert without_for(method_from_dict("lora"), CLASSIFICATION, backbone, ["blocks"]) is None
    assert without_for(method_from_dict("sherl"), CLASSIFICATION, backbone, []) is None
    assert without_for(method_from_dict("sherl"), CONTINUED, on_meta("gpt2"), ["blocks"]) == Without(
        2, ("blocks",), False
    )
