"""A run that is cut goes on from its last whole epoch to the same weights, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sherl.errors import CheckpointError
from sherl.methods import method_from_dict
from sherl.model import TaskModel, build_model
from sherl.precision import weights_dtype
from sherl.spec import TrainingConfig
from sherl.training import fit, kept_epochs
from tests.sherl.tiny import CLASSIFICATION, tiny_backbone

TRAINING = TrainingConfig(learning_rate=3e-3, batch_size=4, epochs=4, weight_decay=0.1, accumulation=2, seed=3)
METHODS: dict[str, dict[str, Any]] = {
    "sherl": {"name": "sherl", "reduction_factor": 4, "late_route": {"name": "lora", "rank": 2}},
    "full": {"name": "full"},
    "lora": {"name": "lora", "rank": 2},
    "ladder": {"name": "ladder"},
}


class Rows:
    """Twelve rows of five tokens, whose order an epoch draws."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(7)
        self.ids = torch.randint(5, 40, (12, 5), generator=generator)
        self.labels = torch.arange(12) % 2

    def __len__(self) -> int:
        return 12

    def num_batches(self, batch_size: int) -> int:
        return -(-12 // batch_size)

    def batches(self, batch_size: int, *, seed: int | None, epoch: int = 0) -> Iterator[dict[str, Tensor]]:
        order = torch.randperm(12, generator=torch.Generator().manual_seed(100 * (seed or 0) + epoch))
        for rows in order.split(batch_size):
            yield self.batch(rows)

    def eval_batches(self, batch_size: int) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        for rows in torch.arange(12).split(batch_size):
            yield self.batch(rows), rows

    def batch(self, rows: Tensor) -> dict[str, Tensor]:
        return {
            "input_ids": self.ids[rows], "attention_mask": torch.ones_like(self.ids[rows]), "labels": self.labels[rows]
        }  # fmt: skip


def model_of(method: str, training: TrainingConfig = TRAINING) -> TaskModel:
    backbone = tiny_backbone("bert", dtype=weights_dtype(training.precision))
    return build_model(backbone, method_from_dict(METHODS[method]), CLASSIFICATION, seed=3)


def run(
    model: TaskModel, file: Path | None, *, epochs: int | None = None, training: TrainingConfig = TRAINING
) -> list[Any]:
    """Trains; ``epochs``: cut when that many were yielded, before the last of them is kept."""
    told = []
    for progress in fit(model, Rows(), Rows(), training, state_file=file):
        told.append(progress)
        torch.rand(3)  # what the caller draws does not matter
        if len(told) == epochs:
            break
    return told


def plain(told: list[Any]) -> list[Any]:
    return [replace(progress, seconds=0.0, step_seconds=0.0) for progress in told]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("method", METHODS)
def test_a_run_that_was_cut_ends_with_the_weights_of_one_that_was_not(
    method: str, precision: Any, tmp_path: Path
) -> None:
    training = replace(TRAINING, precision=precision)
    whole = model_of(method, training)
    expected = run(whole, None, training=training)
    file = tmp_path / "deep" / "run.state"
    first = run(model_of(method, training), file, epochs=3, training=training)  # two epochs are kept
    assert plain(kept_epochs(file)) == plain(first[:2]) == plain(expected[:2])
    resumed = model_of(method, training)
    told = run(resumed, file, training=training)
    assert plain(told) == plain(expected[2:])
    assert told[0].seconds > kept_epochs(file)[1].seconds
    for name, tensor in whole.trainable_state().items():
        assert torch.equal(resumed.trainable_state()[name], tensor), name
    assert [path.name for path in file.parent.iterdir()] == ["run.state"]
    again = model_of(method, training)
    assert run(again, file, training=training) == []  # all epochs are done: the weights are there
    for name, tensor in whole.trainable_state().items():
        assert torch.equal(again.trainable_state()[name], tensor), name


def test_a_state_of_another_run_or_none_at_all_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "run.state"
    run(model_of("lora"), file, epochs=2)
    for model, training, words in (
        (model_of("lora"), replace(TRAINING, epochs=5), "training differ"),
        (model_of("full"), TRAINING, "method differ"),
    ):
        with pytest.raises(CheckpointError, match=words):
            run(model, file, training=training)
    content = file.read_bytes()
    for damaged in (b"", content[:-9], b"x" * 100):
        file.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="no state of a training run"):
            run(model_of("lora"), file)


def test_what_is_half_written_is_never_met(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "run.state"
    run(model_of("lora"), file, epochs=2)
    before = file.read_bytes()

    def full(*_: object) -> None:
        raise OSError("no room")

    monkeypatch.setattr("sherl.training_state.os.fsync", full)
    with pytest.raises(OSError, match="no room"):
        run(model_of("lora"), file)
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["run.state"]
