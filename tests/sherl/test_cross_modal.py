"""The cross-modal kind: text and image in one stream, nothing drawn by chance, padding of either masked."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from sherl.backbones import backbone_from_config, load_backbone
from sherl.errors import SpecError, UnsupportedBackboneError
from sherl.insertion import block_calls
from sherl.methods import method_from_dict
from tests.sherl.tiny import CROSS_MODAL, tiny_backbone, tiny_batch, tiny_config, tiny_regions, wider
from tests.sherl.tiny_configs import PAD, WIDTH

each = pytest.mark.parametrize("family", CROSS_MODAL)
joint = pytest.mark.parametrize("family", ["vilt", "visual_bert"])
TOKENS = 9


def joint_batch(family: str, **options: Any) -> dict[str, Tensor]:
    return {**tiny_batch(tokens=TOKENS, **options), **tiny_regions(family)}


def own(backbone: Any, batch: dict[str, Tensor]) -> Any:
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    if backbone.family == "vilt":
        inputs["pixel_mask"] = torch.ones(3, *batch["pixel_values"].shape[2:], dtype=torch.int64)
    with torch.no_grad():
        return backbone.model(**inputs, output_hidden_states=True)


@joint
def test_hidden_states_are_transformers_own(family: str) -> None:
    backbone, batch = tiny_backbone(family), joint_batch(family)
    seen: dict[int, Tensor] = {}
    with (
        torch.no_grad(),
        block_calls(dict(enumerate(backbone.blocks)), lambda layer, call: seen.setdefault(layer, call.hidden) is None),
    ):
        hidden = backbone.encode(batch)
    expected, keep = own(backbone, batch), backbone.keep(batch)
    # transformers draws the order of ViLT's patches: text and class token stand still
    still = TOKENS + 1 if family == "vilt" else hidden.shape[1]
    kept = keep[:, :still]
    torch.testing.assert_close(
        hidden[:, :still][kept], expected.last_hidden_state[:, :still][kept], atol=1e-5, rtol=1e-5
    )
    for layer in range(backbone.depth):
        theirs = expected.hidden_states[layer]
        torch.testing.assert_close(seen[layer][:, :still][kept], theirs[:, :still][kept], atol=1e-5, rtol=1e-5)
    if family == "vilt":  # and the patches are theirs in some order
        ours = seen[0][0, still:].sort(dim=0).values
        assert torch.allclose(ours, expected.hidden_states[0][0, still:].sort(dim=0).values, atol=1e-5)
    pooled = backbone.pool(hidden, backbone.pooled_mask(batch))
    assert torch.equal(pooled, hidden[:, 0])


def test_lxmerts_stream_is_the_text_which_reads_the_image() -> None:
    backbone, batch = tiny_backbone("lxmert"), joint_batch("lxmert")
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    mask = torch.tensor([[1, 1, 1, 0, 0]]).expand(3, -1)
    keep = batch["attention_mask"].bool()
    with torch.no_grad():
        for more in ({}, {"visual_attention_mask": mask}):
            expected = backbone.model(**inputs, **more, output_hidden_states=True)
            hidden = backbone.encode({**batch, **more})
            torch.testing.assert_close(hidden[keep], expected.language_output[keep], atol=1e-5, rtol=1e-5)
        blind = backbone.encode({**batch, "visual_feats": torch.zeros_like(batch["visual_feats"])})
    assert not torch.allclose(blind, hidden, atol=1e-3)
    assert backbone.depth == 3
    for method in ({"name": "prompt"}, {"name": "sherl", "reduction_factor": 4, "late_route": "prompt"}):
        with pytest.raises(UnsupportedBackboneError, match="two streams"):
            method_from_dict(method).apply(backbone, seed=0)


@each
def test_what_counts_is_the_text_without_padding_and_the_whole_image(family: str) -> None:
    backbone, batch = tiny_backbone(family), joint_batch(family)
    keep = backbone.keep(batch)
    regions = {"vilt": 1 + 4 * 4, "visual_bert": 5, "lxmert": 0}[family]
    assert keep.shape == (3, TOKENS + regions)
    assert torch.equal(keep[:, :TOKENS], batch["attention_mask"].bool())
    assert bool(keep[:, TOKENS:].all())


@each
def test_images_come_in_order_and_the_same_in_every_pass(family: str) -> None:
    backbone, batch = tiny_backbone(family), joint_batch(family)
    with torch.no_grad():
        torch.manual_seed(1)
        first = backbone.encode(batch)
        torch.manual_seed(2)
        assert torch.equal(backbone.encode(batch), first)


@each
def test_padding_never_leaks_into_image_or_text(family: str) -> None:
    backbone, batch = tiny_backbone(family), joint_batch(family)
    keep = backbone.keep(batch)
    other = {**batch, "input_ids": torch.where(batch["attention_mask"].bool(), batch["input_ids"], 7)}
    long = wider(batch, 4)
    with torch.no_grad():
        hidden = backbone.encode(batch)
        torch.testing.assert_close(backbone.encode(other)[keep], hidden[keep], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(backbone.encode(long)[backbone.keep(long)], hidden[keep], atol=1e-5, rtol=1e-5)


def test_regions_that_do_not_count_are_not_seen() -> None:
    backbone, batch = tiny_backbone("visual_bert"), joint_batch("visual_bert")
    mask = torch.tensor([[1, 1, 1, 0, 0]]).expand(3, -1)
    fewer = {**batch, "visual_embeds": batch["visual_embeds"][:, :3]}
    with torch.no_grad():
        masked = backbone.encode({**batch, "visual_attention_mask": mask})[:, : TOKENS + 3]
        keep = backbone.keep(fewer)
        torch.testing.assert_close(masked[keep], backbone.encode(fewer)[keep], atol=1e-5, rtol=1e-5)


def test_images_of_another_size_interpolate_the_position_table() -> None:
    backbone = tiny_backbone("vilt")
    batch = {**joint_batch("vilt"), "pixel_values": torch.randn(3, 3, 12, 10)}
    with torch.no_grad():
        hidden = backbone.encode(batch)
    keep = batch["attention_mask"].bool()
    expected = own(backbone, batch).last_hidden_state
    assert hidden.shape[1] == TOKENS + 1 + 6 * 5
    torch.testing.assert_close(hidden[:, :TOKENS][keep], expected[:, :TOKENS][keep], atol=1e-5, rtol=1e-5)


@each
def test_sherl_with_a_closed_gate_is_the_untouched_backbone(family: str) -> None:
    backbone, batch = tiny_backbone(family), joint_batch(family)
    with torch.no_grad():
        hidden = backbone.encode(batch)
    for insertion in ("single", "multi"):
        tuned = method_from_dict(
            {"name": "sherl", "reduction_factor": 4, "insertion": insertion, "start_layer": -2}
        ).apply(backbone, seed=0)
        with torch.no_grad():
            torch.testing.assert_close(tuned(batch), hidden, atol=1e-5, rtol=1e-5)
        tuned.remove()


@joint
def test_prompts_are_seen_and_cut_off(family: str) -> None:
    backbone, batch = tiny_backbone(family), joint_batch(family)
    with torch.no_grad():
        hidden = backbone.encode(batch)
        for method in (
            {"name": "prompt", "num_prompts": 3},
            {"name": "sherl", "reduction_factor": 4, "late_route": {"name": "prompt", "num_prompts": 3}},
        ):
            tuned = method_from_dict(method).apply(backbone, seed=0)
            prompted = tuned(batch)
            assert prompted.shape == hidden.shape
            assert not torch.allclose(prompted, hidden, atol=1e-4)
            tuned.remove()


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("vilt", {"pixel_values": None}, "no pixel_values: a vilt model reads input_ids and pixel_values"),
        ("visual_bert", {"visual_embeds": None}, "no visual_embeds"),
        ("visual_bert", {"visual_embeds": torch.zeros(3, 5, 7)}, r"\[3, 5, 7\]: \[batch, regions, 12\] was expected"),
        (
            "lxmert",
            {"visual_pos": None},
            "no visual_pos: a lxmert model reads input_ids and visual_feats and visual_pos",
        ),
        ("vilt", {"pixel_mask": torch.ones(3, 8, 8)}, "one size"),
        ("vilt", {"pixel_values": torch.zeros(3, 1, 8, 8)}, "3 channels"),
        ("vilt", {"input_ids": torch.full((3, 41), PAD), "attention_mask": torch.ones(3, 41)}, "41 tokens.*at most 40"),
    ],
)
def test_bad_batches_are_refused(family: str, changes: dict[str, Tensor | None], message: str) -> None:
    changed = {**joint_batch(family), **changes}
    batch = {name: tensor for name, tensor in changed.items() if tensor is not None}
    with pytest.raises(SpecError, match=message):
        tiny_backbone(family).encode(batch)


def test_configurations_under_which_there_is_no_whole_stream_are_refused() -> None:
    config = tiny_config("vilt")
    config.max_image_length = 10
    with pytest.raises(SpecError, match=r"16 patches.*max_image_length is 10"):
        backbone_from_config(config).encode(joint_batch("vilt"))
    bypassing = transformers.VisualBertConfig(**{**tiny_config("visual_bert").to_dict(), "bypass_transformer": True})
    with pytest.raises(SpecError, match="bypass_transformer"):
        backbone_from_config(bypassing).encode(joint_batch("visual_bert"))


@each
def test_saved_models_load(family: str, tmp_path: Any) -> None:
    backbone, batch = tiny_backbone(family), joint_batch(family)
    backbone.model.save_pretrained(tmp_path)
    loaded = load_backbone(str(tmp_path))
    with torch.no_grad():
        torch.testing.assert_close(loaded.encode(batch), backbone.encode(batch))
    assert (loaded.width, len(loaded.fingerprint)) == (WIDTH, 64)
