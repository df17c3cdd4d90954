"""``autotune doctor``: each finding can be bad, says what to do, and a broken driver cannot make it hang."""

from __future__ import annotations

import importlib.metadata
import json
import socket
import sqlite3
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest

from autotune.errors import ConfigError
from autotune.memory.device import DeviceInfo
from autotune.probing import Facts, ask
from autotune.study import checks, doctor
from autotune.study.checks import Check
from autotune.study.doctor import Diagnosis, diagnose, findings
from autotune.tracking.location import locate
from tests.autotune.memory.stand_in import Gpu, StandIn

from .small_study import autotune

GB = 10**9
CPU_TORCH: Facts = {"version": "2.13.0+cpu", "cuda": None, "sees_gpu": False}
CUDA_TORCH: Facts = {"version": "2.13.0", "cuda": "13.0", "sees_gpu": True}
BLIND_TORCH: Facts = {**CUDA_TORCH, "sees_gpu": False}
NO_NVML: Facts = {"error": "NVML does not start"}
GPU: dict[str, Any] = {
    "name": "A GPU",
    "uuid": "GPU-1",
    "total_bytes": 24 * GB,
    "free_bytes": 20 * GB,
    "listed": 2,
    "with_figure": 2,
}
NVML: Facts = {"driver": "580.65.06", "gpus": [GPU]}
SEEN: Facts = {"listed_bytes": 400_000_000, "growth_bytes": 400_000_000, "reserved_bytes": 20_000_000}


def by_name(found: tuple[Check, ...] | list[Check]) -> dict[str, Check]:
    return {check.name: check for check in found}


# ---- the whole command


def test_on_this_machine_it_says_everything_and_a_study_can_run(tmp_path: Path) -> None:
    done = autotune("doctor", "--study-dir", tmp_path / "studies" / "x", "--json", cwd=tmp_path)
    plain = json.loads(done.stdout)
    assert plain["can_run"] is True
    found = {check["name"]: check for check in plain["checks"]}
    assert set(found) == {"system", "torch", "gpu", "nvml", "allocator", "memory", "ray", "mlflow", "disk"}
    assert "2.60" in found["ray"]["found"]
    assert "free of" in found["memory"]["found"]
    assert not (tmp_path / "studies").exists(), "it changes nothing"


def test_what_prevents_a_study_has_its_remedy_and_exit_code_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    done = autotune(
        "doctor", "--study-dir", tmp_path / "file" / "x", "--mlflow-uri", "file:///tmp/runs", cwd=tmp_path, code=1
    )
    assert "FAIL  disk" in done.stdout
    assert "FAIL  mlflow" in done.stdout
    assert "-> Give a --study-dir that you may write to" in done.stdout
    assert "A study cannot run here" in done.stdout


def test_a_gpu_that_this_torch_cannot_use_is_said(nvml: StandIn, tmp_path: Path) -> None:
    """Through the real binding, which finds the stand-in in the question's own process as on a real machine."""
    nvml.gpus.append(Gpu("GPU-bbbb-2", "Second", compute=[(7, GB), (8, None)]))
    nvml.write()
    found = by_name(diagnose(study_dir=tmp_path, environment=nvml.environment).checks)
    assert found["gpu"].state == "ok"
    for words in ("2: First", "Second", "driver 580.65.06", "10.70 GB (9.97 GiB) free"):
        assert words in found["gpu"].found
    assert found["torch"].state == "warn"
    assert "CUDA build" in found["torch"].remedy
    assert "lists 2 processes, 1 with a figure" in found["nvml"].found


