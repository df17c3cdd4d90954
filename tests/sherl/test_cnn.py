"""The cnn kind: feature maps of other widths and sizes, batch norms that keep their statistics, convolutions that LoRA takes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from sherl.backbones import backbone_from_config, load_backbone
from sherl.errors import UnsupportedBackboneError
from sherl.insertion import block_calls
from sherl.methods import method_from_dict
from sherl.methods._peft import inject_lora
from sherl.methods.tuned import Tuned
from sherl.model import build_model
from sherl.spec import TrainingConfig
from sherl.training import compute_gradients, make_optimizer, train_step
from tests.sherl.tiny import CLASSIFICATION, CNNS, batch_for, tiny_backbone, tiny_config, tiny_images

SHERL = {"name": "sherl", "reduction_factor": 4}
each = pytest.mark.parametrize("family", CNNS)


def inputs_of(backbone: Any, batch: dict[str, Tensor]) -> list[Tensor]:
    """The blocks' own inputs in one untouched pass."""
    seen: dict[int, Tensor] = {}
    with (
        torch.no_grad(),
        block_calls(dict(enumerate(backbone.blocks)), lambda layer, call: seen.setdefault(layer, call.hidden) is None),
    ):
        backbone.encode(batch)
    return [seen[layer] for layer in range(backbone.depth)]


@each
def test_hidden_states_and_pooled_vectors_are_transformers_own(family: str) -> None:
    backbone, batch = tiny_backbone(family), tiny_images(family)
    with torch.no_grad():
        expected = backbone.model(pixel_values=batch["pixel_values"], output_hidden_states=True)
        hidden = backbone.encode(batch)
        pooled = backbone.pool(hidden, backbone.pooled_mask(batch))
    assert torch.equal(hidden, expected.last_hidden_state.flatten(2).transpose(1, 2))
    # EfficientNet's own pooling has a window as wide as its channels: on small maps the average over the map
    own_pooled = (
        expected.last_hidden_state.mean(dim=(2, 3)) if family == "mobilenet_v2" else expected.pooler_output.flatten(1)
    )
    assert torch.allclose(pooled, own_pooled, atol=1e-5)
    assert pooled.shape == (3, backbone.width)
    maps = inputs_of(backbone, batch)
    assert [one.shape[1] for one in maps] == [backbone.width_of(layer) for layer in range(backbone.depth)]
    assert backbone.keep(batch).shape == (3, maps[0].shape[2] * maps[0].shape[3])
    # MobileNet lists the blocks' outputs, the others begin with the first block's input
    own = expected.hidden_states
    outputs = own if family == "mobilenet_v2" else own[1:]
    for layer in range(1, backbone.depth):
        assert torch.allclose(maps[layer], outputs[layer - 1], atol=1e-6), layer


@each
def test_positions_of_the_first_input_are_known_for_odd_sizes(family: str) -> None:
    backbone, batch = tiny_backbone(family), tiny_images(family, size=21)
    first = inputs_of(backbone, batch)[0]
    assert backbone.keep(batch).shape == (3, first.shape[2] * first.shape[3])


def test_early_maps_are_brought_to_a_late_size_by_maximum_plus_average() -> None:
    backbone = tiny_backbone("resnet")
    early = torch.tensor([[[[1.0, 2, 3, 4], [5, 6, 7, 8], [0, 0, 1, 1], [0, 4, 1, 1]]]])
    late = torch.randn(1, 5, 2, 2)
    tokens = backbone.as_tokens(early, late)
    assert tokens.flatten().tolist() == [6 + 3.5, 8 + 5.5, 4 + 1, 1 + 1]
    own = backbone.as_tokens(late, late)
    assert torch.equal(own, late.flatten(2).transpose(1, 2))
    assert torch.equal(backbone.as_hidden(own, late), late)


@each
def test_sherl_with_a_closed_gate_is_the_untouched_backbone(family: str) -> None:
    backbone, batch = tiny_backbone(family), tiny_images(family)
    with torch.no_grad():
        hidden = backbone.encode(batch)
    for insertion in ("single", "multi"):
        tuned = method_from_dict({**SHERL, "insertion": insertion, "start_layer": -2}).apply(backbone, seed=0)
        with torch.no_grad():
            assert torch.allclose(tuned(batch), hidden, atol=1e-5)
        tuned.remove()


