"""Steps priced for a GPU: what is translated, what is the same, and what the sequence of allocations says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional

from autotune.memory import allocated
from autotune.memory.allocator_rules import AllocatorRules
from autotune.memory.cuda_ops import CudaPricing
from autotune.memory.events import PARTS
from autotune.memory.gpu import GpuKind
from autotune.memory.operators import ALIKE, INSIDE, TRANSLATED
from autotune.memory.replay import replay
from autotune.memory.trace import Workload, trace, trace_events
from sherl.errors import UnsupportedBackboneError
from sherl.forms import TensorForm, form_of, text_form
from sherl.spec import TaskSpec, TrainingConfig
from tests.autotune.memory.test_scaling import workload as text_workload
from tests.autotune.memory.test_trace import CLASSES, NUMBER, VARIANTS, _name, dealt, settings_of
from tests.sherl.tiny import batch_for, tiny_config

AMPERE = GpuKind.of((8, 0), {})
WORKSPACE = AMPERE.workspace_bytes
LT_WORKSPACE = 2**20
TRAINING = TrainingConfig(learning_rate=1e-3, batch_size=6, accumulation=2)


def _workload(method: dict[str, Any], family: str = "bert", **changes: Any) -> Workload:
    settings: dict[str, Any] = {
        "backbone_config": tiny_config(family).to_dict(),
        "method": method,
        "task": CLASSES,
        "training": TRAINING,
        "train_batch": text_form(6, 11, TensorForm((6,)), token_types=True),
        "eval_batch": text_form(6, 9, TensorForm((6,)), token_types=True),
    }
    return Workload(**{**settings, **changes})


def _priced(work: Callable[[], Any]) -> tuple[int, int]:
    """Bytes that live while the result of ``work`` does, and the most that lived."""
    with FakeTensorMode(), CudaPricing(AMPERE) as pricing, pricing.memory as memory:
        result = work()
        live = memory.live_bytes
        del result
        return live, memory.peak_bytes


def test_dropout_keeps_a_boolean_mask() -> None:
    def work() -> Tensor:
        return functional.dropout(torch.zeros(10, 100, requires_grad=True) * 1.0, 0.1, True)

    # the leaf, the result and the mask; the product goes, as dropout's gradient needs it no more
    assert _priced(work)[0] == 4000 + 4000 + 1000
    eval_mode = _priced(lambda: functional.dropout(torch.zeros(10, 100), 0.1, False))
    assert eval_mode[0] == 4000


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layer_norm_keeps_its_statistics_in_float32(dtype: torch.dtype) -> None:
    with FakeTensorMode(), CudaPricing(AMPERE) as pricing, pricing.memory as memory:
        layer = nn.LayerNorm(64, dtype=dtype)
        given = torch.zeros(7, 64, dtype=dtype)
        held = memory.live_bytes
        result = layer(given)
        assert memory.live_bytes - held == given.numel() * given.element_size() + 2 * 7 * 4
        result.sum().backward()
        assert layer.weight.grad is not None
        assert layer.weight.grad.dtype is dtype


@pytest.mark.parametrize("looked_up", [3072, 3073])
def test_the_gradient_of_a_large_lookup_is_sorted_first(looked_up: int) -> None:
    def work() -> Tensor:
        grad, indices = torch.zeros(looked_up, 40), torch.zeros(looked_up, dtype=torch.int64)
        table: Tensor = torch.ops.aten.embedding_dense_backward(grad, indices, 100, -1, False)
        return table

    partials = 100 + 307  # every row of the table, and a tenth of the look-ups
    temporary = 8 * (3 * looked_up + 1 + 100 + 100 + 1 + partials) + partials * 40 * 4 if looked_up > 3072 else 0
    assert _priced(work) == (100 * 40 * 4, looked_up * (40 * 4 + 8) + 100 * 40 * 4 + temporary)


def test_each_thread_that_multiplies_has_a_workspace() -> None:
    weight = torch.zeros(3, 3, requires_grad=True)
    with FakeTensorMode(allow_non_fake_inputs=True), CudaPricing(AMPERE) as pricing, pricing.memory as memory:
        product = torch.zeros(5, 3) @ weight
        assert memory.peak_parts["workspace"] == WORKSPACE
        torch.zeros(2, 3) @ weight
        assert memory.peak_parts["workspace"] == WORKSPACE, "the next product finds it"
        product.sum().backward()
        assert memory.peak_parts["workspace"] == 2 * WORKSPACE, "backward runs on a thread of its own"


@pytest.mark.parametrize(
    ("version", "unified", "biased", "plain"),
    [
        ("2.13.0", None, WORKSPACE, 0),
        ("2.12.1+cu130", "0", LT_WORKSPACE, WORKSPACE),
        ("2.11.0+cu130", None, LT_WORKSPACE + WORKSPACE, 0),
        ("2.11.0+cu130", "1", WORKSPACE, 0),
    ],
)
def test_a_product_with_a_bias_is_another_librarys(version: str, unified: str | None, biased: int, plain: int) -> None:
    """As recorded of torch's CUDA builds of these versions."""
    environment = {} if unified is None else {"TORCH_CUBLASLT_UNIFIED_WORKSPACE": unified}
    gpu = GpuKind.of((8, 0), environment, torch_version=version)
    with FakeTensorMode(), CudaPricing(gpu) as pricing, pricing.memory as memory:
        weight, bias = torch.zeros(3, 3), torch.zeros(3)
        torch.nn.functional.linear(torch.zeros(5, 3), weight, bias)
        assert memory.peak_parts["workspace"] == biased
        torch.nn.functional.linear(torch.zeros(5, 3), weight)
        assert memory.peak_parts["workspace"] == biased + plain


