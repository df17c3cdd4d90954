"""Small models and learnable rows made in code, for tests of training, checkpoints and prediction."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import BertConfig

from sherl.backbones import Backbone, backbone_from_config
from sherl.methods import method_from_dict
from sherl.model import TaskModel, build_model
from sherl.optimizer import make_optimizer
from sherl.spec import TaskSpec, TrainingConfig
from sherl.training import train_step

TWO_CLASSES = TaskSpec(kind="classification", metric="accuracy", class_names=("no", "yes"))
NUMBER = TaskSpec(kind="regression", metric="pearson")
SHERL = {"name": "sherl", "reduction_factor": 4, "start_layer": -1}
VOCABULARY = 60


def toy_backbone(*, seed: int = 0, dtype: torch.dtype = torch.float32, dropout: float = 0.1) -> Backbone:
    """A random BERT of three blocks, 32 wide."""
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        initializer_range=0.2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return backbone_from_config(config, dtype=dtype)


def toy_model(
    method: dict[str, Any] | str = "full", *, task: TaskSpec = TWO_CLASSES, seed: int = 0, **backbone: Any
) -> TaskModel:
    """A toy backbone with a method and a head on it."""
    plain = {"name": method} if isinstance(method, str) else method
    return build_model(toy_backbone(**backbone), method_from_dict(plain), task, seed=seed)


def settings(**changes: Any) -> TrainingConfig:
    return TrainingConfig(**{"learning_rate": 3e-3, "batch_size": 8, "epochs": 2, "weight_decay": 0.0, **changes})


class Rows:
    """An in-memory part of a data set, with what training and evaluation ask of one."""

    def __init__(self, ids: list[list[int]], labels: Tensor | None) -> None:
        self.ids, self.labels = ids, labels
        self.lengths = [len(row) for row in ids]

    def __len__(self) -> int:
        return len(self.ids)

    def num_batches(self, batch_size: int) -> int:
        return -(-len(self) // batch_size)

    def batches(self, batch_size: int, *, seed: int | None, epoch: int = 0) -> Iterator[dict[str, Tensor]]:
        generator = torch.Generator().manual_seed(1000 * (seed or 0) + epoch)
        order = torch.randperm(len(self), generator=generator).tolist()
        for start in range(0, len(order), batch_size):
            yield self.batch(order[start : start + batch_size])

    def eval_batches(self, batch_size: int) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        order = sorted(range(len(self)), key=lambda row: -self.lengths[row])
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            yield self.batch(chosen), torch.tensor(chosen)

    def batch(self, rows: list[int]) -> dict[str, Tensor]:
        width = max(self.lengths[row] for row in rows)
        ids = torch.zeros(len(rows), width, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for index, row in enumerate(rows):
            ids[index, : self.lengths[row]] = torch.tensor(self.ids[row])
            mask[index, : self.lengths[row]] = 1
        batch = {"input_ids": ids, "attention_mask": mask}
        return batch if self.labels is None else {**batch, "labels": self.labels[torch.tensor(rows)]}


def toy_rows(count: int, *, seed: int = 0, task: TaskSpec = TWO_CLASSES) -> Rows:
    """Rows of 3 to 9 random tokens; the label says (or counts) whether token 5 or 6 fills half of the row."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=generator))

    ids, labels = [], []
    for row in range(count):
        label = row % 2
        words = [5 + label if word % 2 else draw(10, VOCABULARY) for word in range(draw(3, 10))]
        ids.append([2, *words, 3])
        labels.append(label)
    kind = torch.float32 if task.kind == "regression" else torch.int64
    return Rows(ids, torch.tensor(labels, dtype=kind))


def steps_until_fallen(
    model: TaskModel, batch: dict[str, Tensor], *, share: float = 0.9, steps: int = 30
) -> int | None:
    """Train on one batch until its loss without dropout is under this share of what it was; how many steps that took, looked
    at every five, or None where ``steps`` were not enough."""

    def loss() -> float:
        was = model.training
        model.eval()
        with torch.no_grad():
            now = float(model.loss(model(batch), batch["labels"]))
        model.train(was)
        return now

    before = loss()
    training = TrainingConfig(learning_rate=3e-2, batch_size=6, weight_decay=0.0)
    optimizer, scheduler = make_optimizer(model, training, total_steps=steps)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for step in range(1, steps + 1):
            assert math.isfinite(float(train_step(model, batch, optimizer, scheduler, training)))
            if step % 5 == 0 and loss() < share * before:
                return step
    return None