def test_a_fusion_reads_the_pooled_maps_of_all_stages() -> None:
    backbone, batch = tiny_backbone("resnet"), tiny_images("resnet")
    maps = inputs_of(backbone, batch)
    tuned = method_from_dict({**SHERL, "gate": "released", "similarity": "learned"}).apply(backbone, seed=0)
    fusion: Any = tuned.added["fusion"]
    assert fusion["2"].shape.widths == (8, 8, 16)
    with torch.no_grad():
        tokens = fusion["2"]([backbone.as_tokens(one, maps[-1]) for one in maps])
        expected = backbone.blocks[2](backbone.as_hidden(tokens, maps[-1]))
        assert torch.allclose(tuned(batch), expected.flatten(2).transpose(1, 2), atol=1e-6)


def norms_of(tuned: Tuned) -> list[nn.BatchNorm2d]:
    return [module for module in tuned.model.modules() if isinstance(module, nn.BatchNorm2d)]


@pytest.mark.parametrize("case", [{"name": "full"}, {**SHERL, "late_route": "bitfit"}])
def test_batch_norms_keep_their_statistics_and_train_their_scales(case: dict[str, Any]) -> None:
    model = build_model(tiny_backbone("resnet"), method_from_dict(case), CLASSIFICATION, seed=0)
    norms = norms_of(model.tuned)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    before = norms[-1].bias.detach().clone()
    training = TrainingConfig(learning_rate=1e-2, batch_size=16)
    optimizer, scheduler = make_optimizer(model, training, total_steps=3)
    for _ in range(3):
        model.tuned.model.train()  # somebody switches the pretrained model itself
        train_step(model, batch_for("resnet"), optimizer, scheduler, training)
        assert model.training
        assert not any(norm.training for norm in norms)
    assert any(name.endswith("running_mean") for name in buffers)
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in model.named_buffers())
    assert not torch.equal(norms[-1].bias, before)


@pytest.mark.parametrize("case", [{"name": "full"}, SHERL, {"name": "lora"}, {"name": "adapter"}])
def test_accumulated_gradients_are_those_of_the_whole_batch_in_training_mode(case: dict[str, Any]) -> None:
    model = build_model(tiny_backbone("resnet"), method_from_dict(case), CLASSIFICATION, seed=0).train()
    model.head.dropout.p = 0.0
    optimizer, _ = make_optimizer(model, TrainingConfig(learning_rate=1e-2), total_steps=1)
    found = []
    for pieces in (1, 5):
        optimizer.zero_grad()
        compute_gradients(model, batch_for("resnet"), optimizer, pieces)
        found.append([p.grad.clone() for p in model.trainable_parameters() if p.grad is not None])
    assert found[0]
    for whole, cut in zip(*found, strict=True):
        assert torch.allclose(whole, cut, atol=1e-5 + 1e-4 * float(whole.abs().max()))


@each
def test_stages_that_run_twice_give_the_same_gradients(family: str) -> None:
    found = []
    for checkpointing in (False, True):
        settings = {"name": "full", "activation_checkpointing": checkpointing}
        model = build_model(tiny_backbone(family), method_from_dict(settings), CLASSIFICATION, seed=0).train()
        torch.manual_seed(0)
        batch = batch_for(family)
        model.loss(model(batch), batch["labels"]).backward()
        found.append([p.grad for p in model.trainable_parameters()])
    for plain, again in zip(*found, strict=True):
        assert (plain is None) == (again is None)
        assert (
            plain is None or again is None or torch.allclose(plain, again, atol=1e-5 * (1 + float(plain.abs().max())))
        )


# ---- methods on maps


def test_lora_on_a_convolution_computes_what_it_says() -> None:
    model = nn.Sequential(nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False))
    original, images = model[0], torch.randn(2, 4, 9, 9)
    plain = model(images)
    injected = inject_lora(model, ["0"], rank=2, alpha=6)
    assert {name: tuple(p.shape) for name, p in injected.parameters.items()} == {
        "0.lora_A": (2, 4, 3, 3), "0.lora_B": (6, 2, 1, 1),
    }  # fmt: skip
    assert torch.equal(model(images), plain)
    with torch.no_grad():
        injected.parameters["0.lora_B"].normal_()
    added = torch.einsum(
        "bahw,oa->bohw",
        nn.functional.conv2d(images, injected.parameters["0.lora_A"], stride=2, padding=1),
        injected.parameters["0.lora_B"][:, :, 0, 0],
    )
    assert torch.allclose(model(images), plain + 3 * added, atol=1e-5)
    injected.remove()
    assert model[0] is original


