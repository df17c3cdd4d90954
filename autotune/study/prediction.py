"""The predictor of a study: the backbone's configuration, the prepared data's largest batches, the cap."""

from __future__ import annotations

from importlib import metadata
from typing import Any

from autotune.config import StudyConfig
from autotune.memory.context import context_bytes
from autotune.memory.device import DeviceInfo
from autotune.memory.gpu import GpuKind
from autotune.memory.predict import Predictor
from autotune.search import StudyRecord
from autotune.study.folder import StudyFolder
from autotune.trial.ancestry import Ancestor
from autotune.trial.baseline import baseline_bytes
from autotune.trial.fork_server import PRELOAD
from sherl.data import PreparedData


def predictor_for(
    config: StudyConfig,
    folder: StudyFolder,
    backbone_config: Any,
    data: PreparedData,
    device: DeviceInfo,
    record: StudyRecord,
    *,
    threads: int,
) -> Predictor:
    """A predictor whose figures hold for this study's data on this machine; it keeps what it traced in the study's folder.

    Raises:
        DeviceError: no trial process can be started here.
    """
    # measured once a study and device, so that a resumed study decides as it did before
    key = f"baseline of {device.name}, {threads} threads"
    baseline = record.attributes.get(key)
    if baseline is None:
        baseline = baseline_bytes(
            threads=threads, backbone=config.model, preload=(*PRELOAD, *config.plugins), driver=Ancestor.of()
        )
        record.set_attribute(key, baseline)
    train, valid, test = (data.part(name) for name in ("train", "valid", "test"))

    def largest_trained(rows: int) -> Any:  # rows and tokens; of images rows, height and width
        return train.largest_shape(rows)

    def largest_evaluated(rows: int) -> Any:
        return tuple(map(max, valid.largest_shape(rows), test.largest_shape(rows)))

    return Predictor(
        backbone_config.to_dict(),
        data.task,
        train_shape=largest_trained,
        eval_shape=largest_evaluated,
        baseline_bytes=int(baseline),
        cap_bytes=config.memory_cap,
        device=device.kind,
        device_name=device.name,
        gpu=GpuKind.of(device.capability) if device.kind == "cuda" else None,
        context_bytes=context_bytes(metadata.version("torch"), device.name, device.driver),
        has_token_types=data.has_token_types,
        cache_path=folder.predictions_file,
    )