def test_a_driver_that_hangs_is_said_in_time(nvml: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml.set(delays={"init": 60_000})
    monkeypatch.setattr(doctor, "NVML_SECONDS", 2.0)
    began = time.monotonic()
    found = by_name(diagnose(study_dir=tmp_path, environment=nvml.environment).checks)
    assert time.monotonic() - began < 40.0
    assert found["gpu"].state == "warn", "this torch trains on the CPU all the same"
    assert "no answer within 2 s" in found["gpu"].found
    assert "nvidia-smi" in found["gpu"].remedy


def test_a_question_that_breaks_is_an_answer_too() -> None:
    assert "code 1" in ask("autotune.no_such_module", seconds=20.0)["error"]
    assert "KeyError" in ask("autotune.memory.gpu_probe", "weather", seconds=20.0)["error"]


@pytest.mark.gpu
def test_on_a_real_gpu_the_context_is_measured(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    context = ask("autotune.memory.gpu_probe", "context", seconds=60.0)
    assert "error" not in context
    assert context["growth_bytes"] > context["reserved_bytes"] > 0
    assert diagnose(study_dir=tmp_path).can_run


# ---- each finding


class Case(NamedTuple):
    torch: Facts
    nvml: Facts
    state: str
    words: str
    environment: Mapping[str, str] = MappingProxyType({})


@pytest.mark.parametrize(
    "case",
    [
        Case(CPU_TORCH, NO_NVML, "ok", "CPU build"),
        Case(CUDA_TORCH, NVML, "ok", "built for CUDA 13.0"),
        Case(CPU_TORCH, NVML, "warn", "cannot use the GPU"),
        Case(BLIND_TORCH, NVML, "fail", "sees no GPU"),
        Case({"error": "there was no answer"}, NO_NVML, "fail", "does not start"),
    ],
)
def test_torch(case: Case) -> None:
    check = checks.torch_check(case.torch, case.nvml)
    assert (check.state, case.words in check.found) == (case.state, True), check
    assert bool(check.remedy) == (case.state != "ok")


@pytest.mark.parametrize(
    "case",
    [
        Case(CPU_TORCH, NO_NVML, "ok", "none"),
        Case(CUDA_TORCH, NVML, "ok", "driver 580.65.06"),
        Case(CUDA_TORCH, NO_NVML, "fail", "cannot be asked"),
        Case(BLIND_TORCH, NO_NVML, "ok", "none"),
        Case(BLIND_TORCH, NO_NVML, "warn", "'7'", {"CUDA_VISIBLE_DEVICES": "7"}),
        Case(CUDA_TORCH, NVML, "ok", "hidden", {"CUDA_VISIBLE_DEVICES": ""}),
        Case(
            CUDA_TORCH,
            {**NVML, "gpus": [GPU, {**GPU, "name": "Another"}]},
            "warn",
            "wrong one",
            {"CUDA_DEVICE_ORDER": "FASTEST_FIRST"},
        ),
    ],
)
def test_gpu(case: Case) -> None:
    check = checks.gpu_check(case.torch, case.nvml, case.environment)
    assert (check.state, case.words in check.found) == (case.state, True), check
    assert bool(check.remedy) == (case.state != "ok")


@pytest.mark.parametrize(
    ("nvml", "context", "state", "words"),
    [
        (NO_NVML, None, "ok", "not used"),
        (NVML, None, "ok", "lists 2 processes, 2 with a figure"),
        ({**NVML, "gpus": [{**GPU, "listed": None, "with_figure": 0}]}, None, "ok", "keeps no list"),
        (NVML, SEEN, "ok", "a context takes 380.00 MB"),
        (NVML, {**SEEN, "listed_bytes": None}, "warn", "a context takes 380.00 MB (362.40 MiB) by the device's growth"),
        (NVML, {**SEEN, "listed_bytes": None, "growth_bytes": 0}, "warn", "600.00 MB (572.20 MiB) are taken"),
        (NVML, {"error": "CUDA out of memory"}, "fail", "could not use the GPU"),
    ],
)
def test_nvml_here(nvml: Facts, context: Facts | None, state: str, words: str) -> None:
    check = checks.nvml_check(nvml, context)
    assert (check.state, words in check.found) == (state, True), check
    assert bool(check.remedy) == (state != "ok")


@pytest.mark.parametrize(
    ("told", "states", "words"),
    [
        (None, ("ok", "ok"), "torch's defaults"),
        ("expandable_segments:True", ("ok", "ok"), "expandable segments, by PYTORCH_ALLOC_CONF"),
        ("max_split_size_mb:64", ("ok", "ok"), "max_split_size_mb, by PYTORCH_ALLOC_CONF"),
        (
            "garbage_collection_threshold:0.8",
            ("warn", "ok"),
            "sets garbage_collection_threshold:0.8, which predictions",
        ),
        ("backend:cudaMallocAsync", ("warn", "ok"), "sets backend:cudaMallocAsync"),
        ("expandable_segments:yes", ("fail", "warn"), "allowed is True or False"),
    ],
)
def test_what_the_allocator_is_told(told: str | None, states: tuple[str, str], words: str) -> None:
    environment = {} if told is None else {"PYTORCH_ALLOC_CONF": told}
    on_gpu, on_cpu = (checks.allocator_check(environment, on_gpu=where) for where in (True, False))
    assert (on_gpu.state, on_cpu.state) == states
    assert words in on_gpu.found
    for check in (on_gpu, on_cpu):
        assert bool(check.remedy) == (check.state != "ok")


@pytest.mark.parametrize(("free", "state"), [(20 * GB, "ok"), (GB // 2, "fail")])
@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_memory(free: int, state: str, kind: str) -> None:
    device = DeviceInfo(kind=kind, name="X", total_bytes=24 * GB, free_bytes=free, meter="m", limited_by="a limit")  # type: ignore[arg-type]  # parametrised
    check = checks.memory_check(device)
    assert check.state == state
    assert "bounded by a limit" in check.found
    assert ("nvidia-smi" in check.remedy) == (kind == "cuda" and state == "fail")


def test_ray() -> None:
    assert checks.ray_check({"version": "2.60.0"}, GB).state == "ok"
    little = checks.ray_check({"version": "2.60.0"}, 10**8)
    assert (little.state, "100.00 MB" in little.found) == ("fail", True)
    missing = checks.ray_check({"error": "Ray cannot be imported: no"}, GB)
    assert (missing.state, "pip install" in missing.remedy) == ("fail", True)
    facts = ask("autotune.runner.probe", "ray", "127.0.0.1:1", seconds=60.0)
    assert "No Ray cluster answers at '127.0.0.1:1'" in facts["error"]
    assert "ray start --head" in checks.ray_check(facts, GB).remedy


@pytest.fixture
def server() -> Iterator[int]:
    """A port where somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


@pytest.mark.parametrize("runs", [False, True])
def test_a_cluster_of_ray_that_is_to_be_found(runs: bool, monkeypatch: pytest.MonkeyPatch, server: int) -> None:
    """ "auto" is the cluster that was started on this machine; there may be none."""
    from autotune.runner.probe import ray_facts

    def found(_: str) -> str:
        if not runs:
            raise ConnectionError("Could not find any running Ray instance.")
        return f"127.0.0.1:{server}"

    monkeypatch.setattr("ray._private.services.canonicalize_bootstrap_address_or_die", found)
    check = checks.ray_check(ray_facts("auto"), GB)
    assert check.state == ("ok" if runs else "fail")
    assert runs or "No Ray cluster answers at 'auto': Could not find any running Ray instance" in check.found


def test_a_study_folder_of_a_name_that_no_disk_takes() -> None:
    for folder, said in ((Path("a" * 300), "File name too long"), (Path("~nobody-here-at-all/x"), "home")):
        check = checks.disk_check(folder)
        assert (check.state, said in check.found, "--study-dir" in check.remedy) == ("fail", True, True)


def asked(study_dir: Path, *uri: str) -> Check:
    return checks.store_check(ask("autotune.tracking.probe", "store", str(study_dir), *uri, seconds=30.0))


def test_the_store(tmp_path: Path, server: int) -> None:
    assert asked(tmp_path).state == "ok"
    assert asked(tmp_path, f"http://127.0.0.1:{server}").state == "ok"
    assert not any(tmp_path.iterdir()), "nothing was written"
    away = asked(tmp_path, "http://user:secret@127.0.0.1:1")
    assert (away.state, "later" in away.remedy, "secret" in away.found) == ("warn", True, False)
    (tmp_path / "bad.db").write_bytes(b"no database at all, but long enough to be read as one" * 20)
    assert asked(tmp_path, f"sqlite:///{tmp_path / 'bad.db'}").state == "warn"
    sqlite3.connect(tmp_path / "good.db").close()
    assert asked(tmp_path, f"sqlite:///{tmp_path / 'good.db'}").state == "ok"
    assert asked(tmp_path, "file:///tmp/runs").state == "fail"


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("frob://x", "'frob://x' is no address that MLflow can write runs to (it has no store for 'frob')"),
        ("postgres://h/runs", "(it has no store for 'postgres')"),
        ("s3://bucket/runs", "(it has no store for 's3')"),
        ("databrick", "(it no longer writes to plain folders)"),
        ("", "(it no longer writes to plain folders)"),
        ("http://", "(it names no host)"),
        ("http://[::1", "is no address (Invalid IPv6 URL)"),
        ("http://h:99999", "is no address (Port out of range 0-65535)"),
        ("sqlite://", "(it names no file)"),
    ],
)
def test_a_store_that_mlflow_does_not_know(tmp_path: Path, uri: str, said: str) -> None:
    check = asked(tmp_path, uri)
    assert check.state == "fail"
    assert said in check.found
    assert "Allowed are sqlite:///PATH/mlflow.db, postgresql://USER:PASSWORD@HOST/NAME" in check.found
    with pytest.raises(ConfigError):  # as a study does at its start
        locate(uri, tmp_path)


def test_a_store_of_the_environment_that_mlflow_does_not_know(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "frob://x")
    found = locate(None, tmp_path)
    assert found.own == tmp_path / "mlflow.db"
    assert "MLFLOW_TRACKING_URI=frob://x is no address" in str(found.note)
    assert "study's own mlflow.db" in str(found.note)


def test_a_store_that_a_package_brings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    brought = importlib.metadata.EntryPoint("azureml", "azureml.mlflow:Store", "mlflow.tracking_store")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: [brought])
    assert locate("azureml://somewhere", tmp_path).uri == "azureml://somewhere"


def test_a_database_is_asked_for_its_driver_and_its_port(tmp_path: Path) -> None:
    """Also where the studies' folder is given as it is seen from here."""
    away = asked(Path("studies"), "postgresql+frob://127.0.0.1:1/runs")
    assert (away.state, "frob" in away.found) == ("warn", True)
    missing = asked(Path("studies"), "mysql://bob:geheim@127.0.0.1:1/runs")
    assert (missing.state, "geheim" in missing.found) == ("warn", False)
    assert "question ended" not in away.found + missing.found


def test_a_file_of_runs_where_none_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    check = asked(tmp_path, f"sqlite:///{tmp_path / 'file' / 'runs.db'}")
    assert (check.state, "cannot be written to" in check.found) == ("warn", True)
    assert asked(tmp_path, f"sqlite:///{tmp_path / 'new' / 'runs.db'}").state == "ok"
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(("room", "state"), [(100 * GB, "ok"), (2 * GB, "warn"), (10**8, "fail")])
def test_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int, state: str) -> None:
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda _: type("Usage", (), {"free": room}))
    check = checks.disk_check(tmp_path / "not" / "yet")
    assert check.state == state
    assert bool(check.remedy) == (state != "ok")
    assert not any(tmp_path.iterdir())


def test_a_system_that_cannot_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    assert checks.system_check().state == "ok"
    monkeypatch.delattr(checks.os, "fork")
    assert (checks.system_check().state, "WSL2" in checks.system_check().remedy) == ("fail", True)


def test_free_memory_is_that_of_what_trials_would_run_on(tmp_path: Path) -> None:
    rest: dict[str, Facts] = {"ray": {"version": "2"}, "store": {"version": "3", "uri": "x"}}
    on_gpu = by_name(findings({"torch": CUDA_TORCH, "nvml": NVML, **rest}, SEEN, tmp_path, {}))
    assert "20.00 GB (18.63 GiB) free of 24.00 GB (22.35 GiB) on A GPU" in on_gpu["memory"].found
    on_cpu = by_name(findings({"torch": CPU_TORCH, "nvml": NVML, **rest}, None, tmp_path, {}))
    assert "measured by process" in on_cpu["memory"].found


def test_one_failure_is_enough() -> None:
    good, bad = Check(name="a", state="warn", found="x"), Check(name="b", state="fail", found="y")
    assert Diagnosis(checks=(good,), seconds=1.0).can_run
    assert not Diagnosis(checks=(good, bad), seconds=1.0).can_run
