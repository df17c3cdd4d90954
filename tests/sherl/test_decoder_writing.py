"""Text-to-text on decoders: input and target are one stream; what is written, with a cache and without."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from autotune.memory.allocated import TensorMemory
from sherl.backbones import load_backbone
from sherl.backbones.masks import positions_of
from sherl.errors import UnsupportedBackboneError
from sherl.evaluation import eval_step
from sherl.methods import method_from_dict
from sherl.model import TaskModel, build_model
from sherl.spec import TrainingConfig
from sherl.training import compute_gradients, make_optimizer, train_step
from tests.sherl.texts import END, WRITTEN, stirred, text_backbone, text_batch, text_model
from tests.sherl.tiny import DECODERS
from tests.sherl.toys import steps_until_fallen

MODELS = (*DECODERS, "opt-350m")
METHODS: dict[str, dict[str, Any]] = {
    "sherl": {"name": "sherl", "reduction_factor": 4},
    "sherl-multi": {
        "name": "sherl",
        "insertion": "multi",
        "start_layer": -2,
        "late_route": "lora",
        "reduction_factor": 4,
    },
    "sherl-released": {"name": "sherl", "gate": "released", "similarity": "learned", "final_norm": "new"},
    "sherl-adapter": {"name": "sherl", "reduction_factor": 4, "late_route": "adapter"},
    "lora": {"name": "lora"},
    "adapter": {"name": "adapter"},
    "bitfit": {"name": "bitfit", "add_missing": True},
    "prompt": {"name": "prompt", "num_prompts": 3},
    "full": {"name": "full"},
    "checkpointed": {"name": "full", "activation_checkpointing": True},
}
SOME = ("gpt2", "opt", "mistral", "gemma2", "gemma3_text")
every_model = pytest.mark.parametrize("name", MODELS)
some_models = pytest.mark.parametrize("name", SOME)
every_method = pytest.mark.parametrize("case", list(METHODS))


def model_of(case: str, name: str, **changes: Any) -> TaskModel:
    return text_model(METHODS[case], name, **changes)


def left_padded(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    moved = {name: batch[name].clone() for name in ("input_ids", "attention_mask")}
    for row, length in enumerate(batch["attention_mask"].sum(dim=1).tolist()):
        for name, tensor in moved.items():
            tensor[row] = batch[name][row].roll(-length)
    return {**batch, **moved}


def same_words(written: Tensor, reference: Tensor) -> bool:
    """Whether rows are the same up to their end."""
    for row, other in zip(written.tolist(), reference.tolist(), strict=True):
        length = row.index(-100) if -100 in row else len(row)
        if row[:length] != other[:length] or not (length == len(row) or row[length - 1] == END):
            return False
    return True


# ---- what is written


@every_model
def test_generation_is_greedy_as_transformers_does_it(name: str) -> None:
    backbone = text_backbone(name)
    batch = text_batch(rows=8, tokens=12)
    left = left_padded(batch)
    expected = backbone.model.generate(
        input_ids=left["input_ids"],
        attention_mask=left["attention_mask"],
        max_new_tokens=9,
        do_sample=False,
        num_beams=1,
    )[:, 12:]
    written = backbone.generate(batch, 9, finish=lambda hidden: hidden)
    assert same_words(written[:, : expected.shape[1]], expected)
    assert torch.equal(backbone.generate(left, 9, finish=lambda hidden: hidden), written)
    assert len({tuple(row) for row in written.tolist()}) > 1


@some_models
@every_method
def test_generation_with_a_cache_writes_what_it_writes_without(
    name: str, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = stirred(model_of(case, name)).eval()
    batch = text_batch(rows=8, tokens=12)
    backbone, seen = model.tuned.backbone, list[Tensor]()
    real = backbone.vocabulary_logits
    monkeypatch.setattr(backbone, "vocabulary_logits", lambda hidden: (seen.append(real(hidden)), seen[-1])[1])
    with_cache = model.tuned.generate(batch, 7, whole_length=True)
    without = model.tuned.generate(batch, 7, use_cache=False, whole_length=True)
    assert torch.equal(with_cache, without)
    assert torch.equal(with_cache, model.tuned.generate(batch, 7))
    for cached, anew in zip(seen[:7], seen[7:14], strict=True):
        torch.testing.assert_close(cached, anew, atol=1e-4, rtol=1e-4)
        assert float((cached - cached[:1]).abs().amax()) > 1e-3
    assert not torch.allclose(seen[0], seen[6], atol=1e-3)


@every_model
@pytest.mark.parametrize("case", ["sherl-multi", "prompt", "full"])
def test_each_written_token_is_the_best_by_the_teacher_forced_logits(name: str, case: str) -> None:
    model = stirred(model_of(case, name)).eval()
    batch = text_batch(rows=8, tokens=12)
    written = model.tuned.generate(batch, 5)
    with torch.no_grad():
        logits = model({**batch, "labels": written})
        left = model({**left_padded(batch), "labels": written})
    counts = written != -100
    assert torch.equal(logits.argmax(dim=-1)[counts], written[counts])
    torch.testing.assert_close(logits[counts], left[counts], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["llama", "t5"])
@pytest.mark.parametrize("own", [None, 0])
@pytest.mark.parametrize("said_as", ["nothing", "a number", "a list"])
def test_a_row_ends_at_any_end_token_of_the_model(name: str, own: int | None, said_as: str) -> None:
    """Chat models have an end of a turn beside the end of a text, which their generation configuration alone says."""
    backbone, batch = text_backbone(name), text_batch(rows=6, tokens=9)
    backbone.config.eos_token_id = backbone.model.generation_config.eos_token_id = None
    whole = backbone.generate(batch, 8, finish=lambda hidden: hidden)
    assert bool((whole != -100).all())
    word = int(whole[0, 3])
    backbone.config.eos_token_id = own
    backbone.model.generation_config.eos_token_id = {"nothing": None, "a number": word, "a list": [word, 0]}[said_as]
    ends = {"nothing": {own}, "a number": {own, word}, "a list": {0, word}}[said_as]
    written = backbone.generate(batch, 8, finish=lambda hidden: hidden)
    for row, ended in zip(whole.tolist(), written.tolist(), strict=True):
        length = next((place + 1 for place, token in enumerate(row) if token in ends), len(row))
        assert ended == row[:length] + [-100] * (8 - length)


def test_end_tokens_beside_the_weights_are_read(tmp_path: Path) -> None:
    model = text_backbone("llama").model
    model.generation_config.eos_token_id = [END, 7]
    model.save_pretrained(tmp_path)
    assert load_backbone(str(tmp_path)).end_tokens == (END, 7)


def test_logits_that_are_not_finite_show() -> None:
    model = text_model("full", "llama")
    with torch.no_grad():
        model.tuned.backbone.model.lm_head.weight.fill_(math.nan)
    written = eval_step(model, text_batch())
    assert (written[:, 0] == -1).all()
    assert (written[:, 1:] == -100).all()


# ---- learning


@every_model
def test_logits_of_a_target_are_those_of_the_whole_text(name: str) -> None:
    """Each row alone, its prompt and its target one behind the other, without any padding."""
    model, batch = model_of("full", name), text_batch(rows=6, tokens=9)
    backbone = text_backbone(name)
    with torch.no_grad():
        logits = model(batch)
        for row in range(6):
            prompt = batch["input_ids"][row][batch["attention_mask"][row].bool()]
            target = batch["labels"][row][batch["labels"][row] != -100]
            whole = torch.cat([prompt, target])[None]
            expected = backbone.model(input_ids=whole, position_ids=positions_of(whole >= 0)).logits[0]
            places = slice(len(prompt) - 1, len(prompt) + len(target) - 1)
            torch.testing.assert_close(logits[row, : len(target)], expected[places], atol=1e-5, rtol=1e-4)


@some_models
@every_method
def test_a_target_is_not_seen_before_it_is_asked_for(name: str, case: str) -> None:
    model, batch = stirred(model_of(case, name)).eval(), text_batch()
    changed = batch["labels"].clone()
    changed[:, 2] = 5
    with torch.no_grad():
        before, after = model(batch), model({**batch, "labels": changed})
    assert torch.equal(before[:, :3], after[:, :3])
    assert not torch.allclose(before[:, 3], after[:, 3])


def test_the_loss_is_the_mean_over_target_tokens() -> None:
    model, batch = model_of("sherl", "qwen3"), text_batch()
    logits = model(batch)
    assert logits.shape == (*batch["labels"].shape, 40)
    counts = batch["labels"] != -100
    torch.testing.assert_close(
        model.loss(logits, batch["labels"]), cross_entropy(logits[counts], batch["labels"][counts])
    )
    other = {**batch, "input_ids": torch.where(batch["attention_mask"] == 0, 9, batch["input_ids"])}
    torch.testing.assert_close(model(other), logits)


def train(model: TaskModel, steps: int, precision: Any = "fp32") -> None:
    training = TrainingConfig(learning_rate=3e-2, batch_size=6, weight_decay=0.0, precision=precision)
    optimizer, scheduler = make_optimizer(model, training, total_steps=steps)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _ in range(steps):
            assert math.isfinite(float(train_step(model, text_batch(), optimizer, scheduler, training)))


@every_model
def test_a_step_along_the_gradient_of_prompts_lowers_the_loss(name: str) -> None:
    """What prompts at the input can teach a random model in a few steps drowns in dropout; their gradient is checked."""
    model, batch = model_of("prompt", name), text_batch()
    vectors = model.tuned.trainable()["prompt.vectors"]
    before = model.loss(model(batch), batch["labels"])
    before.backward()
    assert vectors.grad is not None
    with torch.no_grad():
        vectors.sub_(1e-3 * vectors.grad / vectors.grad.norm())
        assert float(model.loss(model(batch), batch["labels"])) < float(before)


@some_models
@pytest.mark.parametrize("case", [case for case in METHODS if case != "prompt"])
def test_the_loss_falls(name: str, case: str) -> None:
    assert steps_until_fallen(model_of(case, name), text_batch()) is not None


@pytest.mark.parametrize("case", ["sherl", "lora", "prompt"])
def test_accumulated_gradients_are_those_of_the_whole_batch(case: str) -> None:
    model, batch = stirred(model_of(case, "qwen2")), text_batch(rows=7)
    optimizer, _ = make_optimizer(model, TrainingConfig(learning_rate=1e-2), total_steps=1)
    found = []
    for pieces in (1, 3):
        optimizer.zero_grad()
        compute_gradients(model, batch, optimizer, pieces)
        found.append([p.grad.clone() for p in model.trainable_parameters() if p.grad is not None])
    assert len(found[0]) == len(found[1]) > 0
    for whole, cut in zip(*found, strict=True):
        assert float(whole.abs().max()) > 0
        assert torch.allclose(whole, cut, atol=1e-5 + 1e-4 * float(whole.abs().max()))


@every_model
def test_bf16_stays_finite(name: str) -> None:
    model = text_model(METHODS["sherl"], name, dtype=torch.bfloat16)
    train(model, 3, "bf16")
    assert bool((eval_step(model, text_batch()) != -1).all())


# ---- prompts, memory, what is refused


@every_model
def test_prompts_are_tokens_in_front_whose_embeddings_are_learnt(name: str) -> None:
    """Vectors that are the embeddings of tokens do what these tokens do, where positions are rotary."""
    backbone = text_backbone(name)
    if backbone.layout.positions != "rotary":
        pytest.skip("tokens in front would move those behind in the position table; prompts do not")
    tuned = method_from_dict({"name": "prompt", "num_prompts": 3}).apply(backbone, seed=0)
    batch = left_padded(text_batch(tokens=9))
    ids = torch.tensor([5, 6, 7])
    inputs: list[Tensor] = []
    handle = backbone.blocks[0].register_forward_pre_hook(
        lambda _block, args, kwargs: inputs.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
    )
    with torch.no_grad():
        backbone.encode({"input_ids": ids[None]})
        handle.remove()
        tuned.trainable()["prompt.vectors"].copy_(inputs[0][0])
        longer = {
            "input_ids": torch.cat([ids.expand(6, -1), text_batch(tokens=9)["input_ids"]], dim=1),
            "attention_mask": torch.cat([torch.ones(6, 3, dtype=torch.int64), text_batch()["attention_mask"]], dim=1),
        }
        expected = backbone.encode(longer)[:, 3:][text_batch()["attention_mask"].bool()]
        found = tuned(batch)[batch["attention_mask"].bool()]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
        written = tuned.generate(batch, 5)
        assert torch.equal(written, backbone.generate(longer, 5, finish=lambda hidden: hidden))
    assert backbone._prompts is None  # type: ignore[attr-defined]  # of a decoder


def test_the_cache_counts_in_the_peak_of_evaluation() -> None:
    model, batch = model_of("sherl", "llama"), text_batch(rows=4, tokens=12)

    def peak(length: int) -> int:
        with TensorMemory() as memory:
            memory.track(model, batch)
            model.tuned.generate(batch, length, whole_length=True)
        return memory.peak_bytes

    blocks, rows, inner = 3, 4, 8  # one pair of key and value heads, 8 wide
    assert peak(90) - peak(60) >= 2 * blocks * rows * inner * 4 * 30


def test_what_trains_a_new_head_alone_is_refused() -> None:
    backbone = text_backbone("gpt2")
    with pytest.raises(UnsupportedBackboneError, match=r"linear_probe.*text-to-text predicts.*nothing would train"):
        build_model(backbone, method_from_dict("linear_probe"), WRITTEN, seed=0)
    assert backbone.method_name is None
