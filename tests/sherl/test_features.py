"""Batches that bring stored hidden states: the same results to the bit, and nothing early computes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from sherl.backbones import FAMILIES
from sherl.errors import UnsupportedBackboneError
from sherl.features import SHAPE_ALONE, Place, feature_name, features_of, place_of, stacks_stored
from sherl.forms import without_values
from sherl.insertion import block_calls
from sherl.methods.tuned import Route
from sherl.model import TaskModel
from sherl.spec import TaskSpec
from tests.sherl.feature_samples import (
    READERS,
    STORED,
    learnt,
    model_of,
    poisoned,
    recorded,
    same,
    with_features,
)
from tests.sherl.tiny import ALL_FAMILIES, CLASSIFICATION, batch_for

JOINT = ("vilt", "visual_bert")  # a text's padding stands in the middle of their rows
NUMBER = TaskSpec(kind="regression", metric="pearson")


def carried(family: str, method: dict[str, Any], **settings: Any) -> TaskModel:
    try:
        return model_of(family, method, **settings)
    except UnsupportedBackboneError:
        pytest.skip("the family refuses the method")


def test_names_say_the_place_and_nothing_else_is_taken_for_one() -> None:
    place = Place("encoder", 12)
    assert feature_name(place) == "features.encoder.12"
    assert place_of(feature_name(place)) == place
    assert [place_of(name) for name in ("input_ids", "features", "features.blocks", "features.blocks.x")] == [None] * 4
    batch = {"labels": torch.zeros(1), "features.blocks.3": torch.ones(1)}
    assert list(features_of(batch)) == [Place("blocks", 3)]
    assert stacks_stored(["labels", "features.decoder.1", "features.encoder.0"]) == ("decoder", "encoder")


def test_families_without_say_why() -> None:
    others = set(ALL_FAMILIES) - set(STORED)
    assert "lxmert" in others
    assert all("its row does not say" not in FAMILIES.get(name).no_features for name in others)


@pytest.mark.parametrize("method", READERS)
@pytest.mark.parametrize("family", STORED)
def test_a_pass_on_stored_states_is_the_same_to_the_bit(family: str, method: str) -> None:
    """Outputs, loss and every gradient; and although all early weights and token tables are NaN by then."""
    model, batch = carried(family, READERS[method]), batch_for(family, rows=4)
    states = recorded(model.tuned.backbone, batch)
    full = with_features(model, batch, states)
    live = learnt(model, batch)
    poisoned(model)
    assert all(bool(torch.isfinite(value).all()) for value in live.values())
    assert same(learnt(model, full), live)
    assert same(learnt(model, without_values(full, SHAPE_ALONE)), live), "of images the shape alone is looked at"
    assert not same(learnt(model, batch), live), "without stored states the early blocks do run"
    assert all(torch.equal(hidden, states[place]) for place, hidden in features_of(full).items())


@pytest.mark.parametrize(
    ("family", "stack"), [("bert", "blocks"), ("t5", "decoder"), ("resnet", "blocks"), ("gpt2", "blocks")]
)
def test_nothing_is_copied(family: str, stack: str) -> None:
    """What the route reads, and the first late block gets, is the batch's own tensor."""
    model, batch = model_of(family, READERS["sherl"]), batch_for(family, rows=4)
    backbone, first = model.tuned.backbone, model.tuned.first_trainable_layer
    full = with_features(model, batch, recorded(backbone, batch))
    span, seen = backbone.stacks[stack], dict[int, Tensor]()

    class Looking(Route):
        def run(self, batch: Any) -> Any:
            blocks = {layer: backbone.blocks[layer] for layer in range(span.start, first + 1)}
            return self._looking(blocks)

        @contextmanager
        def _looking(self, blocks: Any) -> Iterator[Any]:
            with block_calls(blocks, lambda layer, call: seen.__setitem__(layer - span.start, call.hidden)):
                yield lambda last: last

        def reads(self) -> dict[str, tuple[int, ...]]:
            return {name: tuple(range(len(span) + 1)) for name, span in backbone.stacks.items()}

    model.tuned.route = Looking()
    model(full)
    assert sorted(seen) == list(range(first - span.start + 1))
    assert all(hidden is full[feature_name((stack, n))] for n, hidden in seen.items())


def each_row_alone(model: TaskModel, batch: dict[str, Tensor]) -> dict[Place, Tensor]:
    """Hidden states of each row's own tokens, computed without any padding, put together with zeros at padding."""
    found: dict[Place, list[Tensor]] = {}
    for row in range(len(batch["labels"])):
        one = {name: tensor[row : row + 1] for name, tensor in batch.items()}
        if "attention_mask" in one:
            tokens = int(one["attention_mask"].sum())
            one = {name: tensor[:, :tokens] if tensor.ndim > 1 else tensor for name, tensor in one.items()}
        for place, hidden in recorded(model.tuned.backbone, one).items():
            found.setdefault(place, []).append(hidden[0])
    made = {}
    for place, rows in found.items():
        if rows[0].ndim == 2:  # [tokens, width]
            longest = max(len(row) for row in rows)
            rows = [torch.nn.functional.pad(row, (0, 0, 0, longest - len(row))) for row in rows]
        made[place] = torch.stack(rows)
    return made


@pytest.mark.parametrize("method", ["late-lora", "unipt"])
@pytest.mark.parametrize("family", [name for name in STORED if name not in JOINT])
def test_states_of_rows_on_their_own_are_as_good(family: str, method: str) -> None:
    """In float64, where rounding cannot hide a token that saw padding, or a late block that reads it."""
    model = carried(family, READERS[method], dtype=torch.float64)
    assert differences(family, model) <= 2e-7  # the head computes in float32


@pytest.mark.parametrize("task", [CLASSIFICATION, NUMBER], ids=["classes", "numbers"])
@pytest.mark.parametrize("method", ["sherl", "multi", "ladder"])
@pytest.mark.parametrize("family", ["bert", "mpnet", "t5", "bart", "vit", "dinov2", "resnet", "llama"])
def test_in_float32_they_are_the_same_to_a_millionth(family: str, method: str, task: TaskSpec) -> None:
    assert differences(family, carried(family, READERS[method], task=task)) <= 1e-6


def differences(family: str, model: TaskModel) -> float:
    """The largest difference that it makes, beside the largest value of its kind: what rows cancel out of a gradient is
    rounded as what is added up there is large."""
    batch = batch_for(family, rows=5)
    if model.task.kind == "regression":
        batch["labels"] = batch["labels"].float()
    live = learnt(model, batch)
    stored = learnt(model, with_features(model, batch, each_row_alone(model, batch)))
    assert stored.keys() == live.keys()
    worst = 0.0
    for kind in ("outputs", "loss", "gradient"):
        names = [name for name in live if name.startswith(kind)]
        largest = max(float(live[name].abs().max()) for name in names)
        worst = max([worst, *(float((stored[name] - live[name]).abs().max()) / largest for name in names)])
    return worst
