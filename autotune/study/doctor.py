"""``autotune doctor``: what this machine has, and what of it would hold a study back."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from autotune.memory.context import Surroundings, keep_context
from autotune.memory.device import DeviceInfo, cpu_device, gpus_device
from autotune.probing import Facts, ask
from autotune.study import checks
from autotune.study.checks import Check

#: What each question may take. NVML answers in milliseconds, once a process has started, which a busy machine delays;
#: imports from a cold disk take longer.
NVML_SECONDS, IMPORT_SECONDS, CONTEXT_SECONDS, STORE_SECONDS = 15.0, 30.0, 30.0, 10.0


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """All findings, and how long they took."""

    checks: tuple[Check, ...]
    seconds: float

    @property
    def can_run(self) -> bool:
        """Whether nothing here would keep a study from running."""
        return all(check.state != "fail" for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dictionary for scripts."""
        return {"can_run": self.can_run, "seconds": self.seconds, "checks": [asdict(check) for check in self.checks]}


def diagnose(
    *,
    study_dir: Path,
    mlflow_uri: str | None = None,
    ray_address: str | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Diagnosis:
    """Looks at everything; takes seconds, and a broken driver cannot make it hang. What a CUDA context took is kept for later
    predictions; nothing else is changed.

    study_dir: where studies are to be written. mlflow_uri, ray_address: as ``autotune run`` takes them.
    """
    began = time.monotonic()
    with ThreadPoolExecutor() as pool:
        asked = {
            "nvml": pool.submit(
                ask, "autotune.memory.gpu_probe", "nvml", seconds=NVML_SECONDS, environment=environment
            ),
            "torch": pool.submit(
                ask, "autotune.memory.gpu_probe", "torch", seconds=IMPORT_SECONDS, environment=environment
            ),
            "ray": pool.submit(
                ask, "autotune.runner.probe", "ray", ray_address or "", seconds=IMPORT_SECONDS, environment=environment
            ),
            "store": pool.submit(
                ask,
                "autotune.tracking.probe",
                "store",
                str(study_dir / "NAME"),
                *([] if mlflow_uri is None else [mlflow_uri]),
                seconds=STORE_SECONDS,
                environment=environment,
            ),
        }
        facts = {name: answer.result() for name, answer in asked.items()}
    on_gpu = uses_gpu(facts["torch"], facts["nvml"])
    context = (
        ask("autotune.memory.gpu_probe", "context", seconds=CONTEXT_SECONDS, environment=environment)
        if on_gpu
        else None
    )
    found = findings(facts, context, study_dir, environment)
    if context is not None and "error" not in context:
        held = max(context["listed_bytes"] or 0, context["growth_bytes"]) - context["reserved_bytes"]
        around = Surroundings(
            str(facts["torch"]["version"]), str(facts["nvml"]["gpus"][0]["name"]), facts["nvml"]["driver"]
        )
        with contextlib.suppress(OSError):  # the disk's own check says what is wrong with it
            keep_context(around, held)
    return Diagnosis(checks=tuple(found), seconds=round(time.monotonic() - began, 3))


def uses_gpu(torch: Facts, nvml: Facts) -> bool:
    """Whether trials would run on a GPU."""
    return bool(torch.get("cuda")) and bool(torch.get("sees_gpu")) and bool(nvml.get("gpus"))


def findings(
    facts: Mapping[str, Facts], context: Facts | None, study_dir: Path, environment: Mapping[str, str]
) -> list[Check]:
    """The findings from what was answered."""
    torch, nvml = facts["torch"], facts["nvml"]
    device: DeviceInfo = gpus_device(nvml["gpus"]) if uses_gpu(torch, nvml) else cpu_device()
    return [
        checks.system_check(),
        checks.torch_check(torch, nvml),
        checks.gpu_check(torch, nvml, environment),
        checks.nvml_check(nvml, context),
        checks.allocator_check(environment, on_gpu=uses_gpu(torch, nvml)),
        checks.memory_check(device),
        checks.ray_check(facts["ray"], cpu_device().free_bytes),
        checks.store_check(facts["store"]),
        checks.disk_check(study_dir),
    ]
