"""``autotune plan``: from what a person has in words to prices; see :mod:`autotune.study.pricing` for the work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from autotune.memory.allocator_settings import AllocatorSettings
from autotune.memory.context import Surroundings, context_bytes, context_on
from autotune.memory.device import DeviceInfo, available_device, cpu_device
from autotune.memory.gpus import KnownGpu, find_gpu, gpu_key
from autotune.memory.predict import origin_for
from autotune.memory.shared_pairs import SharedPairs, pairs_file
from autotune.outcome import Candidate
from autotune.runner.shares import usable_cores
from autotune.space import SearchSpace
from autotune.study.pricing import Price, PricingJob, price_all, shapes_at
from autotune.study.row_size import CLASSES, lengths_for, notes_on
from autotune.study.suits import OF_IMAGES
from autotune.trial.baseline import baseline_bytes
from autotune.units import count_words, format_bytes, parse_bytes
from sherl.backbones import backbone_from_config, load_config, require_runs
from sherl.errors import UnsupportedBackboneError
from sherl.metrics import DEFAULT_METRICS
from sherl.model import require_suited
from sherl.spec import TaskSpec
from sherl.tasks import TASKS, task_for


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be priced, and how it was understood. notes: what a person should know of that."""

    model: str
    job: PricingJob
    candidates: tuple[Candidate, ...]
    batch_size: int
    notes: tuple[str, ...] = ()

    @property
    def cap(self) -> int:
        """Bytes that a trial may hold of the device."""
        return self.job.cap

    @property
    def headline(self) -> str:
        """In words, what the figures are for."""
        return (
            f"{self.model} on {self.job.device_name}: {self.job.task.kind} on batches of {self.batch_size} rows of "
            f"{self.row_size}, {'hidden states of frozen layers read from a store, ' if self.job.stored else ''}"
            f"at most {format_bytes(self.cap)} of the device"
        )

    @property
    def row_size(self) -> str:
        """In words, what each row holds."""
        row = self.job.row
        sizes = []
        if "input_ids" in row:
            sizes.append(f"{row['input_ids'].shape[1]} tokens")
        if "pixel_values" in row:
            sizes.append(f"{row['pixel_values'].shape[2]} x {row['pixel_values'].shape[3]} pixels")
        others = {name: form for name, form in row.items() if form.dtype == "float32"} if not sizes else {}
        sizes += [f"{' x '.join(map(str, form.shape[1:]))} {name}" for name, form in others.items() if name != "labels"]
        return " and ".join(sizes)

    def prices(self, *, largest_batch: bool = True) -> Iterator[Price]:
        """The prices, as they come."""
        return price_all(self.job, self.candidates, processes=usable_cores(), largest_batch=largest_batch)

    def to_dict(self, prices: Sequence[Price]) -> dict[str, Any]:
        """A JSON-able dictionary; sizes are bytes."""
        return {
            "model": self.model,
            "device": self.job.device_name,
            "memory_cap_bytes": self.cap,
            "batch_size": self.batch_size,
            "task": self.job.task.kind,
            "row": {name: list(form.shape[1:]) for name, form in self.job.row.items()},
            "features": "on" if self.job.stored else "off",
            "context_bytes": self.job.context_bytes if self.job.device == "cuda" else None,
            "notes": list(self.notes),
            "configurations": [{**price.to_dict(), "fits": price.fits(self.cap)} for price in prices],
        }


def _device(given: str | None) -> KnownGpu | DeviceInfo:
    """What was named, else what is here."""
    if given is None:
        return available_device()
    return cpu_device() if given.strip().lower() == "cpu" else find_gpu(given)


def _task(kind: str, classes: int, target_length: int) -> TaskSpec:
    """A task of this kind as large as was said; the names of its classes do not matter here."""
    targets = TASKS.get(kind).targets if kind != "text-to-text" else "texts"
    names = tuple(map(str, range(classes))) if targets in ("classes", "tags") else ()
    written = target_length if kind == "text-to-text" else 0
    return TaskSpec(kind=kind, metric=DEFAULT_METRICS[targets], class_names=names, target_length=written)


