"""The peak of a configuration's tensor bytes, found without weights, without a device and without computing anything.

The project's own code runs as it does in a trial (:func:`build_model`, two training steps, one evaluation step), on fake
tensors: shapes without values. What lives at each moment is followed by :class:`TensorMemory`, so the result equals what
the same follower sees around the real rehearsal on a CPU, to the byte.

For a GPU what differs there is translated (:mod:`autotune.memory.cuda_ops`), and the sequence of allocations and frees is
replayed through a model of torch's caching allocator (:mod:`autotune.memory.caching_allocator`), which gives what is reserved.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import inspect
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch._subclasses.fake_tensor import FakeTensorMode

import sherl
from autotune.memory.allocated import TensorMemory
from autotune.memory.allocator_rules import AllocatorRules
from autotune.memory.cuda_ops import CudaPricing
from autotune.memory.events import Event
from autotune.memory.gpu import GpuKind
from autotune.memory.rehearsal import followed, measure_rehearsal
from autotune.memory.replay import replay
from sherl.backbones import Backbone, backbone_from_config, config_from_dict, lighten, quiet_fakes
from sherl.errors import SpecError
from sherl.features import stacks_stored
from sherl.forms import BatchForm, blank_batch
from sherl.methods import MethodConfig, method_from_dict
from sherl.model import build_model
from sherl.precision import weights_dtype
from sherl.sharing import without_for
from sherl.spec import TaskSpec, TrainingConfig
from sherl.tasks import task_for
from sherl.training import rehearse

# optimizer hooks and patched functions are the process's own: of two traces in two threads each would see the other's
_TRACING = threading.Lock()

# settings of training that change values and never memory; a key that is not named here is taken to change memory
_WEIGHTLESS_SETTINGS = frozenset(
    {"learning_rate", "epochs", "weight_decay", "warmup_fraction", "warmup_steps", "seed", "eval_batch_size"}
)
# keys of a backbone's configuration that say where it came from
_ORIGIN_KEYS = frozenset({"_name_or_path", "_commit_hash", "transformers_version", "architectures"})


@dataclass(frozen=True, kw_only=True)
class Workload:
    """All that decides how many tensor bytes a trial takes.

    backbone_config: ``config.to_dict()`` of the pretrained model. method: as for :func:`sherl.methods.method_from_dict`.
    train_batch, eval_batch: shapes and types of the largest batch of training (before accumulation cuts it) and of
    evaluation, labels included; where they bring hidden states of early blocks (:mod:`sherl.features`), the backbone is priced
    without what those stand in for. How many tokens are written in evaluation, where the task is to write text, stands in the
    task.
    """

    backbone_config: Mapping[str, Any]
    method: Mapping[str, Any]
    task: TaskSpec
    training: TrainingConfig
    train_batch: BatchForm
    eval_batch: BatchForm

    @property
    def key(self) -> str:
        """A name for everything in here that decides memory, and for the code that would trace it: equal keys, equal traces."""
        method = method_from_dict(dict(self.method))
        training = {name: value for name, value in self.training.to_dict().items() if name not in _WEIGHTLESS_SETTINGS}
        training["max_grad_norm"] = (
            self.training.max_grad_norm is not None
        )  # whether, not how far, gradients are clipped
        config = {name: value for name, value in self.backbone_config.items() if name not in _ORIGIN_KEYS}
        content = {
            "config": config,
            "method": method.to_dict(),
            # targets: whether text is written to score it
            "task": [self.task.kind, self.task.num_outputs, task_for(self.task).targets],
            "training": training,
            "batches": [
                sorted((name, one.shape, one.dtype, one.hollow) for name, one in form.items())
                for form in (self.train_batch, self.eval_batch)
            ],
            "written": self.task.target_length,
            "code": _code_version(type(method)),
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:32]


@dataclass(frozen=True, kw_only=True)
class TraceResult:
    """allocated: peak of live tensor bytes. parts: what they were at the peak (:data:`autotune.memory.events.PARTS`); their
    sum is ``allocated``. reserved: what the caching allocator reserves of a GPU to serve them; blocks: the peak of blocks in use
    there, which are whole, as ``torch.cuda.max_memory_allocated`` counts them. None for a CPU."""

    allocated: int
    parts: dict[str, int]
    reserved: int | None = None
    blocks: int | None = None


def trace(workload: Workload, gpu: GpuKind | None = None, rules: AllocatorRules | None = None) -> TraceResult:
    """Run the workload's rehearsal on fake tensors. 0.1 to 0.7 s of one core for six blocks, once imports are done.

    gpu: what it is priced for; None is the CPU. rules: what the GPU's allocator is told; None is torch's default.

    Raises:
        SpecError: the method's settings do not suit the backbone, the tokens are more than it takes, or a tensor would be larger
            than 64 bits can say.
        UnsupportedBackboneError: no family covers the backbone, or the family cannot carry the method.
    """
    return _result(_rehearsed(workload, gpu), gpu, rules)


def trace_with_events(
    workload: Workload, gpu: GpuKind | None = None, rules: AllocatorRules | None = None
) -> tuple[TraceResult, list[Event]]:
    """What :func:`trace` and :func:`trace_events` give, from one trace; raises as they do."""
    memory = _rehearsed(workload, gpu, record_events=True)
    return _result(memory, gpu, rules), memory.events or []


def trace_events(workload: Workload, gpu: GpuKind | None = None) -> list[Event]:
    """Every allocation and free of the workload's rehearsal, in order, with sizes and labels; raises as :func:`trace` does.

    The weights come first. What lives until the end is not freed.
    """
    return _rehearsed(workload, gpu, record_events=True).events or []


def _result(memory: TensorMemory, gpu: GpuKind | None, rules: AllocatorRules | None) -> TraceResult:
    parts = {str(part): count for part, count in memory.peak_parts.items()}
    events = memory.events
    if gpu is None or events is None:
        return TraceResult(allocated=memory.peak_bytes, parts=parts)
    return served(events, memory.peak_bytes, parts, rules)


def served(
    events: Sequence[Event], allocated: int, parts: dict[str, int], rules: AllocatorRules | None = None
) -> TraceResult:
    """What a GPU's caching allocator that is told this takes to serve these events, whose live bytes have this peak, made of
    these parts."""
    replayed = replay(events, rules)
    return TraceResult(
        allocated=allocated, parts=parts, reserved=replayed.peak_reserved, blocks=replayed.peak_allocated
    )


def _rehearsed(workload: Workload, gpu: GpuKind | None, *, record_events: bool = False) -> TensorMemory:
    try:
        with _TRACING, FakeTensorMode(), quiet_fakes():
            return _followed(workload, gpu, record_events=record_events)
    except (RuntimeError, OverflowError) as error:
        if "overflow" not in str(error).lower() and not isinstance(error, OverflowError):
            raise
        raise SpecError(
            f"A tensor of this training would be larger than 64 bits can say ({str(error).strip().splitlines()[0]}). Give fewer "
            "rows, shorter texts or targets, or smaller images."
        ) from error


def _followed(workload: Workload, gpu: GpuKind | None, *, record_events: bool) -> TensorMemory:
    config = config_from_dict(workload.backbone_config)
    backbone = backbone_from_config(config, dtype=weights_dtype(workload.training.precision))
    method = method_from_dict(dict(workload.method))
    _leave_out_what_is_stored(backbone, method, workload)
    model = build_model(backbone, method, workload.task, seed=0)
    train_batch, eval_batch = blank_batch(workload.train_batch), blank_batch(workload.eval_batch)
    if gpu is None:
        return measure_rehearsal(
            model, train_batch, eval_batch, workload.training, restore="none", record_events=record_events
        )
    # batches stay on the host there; a step copies its own
    with CudaPricing(gpu) as pricing, followed(pricing.memory, model):
        rehearse(model, train_batch, eval_batch, workload.training, restore="none")
    return pricing.memory


def _leave_out_what_is_stored(backbone: Backbone, method: MethodConfig, workload: Workload) -> None:
    stored, others = (stacks_stored(form) for form in (workload.train_batch, workload.eval_batch))
    if stored != others:
        raise SpecError(
            f"Training would read hidden states of {', '.join(stored) or 'no stack'} and evaluation of "
            f"{', '.join(others) or 'no stack'}: both parts must bring those of the same stacks."
        )
    without = without_for(method, workload.task, backbone, stored) if stored else None
    if without is not None:
        lighten(backbone, without)


@functools.cache
def _code_version(method: type[MethodConfig]) -> str:
    """Changes with everything whose code decides a trace: torch, transformers, peft, sherl's files, the method's file."""
    digest = hashlib.sha256()
    for package in ("torch", "transformers", "peft"):
        digest.update(f"{package} {importlib.metadata.version(package)};".encode())
    folder = Path(inspect.getfile(sherl)).parent
    files = sorted(folder.rglob("*.py")) + sorted(Path(__file__).parent.glob("*.py"))
    for file in [*files, Path(inspect.getfile(method))]:
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()
