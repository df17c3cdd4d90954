"""The GPU that is not there: its options, its libraries, and who holds what of it. Torch's CUDA build is not fetched."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autotune.memory.gpus import gpu_key

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))  # scripts there import one another by their bare names
tool = importlib.import_module("stand_in_gpu")
build = importlib.import_module("stand_in_build")
notes = importlib.import_module("stand_in_notes")

GB = 10**9
RTX = ["--gpu", "RTX 4070", "--processors", "46"]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the tool is for Linux")
needs_compiler = pytest.mark.skipif(
    any(build.shutil.which(name) is None for name in ("cc", "nm")), reason="there is no C compiler"
)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([*RTX], "which command?"),
        ([*RTX, "--"], "which command?"),
        (["--gpu", "RTX 9999", "--", "true"], "'RTX 9999' is not known"),
        (["--gpu", "12GB", "--", "true"], "is a size; a name is needed"),
        ([*RTX, "--memory", "much", "--", "true"], "'much' is not a memory size"),
        ([*RTX, "--memory", "0.5GB", "--", "true"], "nothing is left"),
    ],
)
def test_what_is_wrong_is_said(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        tool.main(arguments)
    assert ended.value.code == 2
    assert told in capsys.readouterr().err


def test_without_a_compiler_the_tool_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(build.shutil, "which", lambda name: None)
    with pytest.raises(SystemExit):
        tool.main([*RTX, "--", "true"])
    assert "cc and nm and readelf must be there" in capsys.readouterr().err


def test_a_torch_that_cannot_be_fetched_is_told_of_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AUTOTUNE_CACHE", str(tmp_path))
    monkeypatch.setattr(build.shutil, "which", lambda name: name)
    asked: list[list[str]] = []

    def pip(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        return subprocess.CompletedProcess(command, 1, "", "ERROR: no index here")

    monkeypatch.setattr(build.subprocess, "run", pip)
    with pytest.raises(SystemExit):
        tool.main([*RTX, "--torch", "2.99.0", "--", "true"])
    said = capsys.readouterr().err
    assert "torch===2.99.0 could not be fetched" in said
    assert "no index here" in said
    assert asked[0][-1] == "torch===2.99.0", "no other build of this version"
    assert not list((tmp_path / "benchmarks").iterdir())


@pytest.mark.parametrize(("line", "wrong"), [("cuda = None", "none"), ("cuda: Optional[str] = '12.8'", "12.8")])
def test_a_torch_of_another_cuda_is_refused(line: str, wrong: str, tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "version.py").write_text(f"__version__ = '2.13.0'\n{line}\n")
    with pytest.raises(build.FetchError, match=f"of CUDA 13; .* built for: {wrong}"):
        build._versions(tmp_path)


def test_versions_are_read_from_torch_itself(tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "version.py").write_text("cuda: Optional[str] = '13.0'\n")
    (tmp_path / "torch-2.13.0.dist-info").mkdir()
    (tmp_path / "torch-2.13.0.dist-info" / "METADATA").write_text("Requires-Dist: nvidia-cudnn-cu13==9.20.0.48; x\n")
    assert build._versions(tmp_path) == (13000, 92000)


READY = build.Built(
    packages=Path("/torch"),
    libraries=Path("/libraries"),
    torch="2.13.0",
    cuda_version=13000,
    cudnn_version=92000,
    codes=(75, 80, 86, 90, 100, 120),
)


@pytest.mark.parametrize(("capability", "code"), [(89, 86), (86, 86), (80, 80), (90, 90), (121, 120)])
def test_kernels_are_of_the_newest_generation_that_runs(capability: int, code: int) -> None:
    assert READY.code_for(capability) == code


def test_a_gpu_that_this_torch_has_no_kernels_for_is_refused() -> None:
    with pytest.raises(build.BuildError, match=r"no kernels for compute capability 6.1"):
        READY.code_for(61)


def described(*more: str) -> dict[str, str]:
    return dict(tool.describe(tool._parser().parse_args([*RTX, *more])))


def test_the_known_gpu_is_described_as_its_driver_would() -> None:
    found = described("--context", "300MB")
    assert gpu_key(found["STAND_IN_GPU_NAME"]) == "rtx4070", "what is looked up by name finds it"
    assert found["STAND_IN_GPU_CAPABILITY"] == "89"
    assert found["STAND_IN_GPU_THREADS"] == "1536"
    assert int(found["STAND_IN_GPU_TOTAL_BYTES"]) == 12_282 * 2**20
    assert int(found["STAND_IN_GPU_CONTEXT_BYTES"]) == 300 * 10**6


def test_torch_and_the_libraries_stand_in_front(tmp_path: Path) -> None:
    environment = tool.environment_for(READY, described(), tmp_path / "ledger", {"PYTHONPATH": "/own", "HOME": "/home"})
    assert environment["PYTHONPATH"] == "/torch:/own"
    assert environment["LD_LIBRARY_PATH"] == "/libraries"
    assert environment["HOME"] == "/home"


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All stand-ins, as for a torch that takes two functions which no source has."""
    folder = tmp_path_factory.mktemp("libraries")
    wanted = [
        build.Wanted("libcudart.so.13", "libcudart.so.13", frozenset({"cudaMalloc", "cudaIpcOpenMemHandle"})),
        build.Wanted("libcublas.so.13", "libcublas.so.13", frozenset({"cublasSgemm_v2"})),
        build.Wanted("libcublasLt.so.13", "", frozenset()),
        build.Wanted("libcudnn.so.9", "libcudnn.so.9", frozenset()),
        build.Wanted("libcuda.so.1", "", frozenset()),
    ]
    build.compile_stand_ins(wanted, folder)
    return folder


