"""Vision transformers without a row: what is found of them, what they compute, and which are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from sherl.backbones import Backbone, backbone_from_config
from sherl.errors import SpecError, UnsupportedBackboneError
from sherl.methods import method_from_dict
from tests.sherl.found_configs import VISION, assert_learns, config_of, found

FRONT = {"beit": 1, "dinov2_with_registers": 5, "dinov3_vit": 3, "ijepa": 0, "vit_msn": 1, "aimv2_vision_model": 0}
every_vision = pytest.mark.parametrize("kind", VISION)


def vision(kind: str) -> Backbone:
    return found(kind, VISION[kind])


def images(rows: int = 4, size: int = 16) -> dict[str, torch.Tensor]:
    pixels = torch.randn(rows, 3, size, size, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(rows) % 2
    pixels[labels == 0, 0] += 2
    return {"pixel_values": pixels, "labels": labels}


@every_vision
def test_it_is_found_and_computes_what_transformers_does(kind: str) -> None:
    backbone, batch = vision(kind), images()
    assert (backbone.family, backbone.depth, backbone.layout.kind) == (kind, 3, "vision")
    (note,) = backbone.notes
    assert f"Positions beside the patches: {FRONT[kind]}." in note
    with torch.no_grad():
        hidden = backbone.encode(batch)
        own = backbone.model(pixel_values=batch["pixel_values"]).last_hidden_state
    assert hidden.shape == (4, 16 + FRONT[kind], 16) == (*backbone.keep(batch).shape, 16)
    torch.testing.assert_close(hidden, own)
    pooled = backbone.pool(hidden, backbone.pooled_mask(batch))
    torch.testing.assert_close(pooled, hidden[:, 0] if FRONT[kind] else hidden.mean(dim=1))
    for name in backbone.stack_of(0).lora_targets:
        assert isinstance(backbone.blocks[0].get_submodule(name), nn.Linear)
    assert backbone.stack_of(0).lora_targets


@every_vision
def test_other_sizes_are_taken_or_refused_aloud(kind: str) -> None:
    backbone = vision(kind)
    larger = images(size=24)
    if backbone.layout.sizes == "own":  # type: ignore[attr-defined]  # of the vision kind
        with pytest.raises(SpecError, match=r"images of 16 x 16 pixels alone.*24 x 24 were given"):
            backbone.encode(larger)
        return
    with torch.no_grad():
        assert backbone.encode(larger).shape == (4, 36 + FRONT[kind], 16)


@pytest.mark.parametrize(
    "method",
    [
        {"name": "sherl", "reduction_factor": 2, "insertion": "multi", "start_layer": -2, "late_route": "bitfit"},
        {"name": "unipt", "reduction_factor": 2},
        {"name": "ladder", "reduction_factor": 2},
        {"name": "lora"},
        {"name": "adapter", "inner_width": 4},
        {"name": "full"},
    ],
    ids=lambda method: str(method["name"]),
)
@pytest.mark.parametrize("kind", ["beit", "dinov3_vit"])
def test_methods_learn_on_it(kind: str, method: dict[str, Any]) -> None:
    assert_learns(vision(kind), method, images(8))


def test_a_network_at_its_side_has_no_register_where_it_has_none() -> None:
    backbone = found("dinov3_vit", {**VISION["dinov3_vit"], "num_register_tokens": 0})
    method_from_dict({"name": "ladder", "reduction_factor": 2}).apply(backbone, seed=0)


@pytest.mark.parametrize("kind", ["vit_msn", "vit"])
@pytest.mark.parametrize("settings", [{"image_size": (16, 24)}, {"image_size": [24, 16], "patch_size": [4, 4]}])
def test_images_of_another_size_are_refused_where_the_own_one_is_no_square(kind: str, settings: dict[str, Any]) -> None:
    backbone = backbone_from_config(config_of(kind, {**VISION["vit_msn"], **settings}))
    height, width = settings["image_size"]
    with torch.no_grad():
        assert backbone.encode({"pixel_values": torch.randn(2, 3, height, width)}).shape == (2, 25, 16)
    with pytest.raises(SpecError, match=rf"{height} x {width} pixels alone.*32 x 32 were given"):
        backbone.encode({"pixel_values": torch.randn(2, 3, 32, 32)})


def test_swin_without_a_table_takes_images_of_any_size() -> None:
    sizes = {"image_size": (32, 64), "patch_size": 4, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2]}
    backbone = backbone_from_config(config_of("swin", {**sizes, "window_size": 2}))
    with torch.no_grad():
        assert backbone.encode({"pixel_values": torch.randn(2, 3, 32, 32)}).shape == (2, 16, 16)


def test_passes_without_values_leave_nothing_for_those_with_them() -> None:
    """DINOv3 caches coordinates by the number of patches: one that came of a fake pass would be met by a real one."""
    batch = images()
    for _ in range(2):
        with FakeTensorMode() as fake:
            backbone = backbone_from_config(config_of("dinov3_vit", VISION["dinov3_vit"]))
            pixels = fake.from_tensor(batch["pixel_values"])
            assert backbone.encode({"pixel_values": pixels}).shape == (4, 19, 16)
        with torch.no_grad():
            assert vision("dinov3_vit").encode(batch).isfinite().all()


@pytest.mark.parametrize("kind", ["beit", "data2vec-vision"])
def test_an_empty_place_of_a_norm_is_no_norm(kind: str) -> None:
    backbone = found(kind, {**VISION["beit"], "use_mean_pooling": True})
    assert backbone.final_norm_of(backbone.stack_of(0)) is None
    with pytest.raises(
        UnsupportedBackboneError, match=rf"final_norm 'new'.*{kind} model has none there: take final_norm"
    ):
        method_from_dict({"name": "sherl", "final_norm": "new"}).apply(backbone, seed=0)
    plain = found(kind, {**VISION["beit"], "use_mean_pooling": False})
    assert plain.final_norm_of(plain.stack_of(0)) is not None
    method_from_dict({"name": "sherl", "reduction_factor": 4, "final_norm": "new"}).apply(plain, seed=0)


def test_prompts_are_refused() -> None:
    with pytest.raises(UnsupportedBackboneError, match="found by structure"):
        method_from_dict({"name": "prompt"}).apply(vision("beit"), seed=0)


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("vit_mae", r"16 patches, it gives \[1, 5, 16\]"),
        ("sam_vision_model", "it gives"),
        ("donut-swin", "no linear layer|it gives|lists"),
        ("poolformer", "no image_size|lists|no linear"),
    ],
)
def test_what_is_no_stream_of_patches_is_refused_with_the_reason(kind: str, why: str) -> None:
    usual = VISION["vit_msn"] if kind in ("vit_mae", "sam_vision_model") else {}
    with pytest.raises(UnsupportedBackboneError, match=rf"(?s){kind}.*tried by structure, and .*({why})"):
        backbone_from_config(config_of(kind, usual))


def test_one_that_changes_from_pass_to_pass_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers.models.vit_msn.modeling_vit_msn as vit_msn

    plain = vit_msn.ViTMSNModel.forward

    def noisy(self: Any, pixel_values: torch.Tensor, **kwargs: Any) -> Any:
        return plain(self, pixel_values + torch.randn_like(pixel_values), **kwargs)

    monkeypatch.setattr(vit_msn.ViTMSNModel, "forward", noisy)
    with pytest.raises(UnsupportedBackboneError, match="the second time"):
        vision("vit_msn")
