"""SHERL's settings: layers by rule, presets, all layers shallow, the whole last layer."""

from __future__ import annotations

import ast
from typing import Any

import pytest
import torch

from sherl.errors import SpecError, UnsupportedBackboneError
from sherl.methods import SherlConfig, method_from_dict
from sherl.methods.kept_layers import kept_of
from sherl.methods.sherl import RELEASED_LAYERS
from tests.sherl.sherl_samples import make_tuned
from tests.sherl.texts import stirred, text_backbone, text_batch, text_model
from tests.sherl.tiny import tiny_backbone, tiny_batch

# ---------------------------------------------------------------------------- kept layers


@pytest.mark.parametrize(
    ("kept", "depth", "expected"),
    [
        (None, 3, (0, 1, 2)),
        ("all", 3, (0, 1, 2)),
        ("every:2", 12, (1, 3, 5, 7, 9, 11)),
        ("every:2", 5, (0, 2, 4)),
        ("every:1", 3, (0, 1, 2)),
        ("last:2", 24, (22, 23)),
        ("drop:0,4,8", 12, (1, 2, 3, 5, 6, 7, 9, 10, 11)),
        ((2, 0), 4, (0, 2)),
    ],
)
def test_rules_and_lists(kept: Any, depth: int, expected: tuple[int, ...]) -> None:
    assert kept_of(kept, depth, method="sherl") == expected


def test_the_papers_layers_by_rule() -> None:
    assert kept_of("drop:0,4,8", 12, method="sherl") == RELEASED_LAYERS["t5-base"]
    assert kept_of("last:2", 24, method="sherl") == RELEASED_LAYERS["t5-3b"]


@pytest.mark.parametrize("kept", ["evry:2", "every:0", "every", "last:", "last:x", "drop:", "drop:1,,2", "all:2", ""])
def test_bad_rules_say_what_is_allowed(kept: str) -> None:
    with pytest.raises(SpecError, match=r"kept_layers has no rule .*'every:K', 'last:K'.*'drop:I,J,\.\.\.'"):
        SherlConfig(kept_layers=kept)


def test_a_misspelt_rule_names_the_nearest() -> None:
    with pytest.raises(SpecError, match="Did you mean 'every'"):
        SherlConfig(kept_layers="evry:2")


@pytest.mark.parametrize("kept", [(1, 1), (-1,), (1.5,), 3, (True,)])
def test_bad_lists(kept: Any) -> None:
    with pytest.raises(SpecError, match="kept_layers must be different whole numbers"):
        SherlConfig(kept_layers=kept)


@pytest.mark.parametrize("kept", ["last:4", "every:4", "drop:3", (3,)])
def test_more_layers_than_there_are(kept: Any) -> None:
    backbone = tiny_backbone()
    with pytest.raises(SpecError, match="allowed are 0 to 2"):
        SherlConfig(kept_layers=kept).apply(backbone, seed=0)
    assert backbone.method_name is None


def test_a_rule_reads_what_its_list_reads() -> None:
    outputs = []
    for kept in ("every:2", (1, 3)):
        tuned = make_tuned(kept_layers=kept)
        assert len(tuned.added["fusion"]["3"].projection.down) == 3  # type: ignore[index]
        outputs.append(tuned(tiny_batch()))
    assert torch.equal(*outputs)


# ---------------------------------------------------------------------------- presets


def test_a_preset_stands_for_its_settings() -> None:
    config = method_from_dict({"name": "sherl", "preset": "released"})
    assert config == SherlConfig.released()
    assert isinstance(config, SherlConfig)
    assert (config.similarity, config.gate, config.expansion, config.epsilon, config.final_norm) == (
        "learned", "released", "rectified", 1e-6, "new",
    )  # fmt: skip
    assert method_from_dict({"name": "sherl", "preset": "paper"}) == SherlConfig()
    assert method_from_dict(config.to_dict()) == config  # a preset is gone once it is read


def test_what_is_given_goes_before_the_preset() -> None:
    config = SherlConfig.from_preset("released", gate="preserving", reduction_factor=4)
    assert (config.gate, config.similarity, config.reduction_factor) == ("preserving", "learned", 4)


def test_unknown_presets_are_refused() -> None:
    with pytest.raises(
        SpecError, match=r"unknown preset 'relesed'. Did you mean 'released'\? Known are: paper, released"
    ):
        method_from_dict({"name": "sherl", "preset": "relesed"})
    with pytest.raises(SpecError, match="unknown setting 'preset'"):
        method_from_dict({"name": "lora", "preset": "paper"})


