"""The encoder-decoder kind against what transformers computes, and what SHERL does to it (the paper's section 3.3)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import T5Config

from sherl.backbones import EncoderDecoderBackbone, backbone_from_config, load_backbone
from sherl.errors import SpecError, UnsupportedBackboneError
from sherl.insertion import BlockCall
from sherl.methods.sherl import RELEASED_LAYERS, SherlConfig
from sherl.methods.tuned import Tuned
from tests.sherl.texts import MODELS, stirred, text_backbone, text_batch, text_model
from tests.sherl.tiny import tiny_config
from tests.sherl.tiny_configs import FLAN

every_model = pytest.mark.parametrize("name", MODELS)


def with_targets(backbone: Any) -> dict[str, Tensor]:
    targets: dict[str, Tensor] = backbone.teaching(text_batch())
    return targets


@every_model
def test_logits_are_what_transformers_computes(name: str) -> None:
    backbone = text_backbone(name)
    batch = with_targets(backbone)
    with torch.no_grad():
        expected = backbone.model(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=batch["labels"]
        ).logits
        logits = backbone.vocabulary_logits(backbone.encode(batch))
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("name", "shares"), [("t5", True), ("flan", False), ("mt5", False), ("bart", True)])
def test_heads_are_tied_as_in_published_checkpoints(name: str, shares: bool) -> None:
    model = text_backbone(name).model
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == shares
    with torch.device("meta"):
        config = FLAN(3) if name == "flan" else tiny_config(name)
        again = backbone_from_config(config).model
    count = sum(parameter.numel() for parameter in model.parameters())
    assert sum(parameter.numel() for parameter in again.parameters()) == count


def test_a_separate_head_is_read_from_the_checkpoint(tmp_path: Any) -> None:
    backbone = text_backbone("flan")
    backbone.model.save_pretrained(tmp_path)
    loaded = load_backbone(str(tmp_path))
    assert isinstance(loaded, EncoderDecoderBackbone)
    assert torch.equal(loaded.model.lm_head.weight, backbone.model.lm_head.weight)
    assert not torch.equal(loaded.model.lm_head.weight, loaded.model.shared.weight)
    batch = with_targets(backbone)
    with torch.no_grad():
        assert torch.equal(
            loaded.vocabulary_logits(loaded.encode(batch)), backbone.vocabulary_logits(backbone.encode(batch))
        )


@pytest.mark.parametrize("name", ["t5", "bart", "pegasus", "mt5"])
def test_a_saved_model_loads(name: str, tmp_path: Any) -> None:
    backbone = text_backbone(name)
    backbone.model.save_pretrained(tmp_path)
    loaded = load_backbone(str(tmp_path))
    assert all(torch.equal(value, loaded.model.state_dict()[key]) for key, value in backbone.model.state_dict().items())
    assert loaded.config.use_cache is False


def test_a_target_longer_than_the_position_table_is_refused() -> None:
    backbone = text_backbone("bart")
    batch = text_batch(targets=41)
    with pytest.raises(SpecError, match="target has 41 tokens, bart takes at most 40: take shorter targets"):
        backbone.encode(backbone.teaching(batch))
    with pytest.raises(SpecError, match="input has 50 tokens"):
        backbone.encode(text_batch(tokens=50))


# ---- SHERL


SHERL = {"name": "sherl", "reduction_factor": 4}


def by_hand(tuned: Tuned, batch: dict[str, Tensor], *, start: int, kept: tuple[int, ...] | None) -> Tensor:
    """The routing of section 3.3 on a T5, block by block, with the fusions taken from the tuned model."""
    model, fusions = tuned.backbone.model, tuned.added["fusion"]
    norms = dict(tuned.added["norm"].items()) if "norm" in tuned.added else {}
    keep = batch["attention_mask"].bool()[:, None, None, :]
    targets = batch["decoder_input_ids"].shape[1]
    causal = torch.ones(targets, targets).tril().bool()[None, None]
    chosen = lambda place: kept is None or place in kept  # noqa: E731

    hidden, bias, features = model.shared(batch["input_ids"]), None, []
    features.append(hidden)
    last = len(model.encoder.block) - 1
    for place, block in enumerate(model.encoder.block):
        hidden, bias, _ = block(hidden, keep, bias)
        if place == last or chosen(place):
            features.append(hidden)
    frozen = model.encoder.final_layer_norm(hidden)
    norm = norms.get("encoder", model.encoder.final_layer_norm)
    fused = norm(fusions["encoder"](features))

    hidden, bias, cross, features = model.shared(batch["decoder_input_ids"]), None, None, []
    for place, block in enumerate(model.decoder.block):
        if place == 0 or place == start or (place < start and chosen(place - 1)):
            features.append(hidden)
        if place == start:
            hidden = fusions[str(start)](features)
        source = fused if place >= start else frozen
        hidden, bias, cross = block(hidden, causal, bias, source, keep, cross)
    last_norm = norms.get("last", model.decoder.final_layer_norm)
    return last_norm(hidden)


@pytest.mark.parametrize("start", [-1, 1])
@pytest.mark.parametrize("kept", [None, (1,), (0, 2)])
@pytest.mark.parametrize("released", [False, True])
def test_the_routing_is_the_papers(start: int, kept: tuple[int, ...] | None, released: bool) -> None:
    base = SherlConfig.released(kept_layers=kept, reduction_factor=4) if released else SherlConfig(kept_layers=kept)
    settings = {**base.to_dict(), "start_layer": start, "reduction_factor": 4}
    model = stirred(text_model(settings))
    batch = with_targets(model.tuned.backbone)
    out = model.tuned(batch)
    loss = out.square().sum()
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.tuned.trainable().items()}
    model.zero_grad()
    expected = by_hand(model.tuned, batch, start=start % 3, kept=kept)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)
    expected.square().sum().backward()
    for name, parameter in model.tuned.trainable().items():
        assert parameter.grad is not None, name
        scale = 1e-5 * float(parameter.grad.abs().max())
        torch.testing.assert_close(gradients[name], parameter.grad, atol=1e-5 + scale, rtol=1e-3, msg=name)


@every_model
@pytest.mark.parametrize("insertion", ["single", "multi"])
def test_closed_gates_leave_the_model_as_it_was(name: str, insertion: str) -> None:
    untouched = text_backbone(name)
    batch = with_targets(untouched)
    tuned = text_model({**SHERL, "insertion": insertion, "start_layer": -2}, name).tuned
    with torch.no_grad():
        torch.testing.assert_close(tuned(batch), untouched.encode(batch), atol=1e-5, rtol=1e-5)


@every_model
def test_early_decoder_blocks_read_the_frozen_output_and_late_ones_the_fused(name: str) -> None:
    model = stirred(text_model({**SHERL, "start_layer": -2}, name)).train()
    backbone = model.tuned.backbone
    first = backbone.last_stack.start
    sources: list[Tensor] = []
    handles = [
        backbone.blocks[layer].register_forward_hook(
            lambda block, args, kwargs, _out: sources.append(
                BlockCall(block, args, kwargs).get("encoder_hidden_states")
            ),
            with_kwargs=True,
        )
        for layer in backbone.last_stack
    ]
    batch = with_targets(backbone)
    out = model.tuned(batch)
    for handle in handles:
        handle.remove()
    assert [source.requires_grad for source in sources] == [False, True, True]
    assert sources[1] is sources[2]  # computed once
    assert not torch.allclose(sources[0], sources[1], atol=1e-3)
    with torch.no_grad():
        frozen = text_backbone(name).model.get_encoder()(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
        )
    counts = batch["attention_mask"].bool()
    torch.testing.assert_close(sources[0][counts], frozen.last_hidden_state[counts], atol=1e-5, rtol=1e-5)
    assert out.requires_grad
    assert first == 3


def test_new_norms_need_a_norm_to_replace() -> None:
    backbone = text_backbone("bart")
    with pytest.raises(
        UnsupportedBackboneError, match=r"final_norm 'new'.*'model.encoder.layers'.*bart model has none"
    ):
        SherlConfig(final_norm="new").apply(backbone, seed=0)
    assert backbone.method_name is None


def test_bad_settings_say_what_is_allowed() -> None:
    with pytest.raises(SpecError, match=r"kept_layers must be different whole numbers.*\[1, 1\]|\(1, 1\)"):
        SherlConfig(kept_layers=(1, 1))
    with pytest.raises(SpecError, match="final_norm must be one of pretrained, new, 'old' was given"):
        SherlConfig(final_norm="old")
    with pytest.raises(SpecError, match="allowed are 0 to 2"):
        SherlConfig(kept_layers=(1, 3)).apply(text_backbone(), seed=0)
    with pytest.raises(SpecError, match=r"not in a decoder of 3 blocks.*allowed are 1 to 2, or -2 to -1"):
        SherlConfig(start_layer=4).apply(text_backbone(), seed=0)


SIZES = {
    "t5-base": {"d_model": 768, "d_ff": 3072, "num_layers": 12, "num_heads": 12},
    "t5-large": {"d_model": 1024, "d_ff": 4096, "num_layers": 24, "num_heads": 16},
    "t5-3b": {"d_model": 1024, "d_ff": 16384, "num_layers": 24, "num_heads": 32, "d_kv": 128},
}


@pytest.mark.parametrize(
    ("size", "trainable", "pretrained"),
    [("t5-base", 1_907_236, 222_903_552), ("t5-large", 4_700_548, 737_668_096), ("t5-3b", 1_087_620, 2_851_598_336)],
)
def test_the_released_design_trains_as_many_parameters_as_the_released_code(
    size: str, trainable: int, pretrained: int
) -> None:
    with torch.device("meta"):
        backbone = backbone_from_config(T5Config(**SIZES[size]))
        tuned = SherlConfig.released(kept_layers=RELEASED_LAYERS[size]).apply(backbone, seed=0)
    assert sum(parameter.numel() for parameter in tuned.trainable().values()) == trainable
    assert tuned.pretrained_count == pretrained
