"""The predictor of a study: the backbone's configuration, the prepared data's largest batches, the cap."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from autotune.config import StudyConfig
from autotune.memory.context import context_on, contexts_file, keep_context, surroundings_of
from autotune.memory.device import DeviceInfo
from autotune.memory.gpu import GpuKind
from autotune.memory.nvml_meter import SOURCE_GROWTH, SOURCE_PROCESS
from autotune.memory.predict import Predictor
from autotune.memory.shared_pairs import SharedPairs
from autotune.outcome import MemoryFigures
from autotune.study.allowance import allocator_settings
from autotune.study.features import StudyFeatures
from autotune.study.folder import StudyFolder
from autotune.trial.baseline import baseline_bytes
from autotune.trial.fork_server import ForkServer
from sherl.data import PreparedData


def learn_context(device: DeviceInfo, peak: MemoryFigures, warn: Callable[[str], None]) -> None:
    """Keep what a trial held of a GPU outside its allocator, where that was measured; ``warn`` says why it could not be.

    Nothing is kept where GPUs of several kinds are there: which of them the trial was placed on is not known."""
    kinds = surroundings_of(device)
    if peak.reserved is None or peak.meter not in (SOURCE_PROCESS, SOURCE_GROWTH) or len(kinds) != 1:
        return
    try:
        keep_context(kinds[0], peak.device - peak.reserved)
    except OSError as error:
        warn(f"what a CUDA context takes here could not be kept in {contexts_file()} ({error})")


class Remembers(Protocol):
    """What keeps figures between the starts of one run: a study's record."""

    @property
    def attributes(self) -> Mapping[str, Any]: ...

    def set_attribute(self, key: str, value: Any) -> None: ...


def predictor_for(
    config: StudyConfig,
    folder: StudyFolder,
    backbone_config: Any,
    data: PreparedData,
    device: DeviceInfo,
    record: Remembers,
    *,
    threads: int,
    features: StudyFeatures | None = None,
    server: ForkServer | None = None,
    warn: Callable[[str], None] = lambda _why: None,
) -> Predictor:
    """A predictor whose figures hold for this study's data on this machine; it keeps what it traced in the study's folder.

    ``warn`` is told where what trials teach cannot be kept for later studies.

    Raises:
        DeviceError: no trial process can be started here.
        ConfigError: torch would refuse what the environment tells its allocator.
    """
    # measured once a study and device, so that a resumed study decides as it did before
    key = f"baseline of {device.name}, {threads} threads"
    baseline = record.attributes.get(key)
    if baseline is None:
        baseline = baseline_bytes(server, threads=threads)
        record.set_attribute(key, baseline)

    return Predictor(
        backbone_config.to_dict(),
        data.task,
        train_batch=data.part("train").largest_form,
        eval_batch=data.largest_evaluation,
        baseline_bytes=int(baseline),
        cap_bytes=config.memory_cap,
        device=device.kind,
        device_name=device.gpu_kind,
        driver=device.driver,
        threads=threads,
        shared_pairs=SharedPairs.usual(warn),
        gpu=GpuKind.of(device.capability, name=device.gpu_kind) if device.kind == "cuda" else None,
        context_bytes=context_on(device),
        cache_path=folder.predictions_file,
        rules=allocator_settings(device).rules,
        with_features=None if features is None else features.forms,
    )