@pytest.mark.parametrize("method", VARIANTS[::3], ids=_name)
def test_the_sequence_says_all_that_the_figures_say(method: dict[str, Any]) -> None:
    workload = _workload(method)
    result = trace(workload, AMPERE)
    events = trace_events(workload, AMPERE)
    live = peak = 0
    born: dict[int, Any] = {}
    for event in events:
        live += event.change
        peak = max(peak, live)
        if event.kind == "alloc":
            assert event.id not in born
            born[event.id] = event
        else:
            assert (born[event.id].nbytes, born[event.id].label) == (event.nbytes, event.label)
    assert peak == result.allocated == sum(result.parts.values())
    assert {event.label for event in events} <= set(PARTS)
    for rules in (AllocatorRules(), AllocatorRules(expandable_segments=True)):
        replayed = replay(events, rules)
        assert replayed.peak_reserved == trace(workload, AMPERE, rules).reserved
        assert result.allocated <= replayed.peak_allocated <= replayed.peak_reserved
    assert trace_events(workload, AMPERE) == events, "the same every time"


def test_every_part_has_its_label() -> None:
    lora = {"name": "sherl", "start_layer": 1, "late_route": {"name": "lora", "rank": 2}}
    events = trace_events(_workload(lora), AMPERE)
    assert {event.label for event in events} == set(PARTS)
    kept = [event.nbytes for event in events if event.label == "kept features" and event.kind == "alloc"]
    feature = 3 * 11 * 16 * 4  # half of 6 rows, 11 tokens, 16 numbers of 4 bytes
    steps, micro_batches, features = 2, 2, 2
    assert kept == [feature] * (steps * micro_batches * features) + [6 * 9 * 16 * 4] * features
    full = {event.label for event in trace_events(_workload({"name": "full"}), AMPERE)}
    assert full == set(PARTS) - {"kept features", "fusion", "late route"}


def test_weights_come_first_and_batches_are_copied_by_each_step() -> None:
    events = trace_events(_workload({"name": "sherl"}), AMPERE)
    first_other = next(place for place, event in enumerate(events) if event.label != "weights")
    assert all(event.label != "inputs" for event in events[:first_other])
    copies = [event for event in events if event.label == "inputs" and event.kind == "alloc"]
    assert len(copies) == 3 * 4, "two training steps and one evaluation step, four tensors each"
    gone = [event.id for event in events if event.kind == "free"]
    assert all(event.id in gone for event in copies)


def test_blocks_that_run_again_in_backward_are_priced_alike() -> None:
    """Where they were not, checkpointing would see other tensors kept than in the first run, and raise."""
    plain = trace(_workload({"name": "full"}, train_batch=text_form(6, 40, TensorForm((6,)))), AMPERE)
    saved = trace(
        _workload({"name": "full", "activation_checkpointing": True}, train_batch=text_form(6, 40, TensorForm((6,)))),
        AMPERE,
    )
    assert saved.allocated < plain.allocated


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("capability", [(7, 5), (8, 0), (9, 0)], ids=str)
def test_every_family_and_method_runs_only_operators_that_were_looked_at(
    precision: Any, capability: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[str] = set()
    dispatch = allocated._Following.__torch_dispatch__

    def watching(self: Any, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "aten":
            seen.add(func.overloadpacket.__name__)
        return dispatch(self, func, types, args, kwargs)

    monkeypatch.setattr(allocated._Following, "__torch_dispatch__", watching)
    training = TrainingConfig(learning_rate=1e-3, batch_size=6, precision=precision)
    gpu = GpuKind.of(capability, {})
    # each family with three methods and every method on each kind: half for each precision, a sixth for each of the six
    wanted = [(family, settings_of(method)) for family, method in dealt(3)]
    wanted += [("bert", variant) for variant in VARIANTS]
    place = [(7, 5), (8, 0), (9, 0)].index(capability) + 3 * (precision == "bf16")
    for family, method in wanted[place::6]:
        form = form_of(batch_for(family, rows=6))
        try:
            result = trace(_workload(method, family, training=training, train_batch=form, eval_batch=form), gpu)
        except UnsupportedBackboneError:
            continue
        assert result.reserved is not None
        assert result.reserved >= result.allocated
    trace(_workload({"name": "sherl"}, task=NUMBER, training=training), gpu)
    for family in ("t5", "bart"):
        trace(text_workload(family, {"name": "sherl"}, 6, precision), gpu)
    for method in ("sherl", "prompt"):
        written = text_form(6, 9, TensorForm((6, 3)))
        text = {"task": TaskSpec(kind="text-to-text", metric="exact_match", target_length=3)}
        text |= {"train_batch": written, "eval_batch": written}
        trace(_workload({"name": method}, "gemma2", training=training, **text), gpu)
        form = text_form(6, 9, TensorForm((6, 9)))
        language = {
            "task": TaskSpec(kind="language-modelling", metric="neg_loss"),
            "train_batch": form,
            "eval_batch": form,
        }
        trace(_workload({"name": method}, "opt", training=training, **language), gpu)
    translated = {name for names in TRANSLATED for name in names.split(", ")}
    inside = {name for names in INSIDE for name in names.split(", ")}
    assert seen - translated - inside - ALIKE == {"promote_types"}, "a function of dtypes, no operator on tensors"


def test_the_lists_do_not_overlap_and_the_documentation_names_what_differs() -> None:
    translated = {name for names in TRANSLATED for name in names.split(", ")}
    inside = {name for names in INSIDE for name in names.split(", ")}
    assert not translated & inside
    assert not (translated | inside) & ALIKE
    text = (Path(__file__).parents[3] / "docs" / "memory.md").read_text(encoding="utf-8")
    missing = [name for name in [*translated, *inside] if f"`{name}`" not in text]
    assert not missing
