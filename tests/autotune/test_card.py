"""The model card's head for the hub, what it says of certainty, answering, plan and licence."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from huggingface_hub import ModelCard

from autotune.deploy.card import model_card
from autotune.deploy.licence import Licence
from autotune.outcome import Confirmation, InferenceFigures, MemoryFigures, Status, TrialRecord
from sherl.backbones import DEFAULT_BACKBONE
from tests.autotune._records import trial

TASK = {"kind": "classification", "metric": "accuracy", "class_names": ["bad", "good"]}
RECORD = trial(4, 0.8123, test_metrics={"accuracy": 0.7987})


def confirmed(record: TrialRecord, *scores: float | None) -> TrialRecord:
    """With trainings on seeds 100, 101, ... that ended so; None is one that failed."""
    made = []
    for seed, score in enumerate(scores, start=100):
        outcome = trial(seed, score, status=Status.COMPLETE if score is not None else Status.FAILED).outcome
        assert outcome is not None
        made.append(Confirmation(seed=seed, outcome=outcome))
    return replace(record, confirmations=tuple(made))


def card_of(record: TrialRecord, *, source: str | None = DEFAULT_BACKBONE, **changes: Any) -> str:
    assert record.outcome is not None
    backbone = {"source": source, "family": "bert", "fingerprint": "f"}
    manifest = {"task": {**TASK, **changes}, "backbone": backbone, "precision": "fp32"}
    settings = {"name": "my: study", "metric": "accuracy", "memory_cap": 8_000_000_000}
    info = {"data": {"name": "movie-reviews", "source": "movie-reviews"}}
    return model_card(record, record.outcome, folder_name="m", manifest=manifest, settings=settings, info=info)


def test_the_hub_understands_the_head() -> None:
    data = ModelCard(card_of(confirmed(RECORD, 0.80, 0.82))).data
    assert data.license == "apache-2.0"
    assert data.library_name == "sherl"
    assert data.pipeline_tag == "text-classification"
    assert data.base_model == "sentence-transformers/all-MiniLM-L6-v2"
    assert data.tags == ["memory-autotune", "sherl"]
    found = {(one.dataset_split, one.metric_name): one.metric_value for one in data.eval_results or []}
    assert found == {
        ("validation", "accuracy"): 0.8123,
        ("validation", "accuracy, mean of 2 other seeds"): 0.81,
        ("test", "accuracy"): 0.7987,
    }


@pytest.mark.parametrize(
    ("source", "base"), [("org/model", "org/model"), ("/a/folder/of/mine", None), (None, None), ("bert", "bert")]
)
def test_only_a_name_of_the_hub_is_a_base_model(
    source: str | None, base: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autotune.deploy.card.licence_of", lambda source: Licence("mit", "by its card"))
    assert ModelCard(card_of(RECORD, source=source)).data.get("base_model") == base


def test_mean_and_spread_are_those_of_the_other_seeds() -> None:
    card = card_of(confirmed(RECORD, 0.80, None, 0.82))
    assert "with 2 other seeds (100, 102), the validation accuracy was 0.8100 ± 0.0141" in card
    assert "each: 0.8000, 0.8200" in card
    assert "unconfirmed" not in card
    alone = card_of(confirmed(RECORD, 0.80))
    assert "with 1 other seed (100), the validation accuracy was 0.8000 on average" in alone
    assert "±" not in alone


@pytest.mark.parametrize("record", [RECORD, confirmed(RECORD, None)])
def test_one_seed_is_said_to_be_one(record: TrialRecord) -> None:
    assert "One seed (4), unconfirmed" in card_of(record)


def test_what_answering_takes_and_the_plan() -> None:
    figures = MemoryFigures(allocated=90_000_000, device=300_000_000, meter="process private bytes")
    inference = InferenceFigures(
        peak=figures, latency_seconds=0.0123, rows_per_second=250.0, batch_rows=32, threads=2, device="a CPU"
    )
    record = replace(
        RECORD,
        inference=inference,
        candidate=replace(RECORD.candidate, plan={"accumulation": 4, "activation_checkpointing": True}),
    )
    card = card_of(record)
    for words in (
        "measured on: a CPU, 2 CPU threads", "300.00 MB", "12.3 ms", "250.0 rows a second in batches of 32",
        "memory plan: accumulation: 4, activation checkpointing: True",
    ):  # fmt: skip
        assert words in card, words
    plain = card_of(RECORD)
    assert "## Cost of answering\n\nNot measured." in plain
    assert "memory plan: none" in plain
