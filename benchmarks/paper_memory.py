"""The memory column of the SHERL paper's table 1, priced without a GPU and without weights.

    python benchmarks/paper_memory.py [--only NAME ...] [--json FILE]

T5 on RTE: batch 100, float32, 128 source and 3 target tokens. Each method is traced on fake tensors and replayed through the
model of torch's caching allocator; `allocated` of that replay counts blocks rounded to 512 bytes, as
`torch.cuda.max_memory_allocated` does, and stands against the paper, in its unit, MiB / 1000. Two optimizer steps and one
generating evaluation count. Three columns:

    released        what the released repositories do (LST's, which SHERL's builds on, of 2021) and this project does not: the
                    decoder's keys and values are kept in training (`use_cache`); attention holds its scores, their softmax
                    (whose backward was given the input too before torch 1.11) and dropout's result; gradients are
                    zeroed and kept between steps; adapters train the norms too, LoRA the biases too and drops a tenth of its
                    input; SHERL's fusion goes step by step (paper_released.py)
    released, no cache      the same without the first of these
    project         as this project runs it: no cache in training, fused attention, gradients let go

Library versions and the GPU are today's in all columns: capability 8.6 (RTX A6000), as the paper's GPU is not named there.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import torch
from conditions import write_result
from paper_released import released
from torch import Tensor, nn
from transformers import T5Config

import sherl.training
from autotune.memory.events import Event
from autotune.memory.gpu import GpuKind
from autotune.memory.replay import replay
from autotune.memory.trace import Workload, trace_events
from sherl.forms import TensorForm, text_form
from sherl.methods import MethodConfig, method_from_dict
from sherl.methods.adapter import AdapterConfig
from sherl.methods.added_biases import add_biases
from sherl.methods.bitfit import BitFitConfig
from sherl.methods.late import LatePart
from sherl.methods.lora import LoraConfig
from sherl.methods.sherl import RELEASED_LAYERS, SherlConfig
from sherl.methods.tuned import Tuned
from sherl.spec import TaskSpec, TrainingConfig

UNIT = 2**20 * 1000  # the paper's "GB"
GPU = GpuKind.of((8, 6), environment={})
BATCH, SOURCE, TARGET = 100, 128, 3

# the published configurations; what is not named is T5Config's default
SIZES: dict[str, dict[str, int]] = {
    "t5-base": {"d_model": 768, "d_ff": 3072, "d_kv": 64, "num_layers": 12, "num_heads": 12},
    "t5-large": {"d_model": 1024, "d_ff": 4096, "d_kv": 64, "num_layers": 24, "num_heads": 16},
    "t5-3b": {"d_model": 1024, "d_ff": 16384, "d_kv": 128, "num_layers": 24, "num_heads": 32},
}
RTE = TaskSpec(
    kind="text-to-text", metric="accuracy", class_names=("0", "1"), target_length=TARGET, label_tokens=((3, 632, 1), (209, 1))
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ReleasedAdapter(MethodConfig):
    """Adapters behind self-attention and feed-forward parts and all norms train: 3,625,728 parameters of T5-base, the 1.63 % that
    the paper has (with adapters behind the cross-attention it would be 2.03 %)."""

    name: ClassVar[str] = "adapter"

    def put_on(self, tuned: Tuned) -> None:
        AdapterConfig(placement="self_attention_and_feed_forward").put_on(tuned)
        tuned.add("norms", _norms(tuned))


@dataclass(frozen=True, kw_only=True)
class ReleasedBitFit(MethodConfig):
    """All biases train, the language head's too: 280,960 parameters of T5-base, the 0.13 % that the paper has (0.11 % without
    the head's)."""

    name: ClassVar[str] = "bitfit"

    def put_on(self, tuned: Tuned) -> None:
        BitFitConfig(add_missing=True).put_on(tuned)
        tuned.add("head bias", _head_bias(tuned))


def _head_bias(tuned: Tuned) -> LatePart:
    head = tuned.backbone.model.lm_head
    bias = torch.nn.Parameter(torch.zeros(head.out_features))
    hook = head.register_forward_hook(lambda _module, _inputs, logits: logits + bias)
    return LatePart(parameters={"bias": bias}, taken_off_by=[hook.remove])


def _norms(tuned: Tuned) -> LatePart:
    return LatePart(parameters={name: p for name, p in tuned.model.named_parameters() if "layer_norm" in name})


@dataclass(frozen=True, kw_only=True)
class ReleasedLora(MethodConfig):
    """LoRA and all biases train, the language head's too: 3,819,904 parameters of T5-base, the 1.71 % that the paper has (1.70 %
    without the head's). Its LoRA layers drop a tenth of their input in front of the down-projection while they train
    (lora_dropout of the LoRA configuration in LST's repository): a copy and a mask of each stay for backward."""

    name: ClassVar[str] = "lora"

    def put_on(self, tuned: Tuned) -> None:
        tuned.add("biases", add_biases(tuned.backbone))  # first: the layers that LoRA adds are to have none
        LoraConfig(rank=32).put_on(tuned)
        for layer in tuned.model.modules():
            if hasattr(layer, "lora_dropout"):
                layer.lora_dropout = nn.ModuleDict(dict.fromkeys(layer.lora_dropout, nn.Dropout(0.1)))
        tuned.add("head bias", _head_bias(tuned))


@dataclass(frozen=True)
class Row:
    """size: of the T5. method: as the project has it. published: MiB / 1000. released: what its repository trains, where that
    is more than the method."""

    size: str
    method: Mapping[str, Any]
    published: float
    released: MethodConfig | None = None


