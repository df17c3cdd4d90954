"""Text-to-text: the loss, what is written, how it is scored, and what of it a step of evaluation takes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from autotune.memory.allocated import TensorMemory
from sherl.errors import DataError, SpecError, UnsupportedBackboneError
from sherl.evaluation import eval_step, evaluate, predict_logits
from sherl.methods import METHODS, method_from_dict
from sherl.model import build_model
from sherl.spec import TaskSpec, TrainingConfig
from sherl.tasks import task_for
from sherl.training import compute_gradients, make_optimizer, train_step
from tests.sherl.texts import END, MODELS, NAMED, WRITTEN, stirred, text_backbone, text_batch, text_model
from tests.sherl.tiny import tiny_backbone
from tests.sherl.toys import steps_until_fallen

METHOD_SETTINGS: dict[str, dict[str, Any]] = {
    name: {"name": name} for name in METHODS.names() if name != "linear_probe"
}
METHOD_SETTINGS["sherl-multi"] = {"name": "sherl", "insertion": "multi", "start_layer": -2, "late_route": "lora"}
METHOD_SETTINGS["sherl-adapter"] = {"name": "sherl", "reduction_factor": 4, "late_route": "adapter"}
METHOD_SETTINGS["bitfit"] = {"name": "bitfit", "add_missing": True}
METHOD_SETTINGS["prompt"] = {"name": "prompt", "num_prompts": 3}  # 100 would drown rows of 9 tokens
METHOD_SETTINGS["ladder"] = {
    "name": "ladder",
    "reduction_factor": 2,
}  # of 16 channels an eighth is too few for sinusoids
METHOD_SETTINGS["checkpointed"] = {"name": "full", "activation_checkpointing": True}
every_model = pytest.mark.parametrize("name", MODELS)
every_method = pytest.mark.parametrize("case", list(METHOD_SETTINGS))


def model_of(case: str, name: str, **changes: Any) -> Any:
    return text_model(METHOD_SETTINGS[case], name, **changes)


@every_model
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
        # tokens alone could be the same whatever is read: the scores behind them are each row's own
        assert float((cached - cached[:1]).abs().amax()) > 1e-3
    assert not torch.allclose(seen[0], seen[6], atol=1e-3)


@every_model
def test_generation_is_greedy_as_transformers_does_it(name: str) -> None:
    backbone = text_backbone(name)
    batch = text_batch(rows=8, tokens=12)
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
    expected = backbone.model.generate(**inputs, max_new_tokens=6, do_sample=False, num_beams=1)[:, 1:]
    written = backbone.generate(batch, 6, finish=lambda hidden: hidden)
    for row, reference in zip(written.tolist(), expected.tolist(), strict=True):
        length = row.index(-100) if -100 in row else len(row)
        assert row[:length] == reference[:length]
        assert length == 6 or row[length - 1] == END


@every_model
@pytest.mark.parametrize("case", ["sherl", "lora", "full"])
def test_each_written_token_is_the_best_by_the_teacher_forced_logits(name: str, case: str) -> None:
    model = stirred(model_of(case, name)).eval()
    batch = text_batch(rows=8, tokens=12)
    written = model.tuned.generate(batch, 5)
    with torch.no_grad():
        logits = model({**batch, "labels": written})
    counts = written != -100
    assert torch.equal(logits.argmax(dim=-1)[counts], written[counts])


def test_logits_that_are_not_finite_show() -> None:
    model = text_model("full")
    with torch.no_grad():
        model.tuned.backbone.model.lm_head.weight.fill_(math.nan)
    written = eval_step(model, text_batch())
    assert (written[:, 0] == -1).all()
    assert (written[:, 1:] == -100).all()
    scores = task_for(WRITTEN).metrics(written, text_batch()["labels"])
    assert math.isnan(scores["exact_match"])


# ---- learning


def test_the_loss_is_the_mean_over_target_tokens() -> None:
    model, batch = text_model("sherl"), text_batch()
    logits = model(batch)
    assert logits.shape == (*batch["labels"].shape, 40)
    counts = batch["labels"] != -100
    expected = cross_entropy(logits[counts], batch["labels"][counts])
    torch.testing.assert_close(model.loss(logits, batch["labels"]), expected)


def test_a_target_is_not_seen_before_it_is_asked_for() -> None:
    model, batch = stirred(text_model("sherl")), text_batch()
    changed = batch["labels"].clone()
    changed[:, 2] = 5
    with torch.no_grad():
        before, after = model(batch), model({**batch, "labels": changed})
    assert torch.equal(before[:, :3], after[:, :3])
    assert not torch.allclose(before[:, 3], after[:, 3])


def train(model: Any, steps: int, precision: Any = "fp32") -> list[float]:
    training = TrainingConfig(learning_rate=3e-2, batch_size=6, weight_decay=0.0, precision=precision)
    optimizer, scheduler = make_optimizer(model, training, total_steps=steps)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return [float(train_step(model, text_batch(), optimizer, scheduler, training)) for _ in range(steps)]


@every_model
def test_a_step_along_the_gradient_of_prompts_lowers_the_loss(name: str) -> None:
    """What prompts at the input can teach a random model in a few steps drowns in dropout; their gradient is checked."""
    model, batch = text_model(METHOD_SETTINGS["prompt"], name), text_batch()
    vectors = model.tuned.trainable()["prompt.vectors"]
    before = model.loss(model(batch), batch["labels"])
    before.backward()
    assert vectors.grad is not None
    with torch.no_grad():
        step = 1e-3 * vectors.grad / vectors.grad.norm()
        vectors.sub_(step)
        after = model.loss(model(batch), batch["labels"])
        assert float(after) < float(before)


@every_model
@pytest.mark.parametrize("case", [case for case in METHOD_SETTINGS if case != "prompt"])
def test_the_loss_falls(name: str, case: str) -> None:
    assert steps_until_fallen(model_of(case, name), text_batch()) is not None


@every_method
def test_accumulated_gradients_are_those_of_the_whole_batch(case: str) -> None:
    model = model_of(case, "t5")
    batch = text_batch(rows=7)  # rows have 2 to 4 target tokens
    optimizer, _ = make_optimizer(model, TrainingConfig(learning_rate=1e-2), total_steps=1)
    found = []
    for pieces in (1, 3):
        optimizer.zero_grad()
        compute_gradients(model, batch, optimizer, pieces)
        found.append([p.grad.clone() if p.grad is not None else None for p in model.trainable_parameters()])
    assert any(gradient is not None and bool(gradient.abs().max() > 0) for gradient in found[0])
    for whole, cut in zip(*found, strict=True):
        assert (whole is None) == (cut is None)
        if whole is not None and cut is not None:
            assert torch.allclose(whole, cut, atol=1e-5 + 1e-4 * float(whole.abs().max()))


@every_model
def test_bf16_stays_finite(name: str) -> None:
    model = text_model("sherl", name, dtype=torch.bfloat16)
    assert all(math.isfinite(loss) for loss in train(model, 3, "bf16"))
    assert bool((eval_step(model, text_batch()) != -1).all())


# ---- scores


def test_classes_are_named_by_their_tokens() -> None:
    task = task_for(NAMED)
    truth = torch.tensor([[7, END, -100], [8, 9, END], [7, END, -100]])
    written = torch.tensor([[7, END, -100], [8, END, -100], [8, 9, END]])
    assert task.predictions(written).tolist() == [0, -1, 1]
    scores = task.metrics(written, truth)
    assert scores["accuracy"] == pytest.approx(1 / 3)
    assert [answer["label"] for answer in task.decode(written)] == ["no", None, "yes"]
    with pytest.raises(DataError, match="row 1 is none of the classes"):
        task.metrics(written, written)


def test_free_text_is_scored_by_exact_match_of_any_widths() -> None:
    task = task_for(WRITTEN)
    truth = torch.tensor([[7, END, -100, -100], [8, 9, 9, END]])
    written = torch.tensor([[7, END, -100, -100, -100], [8, 9, END, -100, -100]])
    assert task.metrics(written, truth) == {"exact_match": 0.5}
    assert task.decode(written)[0] == {"tokens": [7, END]}


class Part:
    """Two batches of different widths, the rows out of order."""

    def __init__(self) -> None:
        self.one, self.two = text_batch(rows=3, targets=4), text_batch(rows=2, targets=3, tokens=5, seed=1)

    def __len__(self) -> int:
        return 5

    def eval_batches(self, batch_size: int) -> Any:
        yield self.two, [3, 1]
        yield self.one, [0, 2, 4]


def test_a_part_is_scored_in_the_order_of_its_rows() -> None:
    model, part = stirred(text_model("full")), Part()
    train(model, 5)
    outputs = predict_logits(model, part, 3)
    assert outputs.shape == (5, WRITTEN.target_length)
    assert torch.equal(outputs[[3, 1]], eval_step(model, part.two))
    assert torch.equal(outputs[[0, 2, 4]], eval_step(model, part.one))
    right = sum(
        written[written != -100].tolist() == label[label != -100].tolist()
        for batch in (part.one, part.two)
        for written, label in zip(eval_step(model, batch), batch["labels"], strict=True)
    )
    assert evaluate(model, part, 3) == {"exact_match": right / 5}


# ---- memory, and what is refused


def _peak(model: Any, batch: dict[str, Tensor], length: int) -> int:
    with TensorMemory() as memory:
        memory.track(model, batch)
        model.tuned.generate(batch, length, whole_length=True)
    assert isinstance(memory.peak_bytes, int)
    return memory.peak_bytes


def test_the_cache_counts_in_the_peak_of_evaluation() -> None:
    model, batch = text_model("sherl"), text_batch(rows=4, tokens=12)
    blocks, rows, inner = 3, 4, 16
    grown = _peak(model, batch, 30) - _peak(model, batch, 10)
    keys_and_values = 2 * blocks * rows * inner * 4 * 20  # of 20 tokens more
    assert grown >= keys_and_values


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target_length": 0}, "target_length.*at least 1, 0 was given"),
        ({"metric": "accuracy"}, "scores classes"),
        ({"class_names": ("a", "b"), "metric": "accuracy"}, "label_tokens.*0 for 2"),
        ({"class_names": ("a", "b"), "metric": "f1", "label_tokens": ((1,), (1,))}, "same tokens"),
        ({"class_names": ("a",), "metric": "f1", "label_tokens": ((1, 1, 1, 1, 1),)}, "longer than target_length"),
    ],
)
def test_bad_tasks_say_what_is_wrong(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        task_for(TaskSpec(**{**WRITTEN.to_dict(), "class_names": (), "label_tokens": (), **changes}))


def test_what_cannot_write_is_refused() -> None:
    encoder = tiny_backbone("bert")
    with pytest.raises(UnsupportedBackboneError, match=r"bert model writes no text.*encoder-decoder"):
        build_model(encoder, method_from_dict("sherl"), WRITTEN, seed=0)
    backbone = text_backbone()
    with pytest.raises(UnsupportedBackboneError, match=r"linear_probe.*nothing would train"):
        build_model(backbone, method_from_dict("linear_probe"), WRITTEN, seed=0)
    assert backbone.method_name is None
    with pytest.raises(DataError, match="labels"):
        text_model("sherl")({"input_ids": torch.ones(1, 2, dtype=torch.int64)})


def test_a_task_comes_back_from_its_dictionary() -> None:
    import json

    assert TaskSpec.from_dict(json.loads(json.dumps(NAMED.to_dict()))) == NAMED
