"""Language modelling: the loss, the sums that an evaluation makes of it, scores, learning, and what is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import cross_entropy

from autotune.memory.allocated import TensorMemory
from sherl.backbones import backbone_from_config
from sherl.errors import DataError, SpecError, UnsupportedBackboneError
from sherl.evaluation import eval_step, evaluate, predict_logits
from sherl.methods import method_from_dict
from sherl.model import TaskModel, build_model
from sherl.spec import TaskSpec, TrainingConfig
from sherl.tasks import task_for
from sherl.training import compute_gradients, make_optimizer, rehearse, train_step
from tests.sherl.test_decoder_writing import METHODS
from tests.sherl.texts import stirred, text_backbone
from tests.sherl.tiny import DECODERS, tiny_backbone, tiny_config
from tests.sherl.tiny_configs import PAD, VOCABULARY
from tests.sherl.toys import steps_until_fallen

TEXT = TaskSpec(kind="language-modelling", metric="neg_perplexity")
every_decoder = pytest.mark.parametrize("name", [*DECODERS, "opt-350m"])
every_method = pytest.mark.parametrize("case", list(METHODS))


def batch_of(*, rows: int = 6, tokens: int = 9, seed: int = 0) -> dict[str, Tensor]:
    """Texts that repeat their first two tokens; later rows are shorter."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCABULARY, (rows, 2), generator=generator).repeat(1, tokens)[:, :tokens]
    mask = (torch.arange(tokens) < tokens - torch.arange(rows)[:, None] % 4).to(torch.int64)
    ids = torch.where(mask.bool(), ids, PAD)
    return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}


def model_of(case: str = "full", name: str = "llama", **changes: Any) -> TaskModel:
    return build_model(text_backbone(name, **changes), method_from_dict(METHODS[case]), TEXT, seed=0)


# ---- loss and outputs


