"""The decoder kind against what transformers computes: logits, arguments of blocks, padding, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from autotune.memory.allocated import TensorMemory
from sherl.backbones import Backbone, DecoderBackbone, backbone_from_config, load_backbone
from sherl.backbones.masks import positions_of
from sherl.errors import SpecError, UnsupportedBackboneError
from sherl.insertion import block_calls
from sherl.methods import method_from_dict
from sherl.methods.sherl import SherlConfig
from sherl.model import build_model
from sherl.training import TrainingConfig, compute_gradients, make_optimizer
from tests.sherl.texts import text_backbone
from tests.sherl.tiny import CLASSIFICATION, DECODERS, tiny_backbone, tiny_batch, tiny_config
from tests.sherl.tiny_configs import OPT_350M, WIDTH

MODELS = (*DECODERS, "opt-350m")
every_model = pytest.mark.parametrize("name", MODELS)


def left_padded(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same rows with their padding on the left."""
    moved = {name: batch[name].clone() for name in ("input_ids", "attention_mask")}
    for row, length in enumerate(batch["attention_mask"].sum(dim=1).tolist()):
        for name, tensor in moved.items():
            tensor[row] = batch[name][row].roll(-length)
    return moved


def expected_logits(backbone: Backbone, batch: dict[str, Tensor]) -> Tensor:
    """What the whole model of transformers makes of a batch, given 0 and 1 for a mask."""
    mask = batch["attention_mask"]
    logits: Tensor = backbone.model(
        input_ids=batch["input_ids"], attention_mask=mask, position_ids=positions_of(mask.bool())
    ).logits
    return logits


@every_model
@pytest.mark.parametrize("side", [dict, left_padded])
def test_logits_are_what_transformers_computes(name: str, side: Callable[..., dict[str, Tensor]]) -> None:
    backbone = text_backbone(name)
    batch = side(tiny_batch(tokens=12))
    with torch.no_grad():
        hidden = backbone.encode(batch)
        logits, expected = backbone.vocabulary_logits(hidden), expected_logits(backbone, batch)
    assert hidden.shape == (3, 12, WIDTH)
    counts = batch["attention_mask"].bool()
    torch.testing.assert_close(logits[counts], expected[counts], atol=1e-5, rtol=1e-5)
    assert float(expected[counts].std()) > 0.3


@every_model
def test_padding_on_either_side_gives_the_same(name: str) -> None:
    backbone = text_backbone(name)
    right = tiny_batch(tokens=12)
    left = left_padded(right)
    with torch.no_grad():
        one, other = backbone.encode(right), backbone.encode(left)
    torch.testing.assert_close(
        one[right["attention_mask"].bool()], other[left["attention_mask"].bool()], atol=1e-5, rtol=1e-5
    )
    pooled = backbone.pool(one, right["attention_mask"])
    torch.testing.assert_close(pooled, backbone.pool(other, left["attention_mask"]), atol=1e-5, rtol=1e-5)
    last = right["attention_mask"].sum(dim=1) - 1
    torch.testing.assert_close(pooled, torch.stack([one[row, place] for row, place in enumerate(last)]))


@every_model
def test_padding_sees_nothing_that_comes_later(name: str) -> None:
    backbone = text_backbone(name)
    batch = left_padded(tiny_batch(tokens=12))
    changed = {**batch, "input_ids": batch["input_ids"].clone()}
    changed["input_ids"][:, 9] = 3 + (batch["input_ids"][:, 9] - 2) % 37
    with torch.no_grad():
        before, after = backbone.encode(batch), backbone.encode(changed)
    assert torch.equal(before[:, :9], after[:, :9])
    assert (before[:, 9] - after[:, 9]).abs().amax(dim=-1).min() > 1e-3


