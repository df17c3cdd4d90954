"""What :mod:`stand_in_gpu` runs on: torch's CUDA build in a folder of its own, and the libraries that stand in for NVIDIA's."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from packages import DONE, FetchError

from sherl.cache import cache_directory
from sherl.data.folders import install_folder

SOURCES = Path(__file__).with_name("stand_in_gpu")
FETCH_SECONDS = 1800.0
# the library of all the others, and what each of them is made of; those of torch's that are not here have no source of their own
DEVICE = "libstand_in_gpu.so"
FILES = {
    "libcudart": ("runtime.c", "launches.c"),
    "libcuda": ("driver.c",),
    "libcublas": ("cublas.c",),
    "libcublasLt": ("cublasLt.c",),
    "libcudnn": ("cudnn.c",),
    "libnvidia-ml": ("nvml.c",),
}
# whose functions, where no source has them, do nothing and say that all went well: they compute
_COMPUTES = ("libcublas", "libcublasLt")
# what the others answer: "not supported", in each library's own numbers
_NOT_SUPPORTED = {
    "libcudart": 801,
    "libcuda": 801,
    "libcudnn": 3000,
    "libcusolver": 9,
    "libcusparse": 10,
    "libcufft": 16,
}
# of libraries whose symbols have no versions
_PREFIXES = (
    (r"cusparseLt", "libcusparseLt"),
    (r"nccl", "libnccl"),
    (r"cuFile", "libcufile"),
    (r"nvshmem", "libnvshmem_host"),
    (r"cu[A-Z]", "libcuda"),
)
_NVIDIAS = re.compile(r"lib(cu|nccl|nv)\S*\.so")


class BuildError(RuntimeError):
    """The stand-ins could not be built for this torch."""


@dataclass(frozen=True, kw_only=True)
class Built:
    """packages: the folder that has torch. libraries: of the stand-ins. torch: its version. cuda_version, cudnn_version: as these
    libraries count (13000, 92000). codes: the compute capabilities that torch was compiled for, such as 86."""

    packages: Path
    libraries: Path
    torch: str
    cuda_version: int
    cudnn_version: int
    codes: tuple[int, ...]

    def code_for(self, capability: int) -> int:
        """The newest of :attr:`codes` whose kernels a GPU of this capability runs.

        Raises:
            BuildError: there is none.
        """
        fitting = [code for code in self.codes if code // 10 == capability // 10 and code <= capability]
        if not fitting:
            raise BuildError(
                f"torch {self.torch} has no kernels for compute capability {capability / 10}: it was compiled for "
                f"{', '.join(str(code / 10) for code in self.codes)}."
            )
        return max(fitting)


@dataclass(frozen=True)
class Wanted:
    """A library that torch loads. node: the version of its symbols, "" where they have none. symbols: what torch takes of it."""

    name: str
    node: str
    symbols: frozenset[str]

    @property
    def stem(self) -> str:
        return self.name.split(".so", 1)[0]


def built(torch_version: str) -> Built:
    """Torch and the stand-ins, fetched and built where that has not been done.

    Raises:
        FetchError: this torch's CUDA build cannot be had.
        BuildError: a compiler or binutils are missing, or do not take the sources.
    """
    missing = [tool for tool in ("cc", "nm", "readelf") if shutil.which(tool) is None]
    if missing:
        raise BuildError(f"{' and '.join(missing)} must be there to build the stand-ins (Debian: apt-get install gcc).")
    python = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    packages = _once(f"torch-{torch_version}-{python}", lambda folder: _fetch(torch_version, folder))
    cuda, cudnn = _versions(packages)
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in (*sorted(SOURCES.iterdir()), Path(__file__))))
    libraries = _once(
        f"stand-in-gpu-{torch_version}-{python}-{digest.hexdigest()[:12]}", lambda folder: _build(packages, folder)
    )
    codes = json.loads((libraries / "codes.json").read_text())
    return Built(
        packages=packages,
        libraries=libraries,
        torch=torch_version,
        cuda_version=cuda,
        cudnn_version=cudnn,
        codes=tuple(codes),
    )


def _once(name: str, make: Callable[[Path], None]) -> Path:
    """The folder that ``make`` fills once; it appears whole or not at all."""
    folder = cache_directory() / "benchmarks" / name
    if not _complete(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="making-", dir=folder.parent) as temporary:
            ready = Path(temporary) / "ready"
            ready.mkdir()
            make(ready)
            (ready / DONE).touch()
            install_folder(ready, folder, intact=_complete)
    return folder


def _complete(folder: Path) -> bool:
    return (folder / DONE).is_file()


def _fetch(version: str, folder: Path) -> None:
    """Torch alone: what it needs of NVIDIA's is stood in for, the rest is in the environment that runs this."""
    what = f"torch==={version}"  # this and no other build of it, such as +cpu
    print(f"Fetching the CUDA build of torch {version} (once, about half a gigabyte) ...", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--only-binary", ":all:", "--quiet", "--no-input"]
    command += ["--disable-pip-version-check", "--target", str(folder), what]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=FETCH_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise FetchError(f"Fetching {what} took over {FETCH_SECONDS:.0f} s and was ended.") from None
    if done.returncode != 0:
        told = "\n".join((done.stderr or done.stdout).strip().splitlines()[-3:])
        raise FetchError(f"{what} could not be fetched (pip ended with {done.returncode}):\n{told}")
    _versions(folder)


def _versions(packages: Path) -> tuple[int, int]:
    """CUDA's and cuDNN's versions, as these count, of the torch in a folder.

    Raises:
        FetchError: it is a build without CUDA, or for another CUDA than the stand-ins are of.
    """
    said = re.search(r"^cuda[^=\n]*= *'(\d+)\.(\d+)'", (packages / "torch" / "version.py").read_text(), re.MULTILINE)
    if said is None or said[1] != "13":
        found = "none" if said is None else f"{said[1]}.{said[2]}"
        raise FetchError(f"The stand-ins are of CUDA 13; the torch that pip gave was built for: {found}.")
    about = next(packages.glob("torch-*.dist-info/METADATA")).read_text(encoding="utf-8")
    cudnn = re.search(r"^Requires-Dist: nvidia-cudnn-cu13==(\d+)\.(\d+)\.(\d+)", about, re.MULTILINE)
    number = 0 if cudnn is None else int(cudnn[1]) * 10000 + int(cudnn[2]) * 100 + int(cudnn[3])
    return int(said[1]) * 1000 + int(said[2]) * 10, number


def _build(packages: Path, folder: Path) -> None:
    compile_stand_ins(wanted_by(_torch_libraries(packages)), folder)
    asked = _run(
        [sys.executable, "-c", "import torch; print(torch._C._cuda_getArchFlags())"],
        {**os.environ, "PYTHONPATH": str(packages), "LD_LIBRARY_PATH": str(folder)},
    )
    codes = sorted({int(code) for code in re.findall(r"sm_(\d+)", asked)})
    (folder / "codes.json").write_text(json.dumps(codes))


def _torch_libraries(packages: Path) -> list[Path]:
    folder = packages / "torch"
    return [*sorted((folder / "lib").glob("*.so")), *sorted(folder.glob("_C*.so"))]


def wanted_by(libraries: Iterable[Path]) -> list[Wanted]:
    """Which of NVIDIA's libraries these need, and which symbols of them.

    Raises:
        BuildError: binutils cannot read one of them.
    """
    needed: set[str] = set()
    symbols: set[str] = set()
    own: set[str] = set()
    for library in libraries:
        needed |= set(re.findall(r"\(NEEDED\).*\[(.+)\]", _run(["readelf", "-d", str(library)])))
        symbols |= set(re.findall(r"^.* (\S+)$", _run(["nm", "-D", "--undefined-only", str(library)]), re.MULTILINE))
        own |= set(re.findall(r"^.* (\S+)$", _run(["nm", "-D", "--defined-only", str(library)]), re.MULTILINE))
    own = {symbol.split("@")[0] for symbol in own}
    names = {name.split(".so")[0]: name for name in needed if _NVIDIAS.match(name)}
    taken: dict[tuple[str, str], set[str]] = {(name, ""): set() for name in names.values()}
    for symbol in symbols:
        plain, _, node = symbol.partition("@")
        if plain in own:
            continue
        if node in names.values():
            taken.setdefault((node, node), set()).add(plain)
            continue
        stem = next((stem for prefix, stem in _PREFIXES if re.match(prefix, plain)), None)
        if stem in names:
            taken.setdefault((names[stem], node), set()).add(plain)
    with_symbols = {name for (name, _), found in taken.items() if found}
    return [
        Wanted(name, node, frozenset(found))
        for (name, node), found in sorted(taken.items())
        if found or name not in with_symbols
    ]


def compile_stand_ins(wanted: Iterable[Wanted], folder: Path) -> None:
    """The libraries, and NVML's, which torch opens by its name.

    Raises:
        BuildError: the compiler does not take a source.
    """
    _compile([SOURCES / "device.c"], folder / DEVICE, ())
    for library in (*wanted, Wanted("libnvidia-ml.so.1", "", frozenset())):
        sources = [SOURCES / name for name in FILES.get(library.stem, ())]
        with tempfile.TemporaryDirectory() as temporary:
            written = _written(sources, Path(temporary))
            rest = Path(temporary) / "rest.c"
            rest.write_text(without_source(library, sorted(library.symbols - written)))
            node = Path(temporary) / "versions"
            node.write_text(f"{library.node} {{ global: *; }};\n")
            options = [f"-Wl,-soname,{library.name}", *([f"-Wl,--version-script={node}"] if library.node else [])]
            options += [f"-L{folder}", f"-l:{DEVICE}", "-Wl,-rpath,$ORIGIN"] if sources else []
            _compile([*sources, rest], folder / library.name, options)


def without_source(library: Wanted, symbols: Iterable[str]) -> str:
    """C of the functions that no source has: those that compute do nothing, any other says that it is not there."""
    lines = ["#include <stdio.h>"]
    for symbol in symbols:
        if library.stem in _COMPUTES:
            lines.append(f"int {symbol}(void) {{ return 0; }}")
        else:
            code = _NOT_SUPPORTED.get(library.stem, 1)
            said = f'fprintf(stderr, "stand-in GPU: {symbol} of {library.name} is not there\\n")'
            lines.append(f"int {symbol}(void) {{ static int told; if (!told++) {said}; return {code}; }}")
    return "\n".join(lines) + "\n"


def _written(sources: Iterable[Path], folder: Path) -> set[str]:
    """The symbols that these sources define."""
    found: set[str] = set()
    for source in sources:
        made = folder / f"{source.stem}.o"
        _run([*_COMPILER, "-c", str(source), "-o", str(made)])
        found |= set(re.findall(r" T (\S+)$", _run(["nm", "--defined-only", str(made)]), re.MULTILINE))
    return found


_COMPILER = ("cc", "-std=gnu11", "-O1", "-fPIC", "-Wall", "-Wextra", "-Wno-unused-result")


def _compile(sources: Iterable[Path], made: Path, options: Iterable[str]) -> None:
    _run([*_COMPILER, "-shared", *map(str, sources), "-o", str(made), *options])


def _run(command: list[str], environment: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode != 0:
        told = "\n".join((done.stderr or done.stdout).strip().splitlines()[:5])
        raise BuildError(f"{' '.join(command[:6])} ... ended with {done.returncode}:\n{told}")
    return done.stdout