@needs_compiler
def test_the_sources_compile_without_a_warning(tmp_path: Path) -> None:
    for source in sorted(build.SOURCES.glob("*.c")):
        command = [
            "cc",
            "-std=gnu11",
            "-fPIC",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-c",
            str(source),
            "-o",
            str(tmp_path / "o"),
        ]
        assert subprocess.run(command, capture_output=True, text=True).stderr == ""
    assert {name for names in build.FILES.values() for name in names} | {"device.c"} == {
        source.name for source in build.SOURCES.glob("*.c")
    }


# takes bytes of the device by cudaMalloc (or cuMemCreate) for each line of input, tells the code, and holds what it has
HOLDER = """
import ctypes, sys
runtime, driver = ctypes.CDLL("libcudart.so.13"), ctypes.CDLL("libcuda.so.1")
for line in sys.stdin:
    how, size = line.split()
    address = ctypes.c_void_p()
    if how == "malloc":
        code = runtime.cudaMalloc(ctypes.byref(address), ctypes.c_size_t(int(size)))
    elif how == "page":
        code = driver.cuMemCreate(ctypes.byref(address), ctypes.c_size_t(int(size)), None, ctypes.c_ulonglong(0))
    else:
        left, total = ctypes.c_size_t(), ctypes.c_size_t()
        runtime.cudaMemGetInfo(ctypes.byref(left), ctypes.byref(total))
        code = left.value
    print(code, flush=True)
"""
READER = """
import dataclasses, json
from autotune.memory.nvml import NvmlDevice
device = NvmlDevice.open()
print(json.dumps({
    "name": device.name(), "driver": device.driver(), "capability": device.capability(),
    "memory": dataclasses.asdict(device.memory()), "processes": [[one.pid, one.used_bytes] for one in device.processes()],
}))
"""


class Holder:
    """A process that takes memory of the stand-in."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, how: str, size: int = 0) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{how} {size}\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())


@pytest.fixture
def environment(libraries: Path, tmp_path: Path) -> dict[str, str]:
    ledger = tmp_path / "ledger"
    ledger.touch()
    root = str(Path(__file__).parents[2])
    ready = replace(READY, packages=Path(root), libraries=libraries)
    shown = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    return dict(tool.environment_for(ready, described("--memory", "6GB"), ledger, shown))


@pytest.fixture
def holders(environment: dict[str, str]) -> Iterator[list[Holder]]:
    both = [Holder(environment), Holder(environment)]
    yield both
    for one in both:
        one.process.kill()
        one.process.communicate()


def read(environment: dict[str, str]) -> dict[str, Any]:
    """What the project's own reading of NVML shows, in a process that holds nothing."""
    done = subprocess.run([sys.executable, "-c", READER], env=environment, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


@needs_compiler
def test_processes_share_one_device_and_a_killed_one_holds_nothing(
    environment: dict[str, str], holders: list[Holder]
) -> None:
    context, kept, page = 400 * 10**6, 400 * 10**6, 2 * 2**20
    seen = read(environment)
    assert (seen["name"], seen["driver"], seen["capability"]) == ("RTX 4070", "stand-in.1", [8, 9])
    assert seen["processes"] == [], "whoever only looks has no context"
    assert seen["memory"] == {
        "total_bytes": 6 * GB, "free_bytes": 6 * GB - kept, "used_bytes": 0, "reserved_bytes": kept,
    }  # fmt: skip

    one, two = holders
    assert one.ask("malloc", 3 * GB) == 0
    assert two.ask("page", page) == 0
    pages = -(-3 * GB // page) * page
    held = {one.process.pid: context + pages, two.process.pid: context + page}
    seen = read(environment)
    assert dict(seen["processes"]) == held
    assert seen["memory"]["used_bytes"] == sum(held.values())
    free = 6 * GB - kept - sum(held.values())
    assert two.ask("free") == free, "of the device, not of the process"
    assert two.ask("malloc", free + 1) == 2, "the device is full, though this process holds little"
    assert two.ask("page", free // page * page + page) == 2

    one.process.send_signal(signal.SIGKILL)
    one.process.wait()
    assert dict(read(environment)["processes"]) == {two.process.pid: held[two.process.pid]}
    assert two.ask("malloc", 3 * GB) == 0


@needs_compiler
def test_what_is_not_there_says_so_and_products_do_nothing(environment: dict[str, str]) -> None:
    script = (
        "import ctypes; runtime = ctypes.CDLL('libcudart.so.13'); print(runtime.cudaIpcOpenMemHandle(), "
        "runtime.cudaLaunchKernel(), ctypes.CDLL('libcublas.so.13').cublasSgemm_v2())"
    )
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["801", "0", "0"]
    assert done.stderr == "stand-in GPU: cudaIpcOpenMemHandle of libcudart.so.13 is not there\n"


@needs_compiler
def test_a_hidden_gpu_is_none(environment: dict[str, str]) -> None:
    script = (
        "import ctypes; count = ctypes.c_int(); "
        "print(ctypes.CDLL('libcudart.so.13').cudaGetDeviceCount(ctypes.byref(count)), count.value)"
    )
    for shown, found in (("", "100 0"), ("-1", "100 0"), ("0", "0 1")):
        hidden = {**environment, "CUDA_VISIBLE_DEVICES": shown}
        done = subprocess.run([sys.executable, "-c", script], env=hidden, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == found


def test_a_result_says_what_is_torchs_and_what_was_set() -> None:
    said = notes.notes(described("--context", "300MB"))
    assert said["set"]["context_bytes"] == 300 * 10**6
    assert "none ran" in said["kernels"]
    assert notes.is_stand_in("stand-in.1")
    assert not notes.is_stand_in("580.65.06")
