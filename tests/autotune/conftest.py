"""What several files share: the stand-in for the NVML library, loaded by the real binding; a record; search spaces from text;
trackers over an MLflow store."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from autotune.search import StudyRecord
from autotune.space import SearchSpace
from autotune.tracking import Tracker
from tests.autotune.memory import stand_in
from tests.autotune.search_samples import SETTINGS

Load = Callable[..., SearchSpace]
Opener = Callable[..., Tracker]


@pytest.fixture(scope="session")
def nvml_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built library."""
    if stand_in.COMPILER is None:
        pytest.skip("builds a small C library, and there is no C compiler here (cc, gcc or clang)")
    return stand_in.build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def nvml(nvml_library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> stand_in.StandIn:
    """A driver with one GPU; tests set others."""
    pynvml = pytest.importorskip("pynvml")
    # its soname is the one that the binding asks for, and the system gives what is loaded under that name already
    ctypes.CDLL(str(nvml_library), mode=ctypes.RTLD_GLOBAL)
    monkeypatch.setattr(pynvml, "nvmlLib", None)
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    file = tmp_path / "nvml_state.txt"
    monkeypatch.setenv(stand_in.STATE, str(file))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return stand_in.StandIn(file, nvml_library, stand_in.Gpu("GPU-aaaa-1", "First"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "study" / "study.db"


@pytest.fixture
def record(file: Path) -> Iterator[StudyRecord]:
    with StudyRecord.create(file, "demo", settings=SETTINGS) as made:
        yield made


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Writes a search space and reads it for a backbone of 6 layers, 384 wide."""

    def write_and_load(text: str, **options: Any) -> SearchSpace:
        file = tmp_path / "space.yaml"
        file.write_text(text, encoding="utf-8")
        return SearchSpace.load(file, **{"depth": 6, "width": 384, **options})

    return write_and_load


@pytest.fixture
def no_mlflow_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow as on a machine where nobody has set anything of it."""
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated, empty database: copying it saves every test the two seconds of making one."""
    folder = tmp_path_factory.mktemp("empty")
    tracker = Tracker.open(f"sqlite:///{folder / 'mlflow.db'}", study_dir=folder, study_name="s")
    tracker.study_started({})
    assert tracker.close(timeout_s=200) == 0, tracker.notes
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    client.delete_run(str(tracker.run_id))
    client.rename_experiment(client.get_run(str(tracker.run_id)).info.experiment_id, "empty")
    return folder / "mlflow.db"


@pytest.fixture
def opened(tmp_path: Path, empty_store: Path, no_mlflow_settings: None) -> Iterator[Opener]:
    """Opens trackers of one study whose store lies in the test's folder, or elsewhere."""
    (tmp_path / "mlflow.db").write_bytes(empty_store.read_bytes())
    trackers: list[Tracker] = []

    def open_one(uri: str | None = None, **options: Any) -> Tracker:
        trackers.append(Tracker.open(uri, study_dir=tmp_path, study_name="reviews ü", **options))
        return trackers[-1]

    yield open_one
    for tracker in trackers:
        tracker.close(timeout_s=0.0)
