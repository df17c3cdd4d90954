"""Whisper: an encoder-decoder that hears. Its encoder takes features of one length; the rest is as with those that read."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import GenerationMixin

from sherl.backbones import EncoderDecoderBackbone, backbone_from_config, load_backbone
from sherl.errors import SpecError, UnsupportedBackboneError
from sherl.forms import blank_batch
from sherl.insertion import BlockCall
from sherl.methods import method_from_dict
from sherl.methods.sherl import SherlConfig
from sherl.model import TaskModel, build_model
from sherl.spec import TaskSpec, TrainingConfig
from sherl.training import rehearse
from tests.sherl.test_text_to_text import METHOD_SETTINGS
from tests.sherl.texts import END, WRITTEN, stirred, text_batch, text_model
from tests.sherl.tiny import CLASSIFICATION, heard, tiny_backbone, tiny_config
from tests.sherl.tiny_configs import BINS, FRAMES, WIDTH
from tests.sherl.toys import steps_until_fallen

every_method = pytest.mark.parametrize("case", list(METHOD_SETTINGS))


def speech(rows: int = 6) -> dict[str, Tensor]:
    """Features and targets; no ids, no mask."""
    batch = heard(text_batch(rows=rows))
    return {name: batch[name] for name in ("input_features", "labels")}


def model_of(case: str, task: TaskSpec = WRITTEN, **changes: Any) -> TaskModel:
    return text_model(METHOD_SETTINGS[case], "whisper", task=task, **changes)


# ---- against transformers


def test_logits_are_what_transformers_computes() -> None:
    backbone = tiny_backbone("whisper")
    batch = backbone.teaching(speech())
    with torch.no_grad():
        expected = backbone.model(input_features=batch["input_features"], labels=batch["labels"]).logits
        hidden = backbone.encode(batch)
        torch.testing.assert_close(backbone.vocabulary_logits(hidden), expected, atol=1e-5, rtol=1e-5)
    assert hidden.shape == (6, 4, WIDTH)
    assert backbone.model.proj_out.weight is backbone.model.get_input_embeddings().weight


def test_generation_is_greedy_as_transformers_does_it() -> None:
    backbone, batch = tiny_backbone("whisper"), speech(8)
    start = torch.full((8, 1), backbone.config.decoder_start_token_id)
    # Whisper's own generate adds rules about languages and time stamps; what lies below it does not
    expected = GenerationMixin.generate(
        backbone.model, inputs=batch["input_features"], decoder_input_ids=start, max_new_tokens=6, do_sample=False
    )[:, 1:]
    written = backbone.generate(batch, 6, finish=lambda hidden: hidden)
    for row, reference in zip(written.tolist(), expected.tolist(), strict=True):
        length = row.index(-100) if -100 in row else len(row)
        assert row[:length] == reference[:length]
        assert length == 6 or row[length - 1] == END
    assert len({tuple(row) for row in written.tolist()}) > 1


def test_a_saved_model_loads(tmp_path: Any) -> None:
    backbone = tiny_backbone("whisper")
    backbone.model.save_pretrained(tmp_path)
    loaded = load_backbone(str(tmp_path))
    assert isinstance(loaded, EncoderDecoderBackbone)
    assert loaded.config.use_cache is False
    with torch.no_grad():
        assert torch.equal(loaded.encode(speech()), backbone.encode(speech()))


# ---- methods


@every_method
def test_generation_with_a_cache_writes_what_it_writes_without(case: str) -> None:
    model = stirred(model_of(case)).eval()
    batch = speech(8)
    with_cache = model.tuned.generate(batch, 7, whole_length=True)
    assert torch.equal(with_cache, model.tuned.generate(batch, 7, use_cache=False, whole_length=True))
    with torch.no_grad():
        logits = model({**batch, "labels": with_cache})
    counts = with_cache != -100
    assert torch.equal(logits.argmax(dim=-1)[counts], with_cache[counts])
    assert float((logits - logits[:1]).abs().amax()) > 1e-3  # each row's own speech is heard


@pytest.mark.parametrize("case", [case for case in METHOD_SETTINGS if case != "prompt"])
def test_the_loss_falls(case: str) -> None:
    assert steps_until_fallen(model_of(case), speech()) is not None


@pytest.mark.parametrize("insertion", ["single", "multi"])
def test_late_decoder_blocks_hear_the_fused_output(insertion: str) -> None:
    settings = {"name": "sherl", "reduction_factor": 4, "start_layer": -2, "insertion": insertion}
    untouched, batch = tiny_backbone("whisper"), speech()
    model = text_model(settings, "whisper")
    with torch.no_grad():  # gates are closed at the start
        teaching = untouched.teaching(batch)
        torch.testing.assert_close(model.tuned(teaching), untouched.encode(teaching), atol=1e-5, rtol=1e-5)
    stirred(model).train()
    backbone = model.tuned.backbone
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
    model.tuned(teaching)
    for handle in handles:
        handle.remove()
    assert [source.requires_grad for source in sources] == [False, True, True]
    assert [tuple(source.shape) for source in sources] == [(6, FRAMES // 2, WIDTH)] * 3
    assert not torch.allclose(sources[0], sources[1], atol=1e-3)


def test_new_norms_replace_those_of_both_stacks() -> None:
    tuned = SherlConfig.released(reduction_factor=4).apply(tiny_backbone("whisper"), seed=0)
    assert set(dict(tuned.added["norm"].items())) == {"encoder", "last"}


def test_the_table_of_sinusoids_does_not_learn() -> None:
    names = method_from_dict("full").apply(tiny_backbone("whisper"), seed=0).trainable()
    assert "model.model.decoder.embed_positions.weight" in names
    assert "model.model.encoder.embed_positions.weight" not in names


# ---- shapes, and what is refused


def test_bfloat16_and_fake_tensors() -> None:
    backbone = tiny_backbone("whisper", dtype=torch.bfloat16)
    assert backbone.encode(speech()).dtype == torch.bfloat16
    assert backbone.keep(speech()).shape == (6, FRAMES // 2)
    with FakeTensorMode():
        fake = backbone_from_config(tiny_config("whisper"))
        model = build_model(fake, method_from_dict("sherl"), CLASSIFICATION, seed=0)
        batch = {**blank_batch(fake.inputs_form(4, tokens=3)), "labels": torch.zeros(4, dtype=torch.int64)}
        assert batch["input_features"].shape == (4, BINS, FRAMES)
        rehearse(model, batch, batch, TrainingConfig(learning_rate=1e-3), restore="none")


def test_inputs_that_do_not_fit_are_refused() -> None:
    backbone, batch = tiny_backbone("whisper"), speech()
    with pytest.raises(SpecError, match=r"has 10 frames, whisper takes 16.*feature extractor"):
        backbone.encode({"input_features": batch["input_features"][:, :, :10]})
    with pytest.raises(
        SpecError, match="reads 'input_features'; the batch has attention_mask, input_ids, labels alone"
    ):
        backbone.encode(text_batch())
    assert backbone.max_tokens == 40
    with pytest.raises(SpecError, match="target has 41 tokens, whisper takes at most 40"):
        backbone.encode(backbone.teaching({**batch, "labels": torch.full((6, 41), 5)}))
    with pytest.raises(UnsupportedBackboneError, match="does not predict each next token"):
        build_model(backbone, method_from_dict("full"), TaskSpec(kind="language-modelling", metric="neg_loss"), seed=0)