def _ladder(kept: str) -> dict[str, Any]:
    return {"name": "ladder", "reduction_factor": 8, "kept_layers": kept, "initialisation": "random"}


def _sherl(size: str) -> dict[str, Any]:
    return SherlConfig.released(kept_layers=RELEASED_LAYERS[size]).to_dict()


ROWS: dict[str, Row] = {
    "full": Row("t5-base", {"name": "full"}, 17.6),
    "adapter": Row(
        "t5-base", {"name": "adapter", "placement": "self_attention_and_feed_forward"}, 13.0, ReleasedAdapter()
    ),
    "lora": Row("t5-base", {"name": "lora", "rank": 32}, 12.6, ReleasedLora()),
    "bitfit": Row("t5-base", {"name": "bitfit", "add_missing": True}, 10.7, ReleasedBitFit()),
    "prompt": Row("t5-base", {"name": "prompt", "num_prompts": 100}, 22.2),
    "lst": Row("t5-base", _ladder("drop:0,4,8"), 5.5),
    "lst t5-large": Row("t5-large", _ladder("every:2"), 12.2),
    "lst t5-3b": Row("t5-3b", _ladder("last:1"), 22.4),  # its script keeps one block a stack
    "sherl": Row("t5-base", _sherl("t5-base"), 2.9),
    "sherl t5-large": Row("t5-large", _sherl("t5-large"), 7.1),
    "sherl t5-3b": Row("t5-3b", _sherl("t5-3b"), 21.8),
}


# ---------------------------------------------------------------- prices


@dataclass(frozen=True)
class Price:
    """In bytes. allocated: the peak in rounded blocks, the paper's figure. tensors: the same not rounded. training: of the
    training steps alone, rounded. parts: of ``tensors`` at its peak."""

    allocated: int
    tensors: int
    training: int
    parts: dict[str, int]


def price(row: Row, variant: str) -> Price:
    """variant: ``released``, ``released, no cache`` or ``project``."""
    with ExitStack() as stack:
        if variant != "project":
            stack.enter_context(released(row.released, cache=variant == "released"))
        stack.enter_context(_marked_evaluation())
        events = trace_events(_workload(row), GPU)
    begin = next(place for place, event in enumerate(events) if event.nbytes == _MARK)
    tensors, parts = _peak(events)
    return Price(replay(events).peak_allocated, tensors, replay(events[:begin]).peak_allocated, parts)


_MARK = 12_347  # bytes; no tensor of a model has them


@contextmanager
def _marked_evaluation() -> Iterator[None]:
    """Inside, a tensor of :data:`_MARK` bytes comes and goes where a rehearsal's evaluation begins."""
    step = sherl.training.eval_step

    def marked(*args: Any, **kwargs: Any) -> Tensor:
        torch.empty(_MARK, dtype=torch.uint8)
        return step(*args, **kwargs)

    with mock.patch.object(sherl.training, "eval_step", marked):
        yield


def _workload(row: Row) -> Workload:
    config = T5Config(vocab_size=32128, decoder_start_token_id=0, **SIZES[row.size])
    form = text_form(BATCH, SOURCE, TensorForm((BATCH, TARGET)))
    method_from_dict(dict(row.method))  # a mistake shows here, not in a trace
    return Workload(
        backbone_config=config.to_dict(),
        method=row.method,
        task=RTE,
        training=TrainingConfig(learning_rate=3e-4, batch_size=BATCH),
        train_batch=form,
        eval_batch=form,
    )


def _peak(events: Sequence[Event]) -> tuple[int, dict[str, int]]:
    live = peak = 0
    parts: dict[str, int] = {}
    at_peak: dict[str, int] = {}
    for event in events:
        live += event.change
        parts[event.label] = parts.get(event.label, 0) + event.change
        if live > peak:
            peak, at_peak = live, dict(parts)
    return peak, {label: count for label, count in at_peak.items() if count}


VARIANTS = ("released", "released, no cache", "project")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(ROWS), default=list(ROWS), metavar="NAME")
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args()
    print(f"MiB / 1000 of max_memory_allocated; capability {GPU.capability}; in brackets the training steps alone")
    print(f"| method | published | {' | '.join(VARIANTS)} | released against published |\n|---|---|---|---|---|---|")
    table = {}
    for name in arguments.only:
        row = ROWS[name]
        prices = {variant: price(row, variant) for variant in VARIANTS}
        difference = prices["released"].allocated / UNIT / row.published - 1
        cells = " | ".join(f"{p.allocated / UNIT:.2f} ({p.training / UNIT:.2f})" for p in prices.values())
        print(f"| {name} | {row.published} | {cells} | {difference:+.1%} |", flush=True)
        table[name] = {
            "published": row.published,
            "difference": round(difference, 4),
            **{variant: figures(p) for variant, p in prices.items()},
        }
    settings = {"batch": BATCH, "source": SOURCE, "target": TARGET, "capability": list(GPU.capability)}
    # a part of the table does not take the place of the whole
    if arguments.json is not None or list(arguments.only) == list(ROWS):
        print(f"written to {write_result('paper_memory', {'settings': settings, 'table': table}, arguments.json)}")


def figures(one: Price) -> dict[str, Any]:
    """A price in the paper's unit."""

    def rounded(count: int) -> float:
        return round(count / UNIT, 3)

    return {
        "allocated": rounded(one.allocated),
        "training": rounded(one.training),
        "tensors": rounded(one.tensors),
        "parts": {label: rounded(count) for label, count in one.parts.items()},
    }


if __name__ == "__main__":
    main()
