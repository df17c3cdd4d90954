"""Events made up for other batch sizes against true traces: equal to the byte."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from autotune.memory.events import Event
from autotune.memory.gpu import GpuKind
from autotune.memory.scaling import ByRows, NotEvenError
from autotune.memory.trace import TraceResult, Workload, trace, trace_events
from sherl.forms import TensorForm, text_form
from sherl.spec import TaskSpec, TrainingConfig
from tests.sherl.tiny import tiny_config

CLASSES = TaskSpec(kind="classification", metric="accuracy", class_names=("a", "b"))
WRITING = TaskSpec(kind="text-to-text", metric="exact_match", target_length=3)
HOPPER = GpuKind(capability=(9, 0))


def workload(family: str, method: dict[str, Any], rows: int, precision: str = "fp32") -> Workload:
    writes = family in ("t5", "bart")
    form = text_form(rows, 12, TensorForm((rows, 3) if writes else (rows,)))
    return Workload(
        backbone_config=tiny_config(family).to_dict(),
        method=method,
        task=WRITING if writes else CLASSES,
        training=TrainingConfig(learning_rate=1e-3, batch_size=rows, precision=precision),  # type: ignore[arg-type]
        train_batch=form,
        eval_batch=form,
    )


def assert_same(made: TraceResult, expected: TraceResult) -> None:
    """Equal in all figures. The parts of a true trace are as they were called at the peak, where a gradient may not have
    its name yet; those of events have their last names."""
    assert replace(made, parts={}) == replace(expected, parts={})
    assert sum(made.parts.values()) == sum(expected.parts.values()) == made.allocated
    settled = ("weights", "optimizer", "kept features", "logits")
    assert [made.parts[name] for name in settled] == [expected.parts[name] for name in settled]


@pytest.mark.parametrize("gpu", [None, HOPPER], ids=["cpu", "gpu"])
@pytest.mark.parametrize(
    ("family", "method"),
    [
        ("bert", {"name": "full"}),
        ("bert", {"name": "sherl", "late_route": {"name": "lora", "rank": 2}}),
        ("deberta-v2", {"name": "lora", "rank": 2, "activation_checkpointing": True}),
        ("modernbert", {"name": "lora", "rank": 2}),
        ("t5", {"name": "sherl"}),
        ("t5", {"name": "full", "activation_checkpointing": True}),
    ],
)
def test_any_batch_size_from_two_traces(family: str, method: dict[str, Any], gpu: GpuKind | None) -> None:
    few, many = (trace_events(workload(family, method, rows), gpu) for rows in (4, 8))
    scaled = ByRows(few, many, 4, 8)
    for rows in (2, 4, 5, 8, 333):
        expected: TraceResult = trace(workload(family, method, rows), gpu)
        assert_same(scaled.at(rows, for_gpu=gpu is not None), expected)


def test_half_precision_too() -> None:
    few, many = (trace_events(workload("bert", {"name": "full"}, rows, "bf16"), HOPPER) for rows in (4, 8))
    expected = trace(workload("bert", {"name": "full"}, 70, "bf16"), HOPPER)
    assert_same(ByRows(few, many, 4, 8).at(70, for_gpu=True), expected)


# ---- what is not even -------------------------------------------------------------------------------------------


def alloc(number: int, nbytes: int, label: str = "activations") -> Event:
    return Event("alloc", number, nbytes, label)


def free(number: int, nbytes: int, label: str = "activations") -> Event:
    return Event("free", number, nbytes, label)


@pytest.mark.parametrize(
    ("few", "many", "words"),
    [
        ([alloc(0, 8)], [alloc(0, 16), free(0, 16)], "1 events at 2 rows, 2 at 4"),
        ([alloc(0, 8), alloc(1, 8)], [alloc(0, 8), free(0, 8)], "event 1 is"),
        ([alloc(0, 8)], [alloc(0, 8, "fusion")], "event 0 is"),
        ([alloc(0, 8)], [alloc(0, 6)], "shrinks from 8 to 6 bytes"),
        (
            [alloc(0, 8), alloc(1, 8), free(0, 8), free(1, 8)],
            [alloc(0, 8), alloc(1, 8), free(1, 8), free(0, 8)],
            "event [02] is",
        ),
    ],
)
def test_two_runs_that_are_not_the_same_are_told_apart(few: list[Event], many: list[Event], words: str) -> None:
    with pytest.raises(NotEvenError, match=words):
        ByRows(few, many, 2, 4)


def test_ids_may_be_numbered_anew_in_each_trace() -> None:
    scaled = ByRows([alloc(0, 16), free(0, 16)], [alloc(70, 32), free(70, 32)], 2, 4)
    assert [event.change for event in scaled.events(5)] == [40, -40]


def test_a_storage_of_broken_bytes_a_row_is_rounded_down_and_said() -> None:
    assert ByRows([alloc(0, 16)], [alloc(0, 32)], 2, 4).even
    scaled = ByRows([alloc(0, 8)], [alloc(0, 11)], 2, 4)
    assert not scaled.even
    assert [scaled.events(rows)[0].nbytes for rows in (2, 3, 4, 5, 6)] == [8, 9, 11, 12, 14]


def test_rows_below_the_line_are_refused() -> None:
    scaled = ByRows([alloc(0, 10)], [alloc(0, 38)], 4, 8)
    assert scaled.at(4, for_gpu=False).allocated == 10
    with pytest.raises(NotEvenError, match="2 rows are too few"):
        scaled.events(2)
    with pytest.raises(NotEvenError, match="1 rows may go another way"):
        scaled.events(1)
    with pytest.raises(ValueError, match="4 and 4 were given"):
        ByRows([], [], 4, 4)
