"""What one trial may hold and all together, given what is free; what is lowered is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from autotune.config import StudyConfig
from autotune.errors import ConfigError, DeviceError
from autotune.memory import device as device_module
from autotune.memory.device import DeviceInfo, cpu_device
from autotune.outcome import MemoryFigures
from autotune.runner import Machine
from autotune.study.allowance import allowance_for, require_gpu
from autotune.study.source import StudySource
from autotune.trial.request import TrialRequest
from tests.autotune.memory.stand_in import StandIn

GB = 10**9


def config(cap: str = "8GB", budget: object = None) -> StudyConfig:
    return StudyConfig(memory_cap=cap, gpu_budget=budget, model="all-minilm-l6-v2")


def device(free: int) -> DeviceInfo:
    return DeviceInfo(kind="cuda", name="A GPU", total_bytes=80 * GB, free_bytes=free, meter="nvml")


def test_the_budget_is_the_cap_unless_it_is_given() -> None:
    allowance = allowance_for(config(), device(40 * GB))
    assert (allowance.cap, allowance.budget, allowance.kept_budget, allowance.notes) == (8 * GB, 8 * GB, None, [])


def test_a_budget_above_the_cap_is_kept() -> None:
    allowance = allowance_for(config(budget="20GB"), device(40 * GB))
    assert (allowance.cap, allowance.budget, allowance.kept_budget) == (8 * GB, 20 * GB, 20 * GB)
    assert not allowance.notes


def test_all_is_what_is_free_less_five_percent_and_is_asked_again_on_resume() -> None:
    allowance = allowance_for(config(budget="all"), device(40 * GB))
    assert (allowance.cap, allowance.budget, allowance.kept_budget) == (8 * GB, 38 * GB, "all")
    assert not allowance.notes


def test_a_cap_above_what_is_free_is_lowered_aloud() -> None:
    allowance = allowance_for(config("50GB"), device(40 * GB))
    assert (allowance.cap, allowance.budget) == (40 * GB, 40 * GB)
    (note,) = allowance.notes
    assert "the cap of 50.00 GB (46.57 GiB) is more than the 40.00 GB (37.25 GiB) that are free on A GPU" in note


def test_a_budget_above_what_is_free_is_lowered_aloud() -> None:
    allowance = allowance_for(config("50GB", "60GB"), device(40 * GB))
    assert (allowance.cap, allowance.budget, allowance.kept_budget) == (40 * GB, 40 * GB, 40 * GB)
    assert [note.split(" of ")[0] for note in allowance.notes] == ["the cap", "the --gpu-budget"]


def test_a_cap_above_all_is_lowered_to_it_aloud() -> None:
    allowance = allowance_for(config("39GB", "all"), device(40 * GB))
    assert (allowance.cap, allowance.budget) == (38 * GB, 38 * GB)
    assert "less 5 %" in allowance.notes[0]


def test_what_the_allocator_is_told_and_predictions_do_not_know_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    assert not allowance_for(config(), device(40 * GB)).notes
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "garbage_collection_threshold:0.8")
    (note,) = allowance_for(config(), device(40 * GB)).notes
    assert "PYTORCH_CUDA_ALLOC_CONF sets garbage_collection_threshold:0.8, which predictions do not model" in note
    assert not allowance_for(config(), cpu_device()).notes
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "roundup_power2_divisions:7")
    with pytest.raises(ConfigError, match="which torch refuses"):
        allowance_for(config(), device(40 * GB))


@pytest.mark.parametrize(
    ("given", "words"), [("4GB", "below the memory cap of 8.00 GB"), ("some", "'all'"), (0, "above zero")]
)
def test_a_budget_that_cannot_be_is_refused_with_what_is_allowed(given: object, words: str) -> None:
    with pytest.raises(ConfigError, match=f"gpu_budget.*{words}"):
        config(budget=given)


def test_it_is_stored_and_read_back(tmp_path: Path) -> None:
    for given, kept in (("20GB", 20 * GB), ("ALL", "all"), (None, None)):
        made = config(budget=given)
        assert made.gpu_budget == kept
        assert StudyConfig.load(made.save(tmp_path)) == made


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
@pytest.mark.parametrize("predicted", [GB, 3 * GB, 7 * GB, None])
def test_trials_stay_under_their_cap_and_together_under_the_budget(kind: str, predicted: int | None) -> None:
    """As many as the shares let onto one device: what they are ended at sums to no more than the budget."""
    machine = Machine(device=kind, threads=1, budget=20 * GB)  # type: ignore[arg-type]  # parametrised
    figures = None if predicted is None else MemoryFigures(allocated=1, device=predicted, meter="prediction")
    request = TrialRequest(
        number=0, backbone_source="", prepared_dir="", output_dir="", memory_cap=8 * GB, predicted=figures
    )
    share = machine.share(request, places=8)
    together = int(1 / share)
    limit = machine.limit(request, share)
    assert limit <= 8 * GB
    assert together * limit <= 20 * GB
    assert together > 1, "a budget above the cap lets several in"
    whole = machine.whole_share(request)
    assert machine.limit(request, whole) == 8 * GB, "a trial that needs more than its share gets its whole cap"


def test_no_trial_is_drawn_when_the_device_is_gone() -> None:
    def gone() -> None:
        raise DeviceError("gone")

    nothing: Any = None
    source = StudySource(
        record=nothing,
        proposer=nothing,
        fits=nothing,
        stopping=nothing,
        settings=nothing,
        tracker=nothing,
        listener=nothing,
        still_there=gone,
    )
    with pytest.raises(DeviceError, match="gone"):
        source.next()


def test_a_gpu_that_is_gone_ends_the_study_with_how_to_go_on(
    nvml: StandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(device_module, "_torch_has_cuda", lambda: True)
    monkeypatch.setattr(device_module, "_torch_sees_gpu", lambda: True)
    require_gpu(tmp_path)
    nvml.set(faults={"all": 15})
    with pytest.raises(DeviceError, match=r"GPU is lost.*autotune resume --study-dir"):
        require_gpu(tmp_path)
    monkeypatch.setattr(device_module, "_torch_sees_gpu", lambda: False)
    with pytest.raises(DeviceError, match="sees no GPU any more"):
        require_gpu(tmp_path)