@pytest.mark.parametrize("family", ["bert", "bart", "resnet", "visual_bert", "lxmert"])
def test_the_released_preset_says_what_to_add_where_no_norm_is_replaced(family: str) -> None:
    plain = {"name": "sherl", "preset": "released", "reduction_factor": 2}
    with pytest.raises(UnsupportedBackboneError, match=r"released', which says 'new': (\{.*?\})") as refusal:
        method_from_dict(plain).apply(tiny_backbone(family), seed=0)
    advice = ast.literal_eval(str(refusal.value).partition("says 'new': ")[2].partition(")")[0])
    tuned = method_from_dict({**plain, **advice}).apply(tiny_backbone(family), seed=0)
    assert "norm" not in tuned.added
    assert (tuned.config.gate, tuned.config.similarity) == ("released", "learned")  # type: ignore[attr-defined]


# ---------------------------------------------------------------------------- without late regulation


@pytest.mark.parametrize("kept", [None, (1,)])
def test_all_layers_are_shallow(kept: Any) -> None:
    tuned = make_tuned(regulate=False, kept_layers=kept, depth=3)
    batch = tiny_batch()
    out = tuned(batch)
    backbone = tuned.backbone
    mask = batch["attention_mask"][:, None, None, :].bool()
    with torch.no_grad():
        states = [backbone.model.embeddings(input_ids=batch["input_ids"], token_type_ids=batch["token_type_ids"])]
        for block in backbone.blocks:
            states.append(block(states[-1], mask))
    chosen = states if kept is None else [states[0], states[2], states[3]]
    torch.testing.assert_close(out, tuned.added["fusion"]["end"](chosen))  # type: ignore[index]
    assert tuned.first_trainable_layer == backbone.depth
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in tuned.trainable().values())


@pytest.mark.parametrize("name", ["t5", "modernbert", "bart"])
def test_the_fusion_goes_through_the_final_norm(name: str) -> None:
    model = tiny_backbone(name)
    batch = tiny_batch()
    with torch.no_grad():
        before = model.encode(batch)
    tuned = SherlConfig(regulate=False, reduction_factor=2).apply(model, seed=0)
    closed = tuned(batch)
    torch.testing.assert_close(closed, before)
    with torch.no_grad():
        for parameter in tuned.trainable().values():
            parameter.add_(0.2)
    seen: list[torch.Tensor] = []
    fusion = tuned.added["fusion"]["end"]  # type: ignore[index]
    fusion.register_forward_hook(lambda _m, _i, output: seen.append(output))
    out = tuned(batch)
    norm = model.final_norm_of(model.stack_of(model.depth - 1))
    torch.testing.assert_close(out, seen[0] if norm is None else norm(seen[0]))
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("use_cache", [True, False])
def test_without_regulation_text_is_written_alike_with_and_without_cache(use_cache: bool) -> None:
    model = stirred(text_model({"name": "sherl", "regulate": False, "reduction_factor": 4}))
    written = model.tuned.generate(text_batch(), 4, whole_length=True, use_cache=use_cache)
    prefix = text_backbone()._start(text_batch()["input_ids"])  # type: ignore[attr-defined]
    for _ in range(4):
        with torch.no_grad():
            hidden = model.tuned({**text_batch(), "decoder_input_ids": prefix})
        best = model.tuned.backbone.vocabulary_logits(hidden[:, -1:]).argmax(dim=-1)
        prefix = torch.cat([prefix, best], dim=1)
    real = written != -100
    assert torch.equal(written[real], prefix[:, 1:][real])
    assert real.any()


def test_a_late_route_needs_a_late_block() -> None:
    with pytest.raises(SpecError, match="regulate false leaves no late block for the late route 'lora'"):
        SherlConfig(regulate=False, late_route="lora")  # type: ignore[arg-type]


# ---------------------------------------------------------------------------- the whole last layer


def test_all_weights_of_the_late_blocks_train_and_come_back() -> None:
    tuned = make_tuned(late_route="full", start_layer=2)
    backbone = tuned.backbone
    late = {f"late.encoder.layer.{n}.{k}" for n in (2, 3) for k, _ in backbone.blocks[n].named_parameters()}
    assert {name for name in tuned.trainable() if name.startswith("late.")} == late
    before = [parameter.detach().clone() for parameter in backbone.model.parameters()]
    optimizer = torch.optim.AdamW(tuned.trainable().values(), lr=0.1)
    tuned.train()(tiny_batch()).square().sum().backward()
    optimizer.step()
    moved = [not torch.equal(a, b) for a, b in zip(before, backbone.model.parameters(), strict=True)]
    assert sum(moved) == len(late)
    tuned.remove()
    assert all(torch.equal(a, b) for a, b in zip(before, backbone.model.parameters(), strict=True))
