"""What decoders write does not depend on where padding stands, under any method."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from sherl.evaluation import evaluate
from sherl.methods import METHODS
from sherl.model import TaskModel
from tests.sherl.texts import WRITTEN, stirred, text_batch, text_model
from tests.sherl.tiny import padded_on_the_left

FAMILIES = ("gpt2", "opt", "llama", "gemma2", "qwen3")
CASES: dict[str, dict[str, Any]] = {name: {"name": name} for name in METHODS.names()}
del CASES["linear_probe"]  # it trains a new head alone, and text has none
CASES["sherl"] = {"name": "sherl", "reduction_factor": 4}
CASES["ladder"] = {"name": "ladder", "reduction_factor": 2}
CASES["prompt"] = {"name": "prompt", "num_prompts": 3}
CASES["bitfit"] = {"name": "bitfit", "add_missing": True}
CASES |= {f"{name}-added": {**CASES[name], "output": "added"} for name in ("unipt", "ladder")}


def model_of(case: str, family: str) -> TaskModel:
    return text_model(CASES[case], family)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("case", list(CASES))
def test_a_row_is_written_alike_beside_longer_rows_and_alone(family: str, case: str) -> None:
    tuned = stirred(model_of(case, family)).eval().tuned
    batch = text_batch(rows=8, tokens=12)
    written = tuned.generate(batch, 7, whole_length=True)
    assert len({tuple(row) for row in written.tolist()}) > 1
    assert torch.equal(tuned.generate(padded_on_the_left(batch), 7, whole_length=True), written)
    for row, length in enumerate(batch["attention_mask"].sum(dim=1).tolist()):
        alone = {name: batch[name][row : row + 1, :length] for name in ("input_ids", "attention_mask")}
        assert torch.equal(tuned.generate(alone, 7, whole_length=True), written[row : row + 1]), row


class Rows:
    """A part of a data set: the rows of one batch, padded on the right as :mod:`sherl.data` pads them."""

    def __init__(self, batch: dict[str, Tensor]) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return len(self.batch["input_ids"])

    def eval_batches(self, batch_size: int) -> Iterator[tuple[dict[str, Tensor], Any]]:
        for rows in torch.arange(len(self)).split(batch_size):
            yield {name: tensor[rows] for name, tensor in self.batch.items()}, rows


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("case", ["unipt", "ladder", "sherl", "lora"])
def test_a_score_does_not_depend_on_the_batches(family: str, case: str) -> None:
    """Right is what each row writes alone."""
    model, batch = stirred(model_of(case, family)).eval(), text_batch(rows=8, tokens=12)
    for row, length in enumerate(batch["attention_mask"].sum(dim=1).tolist()):
        alone = {name: batch[name][row : row + 1, :length] for name in ("input_ids", "attention_mask")}
        batch["labels"][row] = model.tuned.generate(alone, WRITTEN.target_length)[0]
    for rows in (batch, padded_on_the_left(batch)):
        assert evaluate(model, Rows(rows), 8)["exact_match"] == 1.0
