"""One configuration really run, in a process of its own; ``memory_accuracy.py`` starts it and talks to it in JSON lines.

    request (its first line of input) -> {"state": "ready"} -> "go" -> {"state": "held", figures} -> end of input

``ready`` comes before the GPU is touched. From ``held`` to the end of its input it holds what it has, so that it can be
read from outside. Where its parent dies, its input ends too, and so does it.
"""

from __future__ import annotations

import contextlib
import gc
import json
import random
import sys
import time
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
import transformers
from accuracy_cases import Case, batch_of
from torch.utils._python_dispatch import TorchDispatchMode

from autotune.errors import DeviceError
from autotune.memory.allocator_settings import AllocatorSettings
from autotune.memory.limit import is_out_of_memory
from autotune.memory.nvml_meter import allocator_fraction
from autotune.memory.rehearsal import measure_rehearsal
from sherl.backbones import Backbone, backbone_from_config
from sherl.errors import SherlError
from sherl.evaluation import Batch, eval_step
from sherl.methods import method_from_dict
from sherl.methods.late import originals
from sherl.model import TaskModel, build_model
from sherl.optimizer import make_optimizer
from sherl.precision import weights_dtype
from sherl.snapshot import Snapshot
from sherl.spec import TrainingConfig
from sherl.training import evaluation_rows, rehearse, train_step

STEPS = 12  # of training after the rehearsal, on batches of changing lengths
EVALUATE_EVERY = 4


class WithoutDraws(TorchDispatchMode):
    """Weights stay as their memory was."""

    DRAWS = (torch.ops.aten.normal_.default, torch.ops.aten.uniform_.default)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        return args[0] if func in self.DRAWS else func(*args, **(kwargs or {}))


@contextlib.contextmanager
def without_values() -> Iterator[None]:
    """For a GPU that computes nothing: weights are neither drawn, nor are they kept aside or summed up for a model that is saved
    or given back. This is most of the time that a case takes there."""
    with (
        WithoutDraws(),
        mock.patch.object(originals, "Snapshot", lambda tensors: Snapshot(tensors[:0])),
        mock.patch.object(Backbone, "settle_fingerprint"),
    ):
        yield


def loaded(case: Case, *, drawn: bool = True) -> TaskModel:
    """The configuration's model with random weights, on the CPU. drawn: False leaves them without values."""
    settings = case.backbone.config(case.size)
    config = transformers.AutoConfig.for_model(settings.pop("model_type"), **settings)
    training = TrainingConfig.from_dict(case.training)
    with torch.random.fork_rng(devices=[]), contextlib.nullcontext() if drawn else without_values():
        torch.manual_seed(0)
        backbone = backbone_from_config(config, dtype=weights_dtype(training.precision))
        return build_model(backbone, method_from_dict(case.method), case.backbone.task, seed=0)


def largest_batches(case: Case) -> tuple[Batch, Batch]:
    """The largest batches of training and of evaluation."""
    training = TrainingConfig.from_dict(case.training)
    rows = evaluation_rows(training)
    return batch_of(case, training.batch_size, case.tokens), batch_of(case, rows, case.tokens, seed=1)


def rehearsed_allocated(case: Case) -> int:
    """Peak tensor bytes of the real rehearsal on the CPU, weights and batches included."""
    training = TrainingConfig.from_dict(case.training)
    return measure_rehearsal(loaded(case), *largest_batches(case), training, restore="none").peak_bytes


def train_on(model: TaskModel, case: Case) -> None:
    """A short run as trials do it: batches of changing lengths (never longer than the rehearsal's), evaluation now and then."""
    training = TrainingConfig.from_dict(case.training)
    draws = random.Random(0)
    optimizer, scheduler = make_optimizer(model, training, total_steps=STEPS)
    for step in range(STEPS):
        tokens = draws.randint(max(1, case.tokens // 8), case.tokens)
        train_step(model, batch_of(case, training.batch_size, tokens, seed=step), optimizer, scheduler, training)
        if step % EVALUATE_EVERY == EVALUATE_EVERY - 1:
            eval_step(model, batch_of(case, evaluation_rows(training), tokens, seed=step), whole_length=True)


def on_gpu(model: TaskModel, case: Case, cap_bytes: int, outside_bytes: int) -> dict[str, Any]:
    """Rehearsal and run under the allocator's fraction of this cap; bytes, by torch's own counters.

    Raises:
        DeviceError: the cap leaves nothing for tensors.
    """
    device = torch.device("cuda", 0)
    total = int(torch.cuda.get_device_properties(device).total_memory)
    page_bytes = AllocatorSettings.of().page_bytes
    fraction = allocator_fraction(cap_bytes, outside_bytes, total, page_bytes=page_bytes)
    torch.cuda.set_per_process_memory_fraction(fraction, device)
    model.to(device)
    gc.collect()
    torch.cuda.reset_peak_memory_stats(device)
    rehearse(model, *largest_batches(case), TrainingConfig.from_dict(case.training), restore="none")
    torch.cuda.synchronize(device)
    after = {
        "rehearsal_allocated": int(torch.cuda.max_memory_allocated(device)),
        "rehearsal_reserved": int(torch.cuda.max_memory_reserved(device)),
    }
    train_on(model, case)
    torch.cuda.synchronize(device)
    return {
        **after,
        "allocated": int(torch.cuda.max_memory_allocated(device)),
        "reserved": int(torch.cuda.max_memory_reserved(device)),
        "reserved_now": int(torch.cuda.memory_reserved(device)),
        "allocation_retries": int(torch.cuda.memory_stats(device).get("num_alloc_retries", 0)),
    }


def on_cpu(model: TaskModel, case: Case) -> dict[str, Any]:
    """The same where there is no GPU: tensor bytes alone."""
    training = TrainingConfig.from_dict(case.training)
    memory = measure_rehearsal(model, *largest_batches(case), training, restore="none")
    train_on(model, case)
    return {"allocated": memory.peak_bytes}


def main() -> None:
    request = json.loads(sys.stdin.readline())
    case = Case(**request["case"])
    torch.set_num_threads(int(request["threads"]))
    model = loaded(case, drawn=bool(request["drawn"]))
    _say({"state": "ready"})
    if sys.stdin.readline().strip() != "go":
        return
    began = time.perf_counter()
    try:
        if request["device"] == "cuda":
            figures = on_gpu(model, case, int(request["cap_bytes"]), int(request["outside_bytes"]))
        else:
            figures = on_cpu(model, case)
    except (DeviceError, SherlError, RuntimeError, MemoryError) as error:  # torch's own errors are RuntimeErrors
        _say({"state": "failed", "out_of_memory": is_out_of_memory(error), "error": f"{type(error).__name__}: {error}"})
        return
    _say({"state": "held", "seconds": time.perf_counter() - began, **figures})
    sys.stdin.readline()


def _say(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