@pytest.mark.parametrize(
    "case", [{**SHERL, "insertion": "multi", "start_layer": -2, "late_route": "lora"}, {"name": "lora"}]
)
def test_steps_run_without_values(case: dict[str, Any]) -> None:
    """As the prediction of memory runs them: the shapes of a real step, no numbers."""
    real = batch_for("resnet")
    with FakeTensorMode() as mode:
        model = build_model(backbone_from_config(tiny_config("resnet")), method_from_dict(case), CLASSIFICATION, seed=0)
        batch = {name: mode.from_tensor(tensor) for name, tensor in real.items()}
        model.train()
        model.loss(model(batch), batch["labels"]).backward()
        assert all(parameter.grad is not None for parameter in model.trainable_parameters())


def test_lora_refuses_a_convolution_with_groups() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4))
    with pytest.raises(UnsupportedBackboneError, match="convolution of 4 groups"):
        inject_lora(model, ["0"], rank=2, alpha=4)


@each
def test_lora_and_adapters_reach_every_block(family: str) -> None:
    backbone = tiny_backbone(family)
    for method in ("lora", "adapter"):
        tuned = method_from_dict(method).apply(backbone, seed=0)
        reached = {layer for layer in range(backbone.depth) if touches(tuned, layer)}
        assert reached == set(range(backbone.depth)), method
        tuned.remove()


def touches(tuned: Tuned, layer: int) -> bool:
    path = tuned.backbone.block_path(layer)
    return any(
        name.startswith((f"lora.{path}.", f"adapter.{layer}.", f"adapter.{layer}_")) for name in tuned.trainable()
    )


def test_an_adapter_acts_on_the_channels_behind_the_last_norm() -> None:
    backbone, batch = tiny_backbone("mobilenet_v2"), tiny_images("mobilenet_v2")
    tuned = method_from_dict({"name": "adapter", "inner_width": 3}).apply(backbone, seed=0)
    state = tuned.trainable()
    with torch.no_grad():
        for parameter in state.values():
            parameter.normal_()
    block: Any = backbone.blocks[1]  # its input and output have one shape: there is a residual sum
    down, up = ([state[f"adapter.1.{way}.{part}"] for part in ("weight", "bias")] for way in ("down", "up"))
    maps = inputs_of(backbone, batch)[1]
    with torch.no_grad():
        adapted = block(maps)
        tuned.remove()
        plain = block(maps)
        inner = plain - maps if block.use_residual else plain
        inner = inner.permute(0, 2, 3, 1)
        change = nn.functional.linear(nn.functional.gelu(nn.functional.linear(inner, *down)), *up)
    assert down[0].shape == (3, plain.shape[1])
    assert torch.allclose(adapted, plain + change.permute(0, 3, 1, 2), atol=1e-4)


@each
def test_prompts_are_refused_with_the_reason(family: str) -> None:
    for method in ({"name": "prompt"}, {**SHERL, "late_route": "prompt"}):
        backbone = tiny_backbone(family)
        with pytest.raises(UnsupportedBackboneError, match="feature maps"):
            method_from_dict(method).apply(backbone, seed=0)
        assert backbone.method_name is None


def test_a_resnet_of_basic_blocks_and_a_regnet_without_excitation_have_rows_that_fit() -> None:
    configs = (
        transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2], layer_type="basic"),
        transformers.RegNetConfig(
            embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2], groups_width=4, layer_type="x"
        ),
    )
    for config in configs:
        backbone = backbone_from_config(config)
        tuned = method_from_dict({**SHERL, "late_route": {"name": "adapter", "reduction_factor": 4}}).apply(
            backbone, seed=0
        )
        adapters: Any = tuned.added["late"]
        assert {name: adapter.down.in_features for name, adapter in adapters.items()} == {"1_0": 16, "1_1": 16}


@each
def test_saved_models_load(family: str, tmp_path: Any) -> None:
    backbone, batch = tiny_backbone(family), tiny_images(family)
    backbone.model.save_pretrained(tmp_path)
    loaded = load_backbone(str(tmp_path))
    with torch.no_grad():
        # through 16 blocks of random weights MobileNet makes a rounding visible (kernels look at addresses)
        assert torch.allclose(loaded.encode(batch), backbone.encode(batch), atol=1e-4)
    own, theirs = backbone.model.state_dict(), loaded.model.state_dict()
    assert own.keys() == theirs.keys()
    assert all(torch.equal(own[name], theirs[name]) for name in own)
    assert len(loaded.fingerprint) == 64
