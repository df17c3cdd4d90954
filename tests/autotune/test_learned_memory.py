"""What trials teach of memory: kept for the kind of GPU, found again by studies, trials and plans."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from autotune.memory.context import DEFAULT_CONTEXT_BYTES, contexts_file
from autotune.memory.device import DeviceInfo, gpus_device
from autotune.memory.nvml_meter import SOURCE_ASSUMED, SOURCE_PROCESS
from autotune.memory.pairs import Pair
from autotune.memory.predict import origin_for
from autotune.memory.shared_pairs import SharedPairs
from autotune.outcome import MemoryFigures
from autotune.study import planning
from autotune.study.prediction import learn_context
from autotune.trial.confines import CudaConfines
from tests.autotune.memory.stand_in import Gpu, StandIn
from tests.autotune.test_gpu_confines import GB, FakeCuda, request_for
from tests.autotune.test_plan_command import config_file, planned, space_file

__all__ = ["config_file", "space_file"]  # fixtures

NAME = "NVIDIA GeForce RTX 4070"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOTUNE_CACHE", str(tmp_path / "cache"))


def gpus(*names: str) -> DeviceInfo:
    shown = {"total_bytes": 12 * GB, "free_bytes": 12 * GB, "driver": "580.65.06", "capability": (8, 9)}
    return gpus_device([{"name": name, **shown} for name in names])


def peak(meter: str = SOURCE_PROCESS) -> MemoryFigures:
    return MemoryFigures(allocated=GB, reserved=2 * GB, device=2 * GB + 412_000_000, meter=meter)


def refuse(message: str) -> None:
    raise AssertionError(message)


def test_a_trial_asks_for_what_a_study_on_two_gpus_kept(monkeypatch: pytest.MonkeyPatch, nvml: StandIn) -> None:
    learn_context(gpus(NAME, NAME), peak(), refuse)
    nvml.gpus = [Gpu("GPU-aaaa-1", name=NAME, total=80 * GB, used=0, reserved=0)]
    nvml.write()
    cuda = FakeCuda(monkeypatch, nvml)
    CudaConfines(request_for(8 * GB))
    assert cuda.fractions == [pytest.approx((8e9 - 412e6) / 80e9)]


def test_a_plan_asks_for_it_by_the_name_that_a_person_gives(
    monkeypatch: pytest.MonkeyPatch, config_file: Path, space_file: Path
) -> None:
    learn_context(gpus(NAME), peak(), refuse)
    for named in ("RTX 4070", NAME):
        job = planned(config_file, space_file, device=named).job
        assert (job.context_bytes, job.gpu_kind) == (412_000_000, "rtx4070")
    assert planned(config_file, space_file, device="RTX 4070 Ti").job.context_bytes == DEFAULT_CONTEXT_BYTES
    assert planned(config_file, space_file, device="12GB").job.context_bytes == DEFAULT_CONTEXT_BYTES
    monkeypatch.setattr(planning, "available_device", lambda: gpus(NAME, NAME))
    here = planned(config_file, space_file, device=None)
    assert (here.job.context_bytes, here.job.gpu_kind) == (412_000_000, "rtx4070")
    assert here.job.device_name == f"2 GPUs ({NAME})"


def test_a_plan_follows_what_finished_trials_taught_and_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, config_file: Path, space_file: Path
) -> None:
    without = planned(config_file, space_file)
    monkeypatch.setenv("AUTOTUNE_PAIRS", str(tmp_path / "pairs.jsonl"))
    untaught = planned(config_file, space_file)
    assert untaught.notes == without.notes
    (before, *_) = untaught.prices(largest_batch=False)
    shared = SharedPairs.usual()
    assert shared is not None
    job = untaught.job
    origin = origin_for(job.backbone_config, device="cuda", device_name=NAME, driver="580.65.06")
    shared.add(Pair(kind="cuda", base=10**7, beyond=job.context_bytes + 128 * 10**6, origin=origin))
    shared.add(Pair(kind="cuda", base=10**7, beyond=10**11, origin=replace(origin, gpu="l4")))
    shared.add(Pair(kind="fast", base=10**7, beyond=10**11, origin=replace(origin, gpu="", driver="")))
    taught = planned(config_file, space_file)
    assert taught.notes == (
        *without.notes,
        f"margins follow 1 trial of bert before, on such a device ({shared.path})",
    )
    (after, *_) = taught.prices(largest_batch=False)
    assert before.figures is not None
    assert after.figures is not None
    assert after.figures.device - before.figures.device == 64 * 10**6, "twice the least margin, as the trial took"


def test_only_what_was_measured_on_a_gpu_that_is_known_is_kept() -> None:
    learn_context(gpus(NAME), peak(SOURCE_ASSUMED), refuse)
    learn_context(gpus(NAME, "NVIDIA L4"), peak(), refuse)  # on which of them, nobody says
    assert not contexts_file().exists()
    told: list[str] = []
    contexts_file().parent.parent.mkdir(exist_ok=True)
    contexts_file().parent.write_text("no folder")
    learn_context(gpus(NAME), peak(), told.append)
    assert "could not be kept" in told[0]