def _what_taught(job: PricingJob) -> list[str]:
    """In words, how many trials of studies before have moved the margins; nothing where there were none."""
    if job.pairs_file is None:
        return []
    now = origin_for(job.backbone_config, device=job.device, device_name=job.gpu_kind, driver=job.driver)
    taught = sum(
        (pair.kind == "cuda") == (job.device == "cuda") and pair.origin.teaches(now)
        for pair in SharedPairs(job.pairs_file).read()
    )
    if not taught:
        return []
    return [f"margins follow {count_words(taught, 'trial')} of {now.model} before, on such a device ({job.pairs_file})"]


def plan_for(
    model: str,
    *,
    memory_cap: str | None,
    device: str | None,
    batch_size: int,
    max_length: int | None,
    target_length: int | None,
    classes: int | None,
    image_size: int | None,
    task: str | None,
    methods: Sequence[str] | None,
    space: str,
    precision: str | None,
    stored: bool = False,
    plugins: Sequence[str] = (),
) -> Plan:
    """Reads the model's configuration and the space, and settles device and cap. stored: whether trials are priced as they are where
    hidden states of frozen layers lie in a store. plugins: modules that are imported already. Of a size, None takes what is usual
    (:mod:`autotune.study.row_size`); one that is given and plays no part is told in the notes.

    Raises:
        ConfigError: the device is not known, the space has problems, or torch would refuse what the environment tells its allocator.
        UnitError: the cap is no size.
        SpecError: there is no such model, or it takes no rows or no targets of this length.
        UnknownNameError: there is no such task.
        UnsupportedBackboneError: no family covers the model, or it cannot learn the task.
    """
    config = load_config(model)
    with torch.device("meta"):
        backbone = backbone_from_config(config)
    require_runs(config)
    loaded = SearchSpace.load(
        space, methods=methods, depth=len(backbone.last_stack), width=backbone.width, precision=precision
    )
    settled = _device(device)
    notes = [*loaded.notes]
    cap = settled.total_bytes if memory_cap is None else parse_bytes(memory_cap)
    if cap > settled.total_bytes:
        notes.append(
            f"the cap of {format_bytes(cap)} is more than {settled.name} has; its {format_bytes(settled.total_bytes)} are "
            "the cap instead"
        )
        cap = settled.total_bytes
    kind = ("text-to-text" if backbone.writes_text else "classification") if task is None else task
    if kind == "image-classification":  # as studies call it
        if backbone.layout.kind not in OF_IMAGES:
            raise UnsupportedBackboneError(
                f"image-classification takes a model that reads images alone, and {model} is a {backbone.family} model. Take vit, "
                "dinov2, resnet, convnext or another, or make the task classification."
            )
        kind = "classification"
    require_suited(backbone, kind)
    tokens, written = lengths_for(model, backbone, kind, max_length=max_length, target_length=target_length)
    spec = _task(kind, CLASSES if classes is None else classes, written)
    inputs = backbone.inputs_form(1, tokens=tokens, image_size=image_size)
    notes += notes_on(
        model,
        inputs,
        kind,
        task_for(spec).targets,
        max_length=max_length,
        target_length=target_length,
        classes=classes,
        image_size=image_size,
    )
    on_cpu = isinstance(settled, DeviceInfo) and settled.kind == "cpu"
    settings = AllocatorSettings() if on_cpu else AllocatorSettings.of()
    if settings.found:
        notes.append(f"reserved bytes are those of {settings.found}")
    if settings.warning:
        notes.append(settings.warning)
    job = PricingJob(
        backbone_config=config.to_dict(),
        task=spec,
        row={**inputs, "labels": task_for(spec).labels_form(1, tokens, written)},
        cap=cap,
        device="cpu" if on_cpu else "cuda",
        device_name=settled.name,
        gpu_kind=settled.gpu_kind if isinstance(settled, DeviceInfo) else gpu_key(settled.name),
        driver=settled.driver if isinstance(settled, DeviceInfo) else "",
        capability=settled.capability,
        context_bytes=(
            context_on(settled)
            if isinstance(settled, DeviceInfo)
            else context_bytes(Surroundings(torch.__version__, settled.name))
        ),
        # by the threads that a study would give each trial here
        baseline_bytes=baseline_bytes() if on_cpu else 0,
        plugins=tuple(plugins),
        stored=stored,
        pairs_file=pairs_file(),
        rules=settings.rules,
    )
    notes += _what_taught(job)
    return Plan(
        model=model,
        job=job,
        candidates=tuple(shapes_at(loaded, batch_size)),
        batch_size=batch_size,
        notes=tuple(notes),
    )
