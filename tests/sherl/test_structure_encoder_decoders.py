"""Encoder-decoders without a row: what is found of them, what they compute, and which are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sherl.backbones import backbone_from_config
from sherl.backbones.encoder_decoder import EncoderDecoderBackbone
from sherl.errors import UnsupportedBackboneError
from sherl.evaluation import eval_step
from sherl.methods import method_from_dict
from sherl.model import build_model
from sherl.spec import TaskSpec, TrainingConfig
from sherl.training import make_optimizer, train_step
from tests.sherl.found_configs import ENCODER_DECODERS, config_of, found
from tests.sherl.tiny import tiny_batch
from tests.sherl.tiny_configs import PAD, VOCABULARY

WRITTEN = TaskSpec(kind="text-to-text", metric="exact_match", target_length=3)
every_one = pytest.mark.parametrize("kind", ENCODER_DECODERS)


def encoder_decoder(kind: str) -> EncoderDecoderBackbone:
    backbone = found(kind, ENCODER_DECODERS[kind])
    assert isinstance(backbone, EncoderDecoderBackbone)
    return backbone


def written_batch(rows: int = 4) -> dict[str, torch.Tensor]:
    batch = tiny_batch(rows=rows)
    labels = torch.tensor([[5, 6, 2], [7, 8, 2]])[batch.pop("labels") % 2]
    return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "labels": labels}


@every_one
def test_it_is_found_and_computes_what_transformers_does(kind: str) -> None:
    backbone, batch = encoder_decoder(kind), written_batch()
    assert (backbone.family, backbone.depth, list(backbone.last_stack)) == (kind, 6, [3, 4, 5])
    (note,) = backbone.notes
    assert f"'{kind}' has no row" in note
    assert "Of the decoder: 3 of class" in note
    assert len(backbone.stack_of(5).lora_targets) == 2 * len(backbone.stack_of(0).lora_targets) == 4
    targets = {**batch, "decoder_input_ids": batch["labels"]}
    with torch.no_grad():
        logits = backbone.vocabulary_logits(backbone.encode(targets))
        own = backbone.model(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            decoder_input_ids=batch["labels"],
        ).logits
    torch.testing.assert_close(logits, own, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("kind", "norms"), [("mbart", True), ("marian", False), ("m2m_100", True), ("umt5", True)])
def test_the_norm_behind_a_stack_is_the_last_and_no_other(kind: str, norms: bool) -> None:
    """mBART's blocks have a norm of the embeddings beside them, which stands behind them in the list of modules."""
    backbone = encoder_decoder(kind)
    for name in ("encoder", "decoder"):
        norm = backbone.final_norm_of(getattr(backbone.layout, name))
        assert (norm is not None) is norms
        if norm is None:
            continue
        outputs: list[torch.Tensor] = []
        with norm.register_forward_hook(lambda _module, _inputs, output, kept=outputs: kept.append(output)):
            batch = {**written_batch(), "decoder_input_ids": written_batch()["labels"]}
            hidden = backbone.encode(batch)
        assert len(outputs) == 1
        assert name == "encoder" or torch.equal(outputs[0], hidden)


@every_one
def test_it_writes_what_transformers_writes(kind: str) -> None:
    backbone, batch = encoder_decoder(kind), written_batch()
    written = backbone.generate(batch, 5, finish=lambda hidden: hidden, whole_length=True)
    theirs = backbone.model.generate(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], max_new_tokens=5, do_sample=False,
        num_beams=1, forced_bos_token_id=None, forced_eos_token_id=None,
    )[:, 1:]  # fmt: skip
    ours = written.masked_fill(written < 0, PAD)[:, : theirs.shape[1]]
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    "method",
    [
        {"name": "sherl", "reduction_factor": 2, "late_route": {"name": "lora", "rank": 2}},
        {"name": "unipt", "reduction_factor": 2},
        {"name": "ladder", "reduction_factor": 2},
        {"name": "lora"},
        {"name": "full"},
    ],
    ids=lambda method: str(method["name"]),
)
@pytest.mark.parametrize("kind", ["marian", "umt5"])
def test_methods_learn_on_it(kind: str, method: dict[str, Any]) -> None:
    batch = written_batch()
    model = build_model(encoder_decoder(kind), method_from_dict(method), WRITTEN, seed=0)
    training = TrainingConfig(learning_rate=1e-2, batch_size=4)
    optimizer, scheduler = make_optimizer(model, training, total_steps=20)
    first = float(train_step(model, batch, optimizer, scheduler, training))
    for _ in range(18):
        train_step(model, batch, optimizer, scheduler, training)
    assert float(train_step(model, batch, optimizer, scheduler, training)) < first
    assert eval_step(model, batch).shape[0] == 4


def test_prompts_are_refused() -> None:
    with pytest.raises(UnsupportedBackboneError, match="found by structure"):
        method_from_dict({"name": "prompt"}).apply(encoder_decoder("marian"), seed=0)


@pytest.mark.parametrize(
    ("kind", "settings", "why"),
    [
        ("mvp", {"d_model": 16, "vocab_size": VOCABULARY}, "its encoder takes no additive masks"),
        ("speech_to_text", {}, "AutoModelForSeq2SeqLM|reads 'input_features'"),
        ("t5gemma", {}, "made of several models"),
    ],
)
def test_what_is_no_such_encoder_decoder_is_refused_with_the_reason(
    kind: str, settings: dict[str, Any], why: str
) -> None:
    with pytest.raises(UnsupportedBackboneError, match=rf"(?s){kind}.*tried by structure, and .*({why})"):
        backbone_from_config(config_of(kind, settings))


def test_a_decoder_that_sees_later_tokens_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers.models.marian.modeling_marian as marian

    plain = marian.MarianDecoderLayer.forward

    def ahead(self: Any, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        return plain(self, hidden_states + 0.3 * hidden_states.roll(-1, dims=1), *args, **kwargs)

    monkeypatch.setattr(marian.MarianDecoderLayer, "forward", ahead)
    with pytest.raises(UnsupportedBackboneError, match="a token of the decoder sees those behind it"):
        encoder_decoder("marian")
