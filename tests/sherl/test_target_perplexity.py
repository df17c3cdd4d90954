"""Text-to-text that is judged by its target tokens: perplexity and exact match of one pass, in which nothing is written."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import sherl
from sherl.backbones import load_backbone
from sherl.checkpoint import save_checkpoint
from sherl.data import DataSpec, prepare
from sherl.errors import DataError, SpecError
from sherl.evaluation import eval_step, evaluate
from sherl.methods import method_from_dict
from sherl.model import TaskModel, build_model
from sherl.spec import TrainingConfig
from sherl.tasks import task_for
from sherl.training import fit
from tests.sherl.data_samples import write_csv
from tests.sherl.text_to_text_samples import saved_model
from tests.sherl.texts import NAMED, WRITTEN, stirred, text_batch, text_model

JUDGED = replace(WRITTEN, metric="neg_perplexity")
every_model = pytest.mark.parametrize("name", ["t5", "bart", "gpt2", "llama"])
every_method = pytest.mark.parametrize("method", ["sherl", "lora", "ladder"])


def model_of(name: str, method: str, **changes: Any) -> TaskModel:
    settings = {"name": method, **({"reduction_factor": 2} if method != "lora" else {})}
    return stirred(text_model(settings, name, task=replace(JUDGED, **changes)))


class Rows:
    """A part of one batch."""

    def __init__(self, batch: dict[str, Tensor]) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return len(self.batch["input_ids"])

    def eval_batches(self, batch_size: int) -> Any:
        for rows in torch.arange(len(self)).split(batch_size):
            yield {name: tensor[rows] for name, tensor in self.batch.items()}, rows


@every_model
@every_method
def test_it_is_the_perplexity_of_the_target_alone(name: str, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = model_of(name, method), text_batch()
    with torch.no_grad():
        logits, labels = model(batch), batch["labels"]
    counts = labels != -100
    nats = float(cross_entropy(logits[counts], labels[counts]))
    monkeypatch.setattr(model.tuned, "generate", lambda *_args, **_options: pytest.fail("text was written"))
    scores = evaluate(model, Rows(batch), 4)
    assert tuple(scores) == ("neg_perplexity", "neg_loss", "next_token_accuracy", "exact_match")
    assert scores["neg_loss"] == pytest.approx(-nats, rel=1e-5)
    assert scores["neg_perplexity"] == pytest.approx(-math.exp(nats), rel=1e-5)
    right = (logits.argmax(dim=-1) == labels)[counts].float().mean()
    assert scores["next_token_accuracy"] == pytest.approx(float(right))


@every_model
def test_its_exact_match_is_that_of_what_would_be_written(name: str) -> None:
    model, batch = model_of(name, "sherl"), text_batch(rows=8)
    written = eval_step(model, {key: tensor for key, tensor in batch.items() if key != "labels"})
    ends = written == 2
    keep = (ends.long().cumsum(dim=1) - ends.long()) == 0  # up to the first end token
    labels = written.masked_fill(~keep, -100)
    labels[:3, 0] = (labels[:3, 0] + 1) % 30 + 3  # three rows that it would not write
    assert evaluate(model, Rows({**batch, "labels": labels}), 3)["exact_match"] == 5 / 8
    assert task_for(WRITTEN).metrics(written.masked_fill(~keep, -100), labels)["exact_match"] == 5 / 8


def test_without_labels_text_is_written_and_named() -> None:
    model = model_of("t5", "sherl", class_names=NAMED.class_names, label_tokens=NAMED.label_tokens)
    batch = text_batch()
    del batch["labels"]
    written = eval_step(model, batch)
    assert written.dtype == torch.int64
    assert written.shape == (6, 4)
    assert set(task_for(model.task).decode(written)[0]) == {"tokens", "label"}


def test_a_diverged_model_shows_and_rows_must_match() -> None:
    task = task_for(JUDGED)
    sums = torch.tensor([[1.0, 2.0, 1.0], [math.nan, 2.0, 0.0]])
    assert all(math.isnan(score) for score in task.metrics(sums, torch.zeros(2, 3)).values())
    with pytest.raises(DataError, match="2 rows of outputs but 3 rows of labels"):
        task.metrics(sums, torch.zeros(3, 3))


def test_a_csv_of_instructions_is_prepared_trained_and_scored(tmp_path: Path) -> None:
    rows = [
        (f"{word} {other}", f"say {word}") for word in ("good", "bad", "film") for other in ["the", "a", "of", "very"]
    ]
    write_csv(tmp_path / "train.csv", rows)
    source = saved_model(tmp_path / "model")
    spec = DataSpec(
        train=str(tmp_path / "train.csv"), task="text-to-text", metric="neg_perplexity", valid_rows=3, test_rows=3,
        template="say {text}",
    )  # fmt: skip
    data = prepare(spec, backbone_source=source, directory=tmp_path / "p", max_length=16)
    assert (data.task.metric, data.task.class_names) == ("neg_perplexity", ())
    model = build_model(load_backbone(source), method_from_dict("full"), data.task, seed=0)
    before = evaluate(model, data.part("train"), 8)["neg_perplexity"]
    list(
        fit(model, data.part("train"), data.part("valid"), TrainingConfig(learning_rate=1e-2, batch_size=8, epochs=20))
    )
    assert before < evaluate(model, data.part("train"), 8)["neg_perplexity"] < -1
    save_checkpoint(model.eval(), tmp_path / "kept", max_length=16)
    assert set(sherl.load(tmp_path / "kept").predict("good the")) == {"text"}


def test_metrics_of_other_labels_are_still_refused() -> None:
    with pytest.raises(SpecError, match="token_f1"):
        DataSpec(train="x.csv", task="text-to-text", metric="token_f1")
    with pytest.raises(SpecError, match="neg_perplexity"):
        DataSpec(train="x.csv", task="classification", metric="neg_perplexity")
