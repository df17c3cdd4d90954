"""What the predictor says of the cases, and which batch sizes it holds to fit a cap."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from accuracy_cases import TOKENS, Case, Size

from autotune.memory.allocator_settings import AllocatorSettings
from autotune.memory.gpu import GpuKind
from autotune.memory.predict import Predictor
from autotune.memory.scaling import NotEvenError
from autotune.outcome import MemoryFigures
from sherl.forms import BatchForm

LEAST_ROWS, MOST_ROWS = 2, 4096

# under each cap every line runs with the most rows that are predicted to fit
LINES: tuple[tuple[str, dict[str, Any], dict[str, Any]], ...] = (
    ("bert-base", {"name": "full"}, {"precision": "fp32"}),
    ("bert-base", {"name": "sherl", "insertion": "multi", "start_layer": -2}, {"precision": "bf16"}),
    ("gpt2", {"name": "lora", "rank": 8}, {"precision": "fp32"}),
    ("vit-base", {"name": "full", "activation_checkpointing": True}, {"precision": "bf16"}),
    ("t5-base", {"name": "sherl", "start_layer": -2, "late_route": {"name": "lora"}}, {"precision": "fp32"}),
    ("bart-base", {"name": "adapter"}, {"precision": "bf16"}),
)
TRACED_ROWS = 8


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is predicted for. context_bytes, gpu, device_name: of the GPU, as measured and as NVML names it."""

    device: Literal["cpu", "cuda"]
    context_bytes: int = 0
    gpu: GpuKind | None = None
    device_name: str = ""


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """figures: with the margin. estimate: of the device without it, None on a CPU."""

    figures: MemoryFigures
    estimate: int | None = None


def predictor_for(case: Case, setting: Setting) -> Predictor:
    """The predictor of a study on this case's model and shapes."""
    model = case.backbone

    def form(rows: int) -> BatchForm:
        return model.form(case.size, rows, case.tokens)

    return Predictor(
        model.config(case.size),
        model.task,
        train_batch=form,
        eval_batch=form,
        baseline_bytes=0,  # of a CPU only tensor bytes are graded here
        device=setting.device,
        context_bytes=setting.context_bytes,
        device_name=setting.device_name,
        gpu=setting.gpu,
        rules=AllocatorSettings.of().rules if setting.device == "cuda" else None,
    )


def predict(case: Case, setting: Setting) -> Predicted:
    """The figures of one case.

    Raises:
        SherlError: the case's settings do not suit its model.
    """
    figures = predictor_for(case, setting).predict(case.candidate)
    return Predicted(
        figures=figures, estimate=None if figures.reserved is None else figures.reserved + setting.context_bytes
    )


def fitting(number: int, caps: Sequence[int], setting: Setting, size: Size) -> list[tuple[int, Case, MemoryFigures]]:
    """Of one of :data:`LINES`: for each cap that it fits at all, the case with the most rows predicted to fit.

    Raises:
        SherlError: the line's settings do not suit its model.
    """
    model, method, changes = LINES[number]
    training = {"learning_rate": 1e-4, "batch_size": TRACED_ROWS, **changes}
    case = Case(model=model, size=size, method=method, training=training, tokens=TOKENS[size])
    predictor = predictor_for(case, setting)

    def at(rows: int) -> Case:
        return replace(case, training={**training, "batch_size": rows})

    def traced(rows: int) -> int:
        return predictor.predict(at(rows).candidate).device

    quick = traced
    try:
        by_rows = predictor.by_rows(case.candidate)
        quick = lambda rows: by_rows(rows)[0].device  # noqa: E731  # one of two ways to the same figure
    except NotEvenError:
        pass  # each number of rows is traced then
    found = []
    for cap in caps:
        rows = most_rows(quick, cap)
        while rows >= LEAST_ROWS and traced(rows) > cap:
            rows -= 1
        if rows >= LEAST_ROWS:
            found.append((cap, at(rows), predictor.predict(at(rows).candidate)))
    return found


def most_rows(device_bytes: Callable[[int], int], cap: int) -> int:
    """The most rows, up to :data:`MOST_ROWS`, whose figure is within the cap; 0 where :data:`LEAST_ROWS` are too many."""
    low, high = 0, MOST_ROWS + 1
    while high - max(low, LEAST_ROWS - 1) > 1:
        middle = (max(low, LEAST_ROWS - 1) + high) // 2
        if device_bytes(middle) <= cap:
            low = middle
        else:
            high = middle
    return low