@pytest.mark.parametrize("name", ["mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "smollm3", "phi3"])
def test_windows_matter_in_these_tests(name: str) -> None:
    """A window that no row is longer than would hide a wrong mask."""
    batch = tiny_batch(tokens=12, padded=False)
    changed = {**batch, "input_ids": batch["input_ids"].clone()}
    changed["input_ids"][:, 0] = 3 + (batch["input_ids"][:, 0] - 2) % 37
    backbone = text_backbone(name)
    seen: list[Tensor] = []
    with torch.no_grad(), block_calls({1: backbone.blocks[1]}, lambda _layer, call: seen.append(call.hidden)):
        backbone.encode(batch)
        backbone.encode(changed)
    one, other = seen
    assert not torch.allclose(one[:, 3], other[:, 3], atol=1e-4)
    assert torch.equal(one[:, 4:], other[:, 4:])  # three tokens back and its own: the first is out of reach


@every_model
def test_late_blocks_get_what_the_backbone_gives_them(name: str) -> None:
    """SHERL changes a late block's hidden state and none of its other arguments."""
    batch = tiny_batch(tokens=12)

    def arguments(run: Callable[[dict[str, Tensor]], Tensor], backbone: Backbone) -> dict[str, Any]:
        found: dict[str, Any] = {}

        def on_call(_layer: int, call: Any) -> None:
            found.update(call.kwargs, **{f"argument {place}": value for place, value in enumerate(call.args[1:])})

        with torch.no_grad(), block_calls({2: backbone.blocks[2]}, on_call):
            run(batch)
        return found

    untouched = text_backbone(name)
    expected = arguments(untouched.encode, untouched)
    tuned = SherlConfig(reduction_factor=4).apply(text_backbone(name), seed=0)
    given = arguments(tuned, tuned.backbone)
    assert given.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(given[key], value, atol=0, rtol=0, msg=key)


@pytest.mark.parametrize("name", DECODERS)
def test_a_saved_model_loads(name: str, tmp_path: Any) -> None:
    backbone = tiny_backbone(name)
    backbone.model.save_pretrained(tmp_path)
    loaded = load_backbone(str(tmp_path))
    assert isinstance(loaded, DecoderBackbone)
    assert loaded.config.use_cache is False
    assert loaded.writes_text
    assert loaded.continues_text
    with torch.no_grad():
        torch.testing.assert_close(loaded.encode(tiny_batch()), backbone.encode(tiny_batch()), atol=0, rtol=0)
    model = loaded.model
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert tied == loaded.config.tie_word_embeddings


@every_model
def test_parameters_on_meta_are_those_of_a_real_model(name: str) -> None:
    real = text_backbone(name).model
    with torch.device("meta"):
        config = OPT_350M(3) if name == "opt-350m" else tiny_config(name)
        made = backbone_from_config(config).model
    assert sum(p.numel() for p in made.parameters()) == sum(p.numel() for p in real.parameters())


def _peak(name: str, batch: dict[str, Tensor]) -> int:
    model = build_model(
        text_backbone(name), method_from_dict({"name": "sherl", "reduction_factor": 4}), CLASSIFICATION, seed=0
    )
    optimizer, _ = make_optimizer(model, TrainingConfig(learning_rate=1e-3), total_steps=1)
    model.train()
    with TensorMemory() as memory:
        memory.track(model, batch)
        compute_gradients(model, batch, optimizer, 1)
    assert isinstance(memory.peak_bytes, int)
    return memory.peak_bytes


@every_model
def test_memory_depends_on_shapes_alone(name: str) -> None:
    full = _peak(name, tiny_batch(rows=4, tokens=12, padded=False))
    assert _peak(name, tiny_batch(rows=4, tokens=12)) == full
    with FakeTensorMode():
        backbone = backbone_from_config(OPT_350M(3) if name == "opt-350m" else tiny_config(name))
        ids = torch.zeros(4, 12, dtype=torch.int64)
        assert backbone.encode({"input_ids": ids, "attention_mask": ids}).shape == (4, 12, WIDTH)
        assert backbone.generate({"input_ids": ids}, 3, finish=lambda hidden: hidden, whole_length=True).shape == (4, 3)


def test_an_input_longer_than_the_position_table_is_refused() -> None:
    for name in ("gpt2", "opt"):
        backbone = tiny_backbone(name)
        assert backbone.max_tokens == 40
        with pytest.raises(SpecError, match=rf"has 41 tokens, {name} takes at most 40: tokenise"):
            backbone.encode(tiny_batch(tokens=41))
        batch = tiny_batch(tokens=38)
        with pytest.raises(SpecError, match=r"has 41 tokens.*3 of these are written"):
            backbone.generate(batch, 4, finish=lambda hidden: hidden)
        assert backbone.generate(batch, 3, finish=lambda hidden: hidden).shape == (3, 3)
    assert tiny_backbone("llama").max_tokens is None


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (lambda: transformers.GPT2Config(add_cross_attention=True), "gpt2 model with cross-attention"),
        (lambda: transformers.Gemma3TextConfig(use_bidirectional_attention=True), "gemma3_text model that sees later"),
        (
            lambda: transformers.LlamaConfig(
                rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
            ),
            "llama model whose rotary angles change",
        ),
        (transformers.Gemma3Config, "'gemma3' model.*text model is a 'gemma3_text', which is known: load that alone"),
    ],
)
def test_what_is_no_plain_decoder_is_refused(config: Callable[[], Any], message: str) -> None:
    with pytest.raises(UnsupportedBackboneError, match=message):
        backbone_from_config(config())


def test_a_norm_that_is_left_out_cannot_be_replaced() -> None:
    backbone = text_backbone("opt-350m")
    assert backbone.final_norm_of(backbone.stack_of(0)) is None
    with pytest.raises(UnsupportedBackboneError, match=r"final_norm 'new'.*opt model has none"):
        SherlConfig(final_norm="new").apply(backbone, seed=0)
    assert tiny_backbone("opt").final_norm_of(tiny_backbone("opt").stack_of(0)) is not None


def test_late_prompts_are_refused_and_prompts_at_the_input_are_not() -> None:
    backbone = tiny_backbone("llama")
    with pytest.raises(UnsupportedBackboneError, match=r"cannot carry prompts in its late blocks.*token by token"):
        SherlConfig(late_route="prompt").apply(backbone, seed=0)  # type: ignore[arg-type]  # a name is read as a route
    tuned = method_from_dict({"name": "prompt", "num_prompts": 3}).apply(backbone, seed=0)
    assert tuned(tiny_batch()).shape == (3, 9, WIDTH)
