"""The vision kind: hidden states are transformers' own, images of other sizes, stages of other widths."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from sherl.backbones import backbone_from_config, load_backbone, load_config
from sherl.backbones.images import pooled_to
from sherl.errors import SpecError, UnsupportedBackboneError
from sherl.insertion import block_calls
from sherl.methods import method_from_dict
from sherl.model import build_model
from tests.sherl.tiny import CLASSIFICATION, VISION, batch_for, tiny_backbone, tiny_images
from tests.sherl.tiny_configs import VOCABULARY

# what gives transformers' pooled vector, from the model's output
POOLED = {
    "vit": lambda out: out.last_hidden_state[:, 0],
    "deit": lambda out: out.last_hidden_state[:, 0],
    "dinov2": lambda out: out.pooler_output,
    "clip_vision_model": lambda out: out.pooler_output,
    "siglip_vision_model": lambda out: out.last_hidden_state.mean(dim=1),
    "swin": lambda out: out.last_hidden_state.mean(dim=1),
    "swinv2": lambda out: out.last_hidden_state.mean(dim=1),
}
STAGES = ("swin", "swinv2")
each = pytest.mark.parametrize("family", VISION)


def own(backbone: Any, batch: dict[str, Tensor], **options: Any) -> Any:
    with torch.no_grad():
        return backbone.model(pixel_values=batch["pixel_values"], output_hidden_states=True, **options)


@each
def test_hidden_states_and_pooled_vectors_are_transformers_own(family: str) -> None:
    backbone, batch = tiny_backbone(family), tiny_images(family)
    seen: dict[int, Tensor] = {}
    with (
        torch.no_grad(),
        block_calls(dict(enumerate(backbone.blocks)), lambda layer, call: seen.setdefault(layer, call.hidden) is None),
    ):
        hidden = backbone.encode(batch)
        pooled = backbone.pool(hidden, backbone.pooled_mask(batch))
    expected = own(backbone, batch)
    assert torch.allclose(pooled, POOLED[family](expected), atol=1e-6)
    assert sorted(seen) == list(range(backbone.depth))
    assert [seen[layer].shape[-1] for layer in seen] == [backbone.width_of(layer) for layer in seen]
    assert tuple(backbone.keep(batch).shape) == tuple(seen[0].shape[:2])
    assert bool(backbone.keep(batch).all())
    if family not in STAGES:  # transformers gives Swin's hidden states by stage
        for layer in range(backbone.depth):
            assert torch.allclose(seen[layer], expected.hidden_states[layer], atol=1e-6), layer


@pytest.mark.parametrize("family", [name for name in VISION if name not in STAGES])
def test_images_of_another_size_interpolate_the_position_table(family: str) -> None:
    backbone, batch = tiny_backbone(family), tiny_images(family, size=12)
    options = {} if family == "dinov2" else {"interpolate_pos_encoding": True}
    with torch.no_grad():
        hidden = backbone.encode(batch)
        pooled = backbone.pool(hidden, backbone.pooled_mask(batch))
    assert torch.allclose(pooled, POOLED[family](own(backbone, batch, **options)), atol=1e-6)
    assert backbone.keep(batch).shape[1] == hidden.shape[1]


@pytest.mark.parametrize("family", STAGES)
def test_models_with_stages_take_other_square_sizes(family: str) -> None:
    backbone, batch = tiny_backbone(family), tiny_images(family, size=24)
    with torch.no_grad():
        hidden = backbone.encode(batch)
    torch.testing.assert_close(hidden, own(backbone, batch, interpolate_pos_encoding=True).last_hidden_state)
    tuned = method_from_dict({"name": "sherl", "reduction_factor": 4}).apply(backbone, seed=0)
    assert tuned(batch).shape == hidden.shape


def test_dinov2_reads_56_pixels() -> None:
    config = transformers.Dinov2Config(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=518, patch_size=14
    )
    backbone = backbone_from_config(config)
    batch = {"pixel_values": torch.randn(2, 3, 56, 56)}
    with torch.no_grad():
        assert backbone.encode(batch).shape == (2, 17, 16)
    assert backbone.keep(batch).shape == (2, 17)


def test_the_giant_dinov2_has_another_last_layer() -> None:
    config = transformers.Dinov2Config(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=8, patch_size=2, use_swiglu_ffn=True
    )
    backbone = backbone_from_config(config)
    assert backbone.modules_of(0, backbone.stack_of(0).feed_forward_output) == ["mlp.down_proj"]


def test_bad_images_are_refused() -> None:
    backbone = tiny_backbone("vit")
    with pytest.raises(SpecError, match=r"pixel_values.*given were input_ids"):
        backbone.encode({"input_ids": torch.ones(1, 2, dtype=torch.int64)})
    with pytest.raises(SpecError, match=r"\[2, 1, 8, 8\].*3 channels"):
        backbone.encode({"pixel_values": torch.zeros(2, 1, 8, 8)})
    with pytest.raises(SpecError, match=r"1 x 8 pixels.*at least 2 x 2"):
        backbone.encode({"pixel_values": torch.zeros(2, 3, 1, 8)})
    with pytest.raises(SpecError, match="square"):
        tiny_backbone("swin").encode({"pixel_values": torch.zeros(2, 3, 16, 8)})


def test_images_are_cast_to_the_weights_precision() -> None:
    backbone = tiny_backbone("dinov2", dtype=torch.bfloat16)
    batch = tiny_images("dinov2")
    hidden = backbone.encode(batch)
    assert batch["pixel_values"].dtype == torch.float32
    assert hidden.dtype == torch.bfloat16
    assert backbone.pool(hidden, backbone.pooled_mask(batch)).dtype == torch.float32


def test_an_early_stage_of_swin_is_pooled_to_a_later_grid() -> None:
    backbone = tiny_backbone("swin")
    early, late = torch.randn(2, 64, 8), torch.randn(2, 16, 16)
    cells = early.view(2, 4, 2, 4, 2, 8)  # rows of cells, rows in a cell, columns of cells, columns in a cell
    expected = cells.amax(dim=(2, 4)) + cells.mean(dim=(2, 4))
    assert torch.allclose(backbone.as_tokens(early, late), expected.reshape(2, 16, 8), atol=1e-6)
    assert backbone.as_tokens(late, late) is late


def test_sizes_that_do_not_divide_are_pooled_over_cells_that_overlap() -> None:
    maps = torch.arange(5.0).view(1, 1, 1, 5)
    # cells of 5 columns on 2: 0 to 2 and 2 to 4
    assert pooled_to(maps, (1, 2)).flatten().tolist() == [2 + 1, 4 + 3]
    assert pooled_to(maps, (1, 5)) is maps


@each
def test_sherl_with_a_closed_gate_is_the_untouched_backbone(family: str) -> None:
    backbone, batch = tiny_backbone(family), tiny_images(family)
    with torch.no_grad():
        hidden = backbone.encode(batch)
    for insertion in ("single", "multi"):
        method = method_from_dict({"name": "sherl", "reduction_factor": 4, "insertion": insertion, "start_layer": -2})
        tuned = method.apply(backbone, seed=0)
        with torch.no_grad():
            assert torch.allclose(tuned(batch), hidden, atol=1e-6)
        tuned.remove()


def test_a_new_final_norm_takes_the_place_of_clips() -> None:
    backbone, batch = tiny_backbone("clip_vision_model"), tiny_images("clip_vision_model")
    method = method_from_dict({"name": "sherl", "reduction_factor": 4, "final_norm": "new"})
    tuned = method.apply(backbone, seed=0)
    with torch.no_grad():
        hidden = tuned(batch)
    assert torch.allclose(hidden.mean(dim=-1), torch.zeros(hidden.shape[:2]), atol=1e-5)


def test_prompts_stand_behind_no_window() -> None:
    for method in ({"name": "prompt"}, {"name": "sherl", "late_route": "prompt", "reduction_factor": 4}):
        with pytest.raises(UnsupportedBackboneError, match="windows"):
            method_from_dict(method).apply(tiny_backbone("swin"), seed=0)


def test_prompts_change_the_class_token_and_are_cut_off() -> None:
    backbone, batch = tiny_backbone("vit"), tiny_images("vit")
    with torch.no_grad():
        plain = backbone.encode(batch)
        tuned = method_from_dict({"name": "prompt", "num_prompts": 3}).apply(backbone, seed=0)
        prompted = tuned(batch)
        # prompts stand in front: the model by hand, with the vectors before everything else
        vectors = tuned.trainable()["prompt.vectors"]
        hidden = backbone.model.embeddings(batch["pixel_values"])
        hidden = torch.cat([vectors[None].expand(3, -1, -1), hidden], dim=1)
        for block in backbone.blocks:
            hidden = block(hidden, None)
        by_hand = backbone.model.layernorm(hidden)[:, 3:]
    assert prompted.shape == plain.shape
    assert torch.allclose(prompted, by_hand, atol=1e-6)
    assert not torch.allclose(prompted, plain, atol=1e-4)


@each
def test_saved_models_load(family: str, tmp_path: Any) -> None:
    backbone, batch = tiny_backbone(family), tiny_images(family)
    backbone.model.save_pretrained(tmp_path)
    loaded = load_backbone(str(tmp_path))
    with torch.no_grad():
        assert torch.equal(loaded.encode(batch), backbone.encode(batch))
    assert len(loaded.fingerprint) == 64


@pytest.mark.parametrize(("family", "towers"), [("clip", "clip_vision_model"), ("siglip", "siglip_vision_model")])
def test_a_whole_checkpoint_of_two_towers_is_refused_with_what_to_do(family: str, towers: str, tmp_path: Any) -> None:
    transformers.AutoConfig.for_model(family).save_pretrained(tmp_path)
    with pytest.raises(UnsupportedBackboneError, match=towers):
        load_config(str(tmp_path))


# ---- the text encoders that belong to them


def test_clip_text_is_pooled_at_the_first_end_token() -> None:
    backbone = tiny_backbone("clip_text_model")
    ids = torch.tensor([[0, 5, 6, 3, 3, 3], [0, 7, 8, 9, 10, 3]])
    expected = own_text(backbone, ids)
    with torch.no_grad():
        hidden = backbone.encode({"input_ids": ids})
    for mask in ({}, {"attention_mask": torch.tensor([[1, 1, 1, 1, 0, 0], [1] * 6])}):
        pooled = backbone.pool(hidden, backbone.pooled_mask({"input_ids": ids, **mask}))
        assert torch.allclose(pooled, expected.pooler_output, atol=1e-5)
    old = tiny_backbone("clip_text_model")
    old.config.eos_token_id = 2  # of old configurations: the highest id is the end
    assert old.pooled_mask({"input_ids": torch.tensor([[0, 5, VOCABULARY - 1, 7]])}).tolist() == [[1, 1, 1, 0]]


def test_siglip_text_is_pooled_at_the_last_token_by_its_head() -> None:
    backbone = tiny_backbone("siglip_text_model")
    ids = torch.randint(4, VOCABULARY, (2, 6), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        hidden = backbone.encode({"input_ids": ids})
        pooled = backbone.pool(hidden, backbone.pooled_mask({"input_ids": ids}))
    assert torch.allclose(pooled, own_text(backbone, ids).pooler_output, atol=1e-5)


def own_text(backbone: Any, ids: Tensor) -> Any:
    with torch.no_grad():
        return backbone.model(input_ids=ids)


def test_clip_text_sees_nothing_that_comes_later() -> None:
    backbone = tiny_backbone("clip_text_model")
    batch = {name: tensor for name, tensor in batch_for("clip_text_model").items() if name != "labels"}
    other = {**batch, "input_ids": batch["input_ids"].clone()}
    other["input_ids"][:, 5:] = 7
    with torch.no_grad():
        one, two = backbone.encode(batch), backbone.encode(other)
    assert torch.allclose(one[:, :5], two[:, :5], atol=1e-6)
    assert backbone.is_causal(0)
    assert not tiny_backbone("siglip_text_model").is_causal(0)


def test_a_head_has_the_width_of_the_pooled_vector() -> None:
    config = transformers.SiglipTextConfig(
        vocab_size=VOCABULARY, hidden_size=16, num_attention_heads=2, intermediate_size=24, num_hidden_layers=2,
        max_position_embeddings=40, projection_size=12,
    )  # fmt: skip
    backbone = backbone_from_config(config)
    model = build_model(backbone, method_from_dict("linear_probe"), CLASSIFICATION, seed=0)
    assert (backbone.width, backbone.width_of(0)) == (12, 16)
    assert model(batch_for("siglip_text_model")).shape == (16, 2)