@every_decoder
def test_the_loss_is_that_of_transformers(name: str) -> None:
    model, batch = model_of(name=name), batch_of()
    untouched = text_backbone(name).model
    logits = model(batch)
    assert logits.shape == (6, 8, VOCABULARY)
    with torch.no_grad():
        expected = untouched(**batch).loss
    torch.testing.assert_close(model.loss(logits, batch["labels"]), expected, atol=1e-5, rtol=1e-5)
    whole = untouched(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    torch.testing.assert_close(model.loss(whole, batch["labels"]), expected, atol=1e-5, rtol=1e-5)


@every_method
def test_outputs_are_sums_over_the_tokens_of_each_row(case: str) -> None:
    model, batch = stirred(model_of(case)), batch_of()
    outputs = eval_step(model, batch)
    assert outputs.dtype == torch.float32
    with torch.no_grad():
        logits = model(batch)
    for row in range(6):
        following = batch["labels"][row, 1:]
        counts = following != -100
        losses = cross_entropy(logits[row][counts], following[counts], reduction="sum")
        hits = (logits[row][counts].argmax(dim=-1) == following[counts]).sum()
        expected = torch.stack([losses, counts.sum().float(), hits.float()])
        torch.testing.assert_close(outputs[row], expected, atol=1e-4, rtol=1e-5)
    without = {name: batch[name] for name in ("input_ids", "attention_mask")}
    torch.testing.assert_close(eval_step(model, without), outputs)


def test_labels_may_leave_out_what_is_given() -> None:
    model, batch = model_of(), batch_of()
    masked = {**batch, "labels": batch["labels"].clone()}
    masked["labels"][:, :3] = -100
    counts = (masked["labels"][:, 1:] != -100).sum(dim=1)
    assert torch.equal(eval_step(model, masked)[:, 1], counts.float())
    logits = model(batch)
    kept = masked["labels"][:, 1:] != -100
    expected = cross_entropy(logits[kept], masked["labels"][:, 1:][kept])
    torch.testing.assert_close(model.loss(logits, masked["labels"]), expected)


def test_a_batch_without_a_predicted_token_teaches_nothing() -> None:
    model, batch = model_of(), batch_of(tokens=1)
    loss = model.loss(model(batch), batch["labels"])
    assert loss.item() == 0
    assert eval_step(model, batch).tolist() == [[0.0, 0.0, 0.0]] * 6


@every_decoder
@pytest.mark.parametrize("case", ["sherl-multi", "prompt"])
def test_padding_does_not_count(name: str, case: str) -> None:
    model, batch = stirred(model_of(case, name)), batch_of()
    outputs = eval_step(model, batch)
    wide = {
        "input_ids": torch.nn.functional.pad(batch["input_ids"], (2, 3), value=7),
        "attention_mask": torch.nn.functional.pad(batch["attention_mask"], (2, 3)),
        "labels": torch.nn.functional.pad(
            batch["labels"][:, 1:], (3, 3), value=-100
        ),  # nothing is before the first token
    }
    torch.testing.assert_close(eval_step(model, wide), outputs, atol=1e-4, rtol=1e-5)
    del wide["labels"]
    torch.testing.assert_close(eval_step(model, wide), outputs, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("case", ["sherl", "lora"])
def test_accumulated_gradients_are_those_of_the_whole_batch(case: str) -> None:
    model, batch = stirred(model_of(case, "gemma3_text")), batch_of(rows=7)
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


# ---- scores


def test_scores_are_over_all_tokens_together() -> None:
    task = task_for(TEXT)
    outputs = torch.tensor([[2.0, 4.0, 1.0], [4.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    labels = torch.zeros(3, 5, dtype=torch.int64)
    scores = task.metrics(outputs, labels)
    assert tuple(scores) == task.metric_names == ("neg_perplexity", "neg_loss", "next_token_accuracy")
    assert scores == pytest.approx(
        {"neg_perplexity": -math.exp(6 / 5), "neg_loss": -6 / 5, "next_token_accuracy": 1 / 5}
    )
    assert task.predictions(outputs).tolist() == [0.5, 4.0, 0.0]
    assert task.decode(outputs)[0] == {"loss": 0.5, "perplexity": pytest.approx(math.exp(0.5)), "tokens": 4}


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_losses_that_are_not_finite_show(bad: float) -> None:
    task = task_for(TEXT)
    outputs = torch.tensor([[2.0, 4.0, 1.0], [bad, 1.0, 0.0]])
    scores = task.metrics(outputs, torch.zeros(2, 5, dtype=torch.int64))
    assert all(math.isnan(score) for score in scores.values())


def test_a_huge_loss_is_an_infinite_perplexity() -> None:
    scores = task_for(TEXT).metrics(torch.tensor([[9000.0, 4.0, 0.0]]), torch.zeros(1, 5, dtype=torch.int64))
    assert scores["neg_perplexity"] == -math.inf
    assert scores["neg_loss"] == -2250


def test_what_cannot_be_scored_says_why() -> None:
    task = task_for(TEXT)
    with pytest.raises(DataError, match="2 rows of outputs but 1 rows of labels"):
        task.metrics(torch.ones(2, 3), torch.ones(1, 4))
    with pytest.raises(DataError, match="no token to score"):
        task.metrics(torch.zeros(2, 3), torch.zeros(2, 1))
    with pytest.raises(DataError, match="no token to score"):
        task.metrics(torch.zeros(0, 3), torch.zeros(0, 1))
    with pytest.raises(SpecError, match=r"'accuracy' scores classes.*neg_perplexity, neg_loss, next_token_accuracy"):
        task_for(TaskSpec(kind="language-modelling", metric="accuracy"))


class Part:
    """Two batches of different widths, the rows out of order."""

    def __init__(self) -> None:
        self.one, self.two = batch_of(rows=3), batch_of(rows=2, tokens=5, seed=1)

    def __len__(self) -> int:
        return 5

    def eval_batches(self, batch_size: int) -> Any:
        yield self.two, [3, 1]
        yield self.one, [0, 2, 4]


def test_a_part_is_scored_in_the_order_of_its_rows() -> None:
    model, part = model_of("sherl"), Part()
    outputs = predict_logits(model, part, 3)
    assert outputs.shape == (5, 3)
    assert torch.equal(outputs[[3, 1]], eval_step(model, part.two))
    assert torch.equal(outputs[[0, 2, 4]], eval_step(model, part.one))
    sums = outputs.sum(dim=0)
    assert evaluate(model, part, 3)["neg_loss"] == pytest.approx(-float(sums[0] / sums[1]))


# ---- learning, memory, what is refused


def train(model: TaskModel, steps: int, precision: Any = "fp32") -> None:
    training = TrainingConfig(learning_rate=3e-2, batch_size=6, weight_decay=0.0, precision=precision)
    optimizer, scheduler = make_optimizer(model, training, total_steps=steps)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _ in range(steps):
            assert math.isfinite(float(train_step(model, batch_of(), optimizer, scheduler, training)))


@pytest.mark.parametrize("name", ["gpt2", "qwen2", "gemma3_text"])
@pytest.mark.parametrize("case", [case for case in METHODS if case != "prompt"])
def test_the_loss_falls(case: str, name: str) -> None:
    model, batch = model_of(case, name), batch_of()
    counted = eval_step(model, batch).sum(dim=0)[1]
    assert steps_until_fallen(model, batch) is not None
    assert eval_step(model, batch).sum(dim=0)[1] == counted


@every_decoder
def test_bf16_stays_finite(name: str) -> None:
    model = model_of("sherl", name, dtype=torch.bfloat16)
    train(model, 3, "bf16")
    assert bool(torch.isfinite(eval_step(model, batch_of())).all())


def test_evaluation_holds_the_logits_of_one_row() -> None:
    config = tiny_config("llama")
    config.vocab_size = 4000
    model = build_model(backbone_from_config(config), method_from_dict(METHODS["sherl"]), TEXT, seed=0)
    batch = batch_of(rows=16, tokens=60)

    def peak(run: Callable[[], Tensor]) -> int:
        with TensorMemory() as memory, torch.no_grad():
            memory.track(model, batch)
            run()
        return memory.peak_bytes

    logits_of_a_row = 59 * 4000 * 4
    assert peak(lambda: eval_step(model, batch)) < peak(lambda: model.tuned(batch)) + 6 * logits_of_a_row
    assert peak(lambda: model(batch)) > 16 * logits_of_a_row


def test_a_rehearsal_runs_on_fake_tensors() -> None:
    with FakeTensorMode():
        backbone = backbone_from_config(tiny_config("mistral"))
        model = build_model(backbone, method_from_dict(METHODS["sherl"]), TEXT, seed=0)
        ids = torch.zeros(4, 9, dtype=torch.int64)
        batch = {"input_ids": ids, "attention_mask": ids, "labels": ids}
        rehearse(model, batch, batch, TrainingConfig(learning_rate=1e-3), restore="none")


@pytest.mark.parametrize("family", ["bert", "t5"])
def test_what_is_no_decoder_is_refused(family: str) -> None:
    backbone = tiny_backbone(family)
    with pytest.raises(
        UnsupportedBackboneError, match=rf"{family} model does not predict each next token.*Take a decoder"
    ):
        build_model(backbone, method_from_dict("full"), TEXT, seed=0)
    assert backbone.method_name is None
    with pytest.raises(
        UnsupportedBackboneError, match=r"linear_probe.*language-modelling predicts.*nothing would train"
    ):
        build_model(tiny_backbone("gpt2"), method_from_dict("linear_probe"), TEXT, seed=0)


def test_a_task_comes_back_from_its_dictionary() -> None:
    assert TaskSpec.from_dict(json.loads(json.dumps(TEXT.to_dict()))) == TEXT
