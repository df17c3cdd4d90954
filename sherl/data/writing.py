"""The folder of prepared data: found, compared with what is asked for now, written whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sherl.data.folders import install_folder
from sherl.data.parting import PARTS
from sherl.data.prepared import FORMAT_VERSION, META, PreparedData
from sherl.data.settings import DataSpec
from sherl.data.sources import Sources
from sherl.data.tokenizer_files import TOKENIZER
from sherl.errors import DataError

ENDINGS = (".safetensors", ".texts.jsonl", ".npy")


def key_of(spec: DataSpec, sources: Sources, **further: Any) -> dict[str, Any]:
    """What the content depends on, JSON-able."""
    return {
        "format_version": FORMAT_VERSION,
        # where the rows came from and what they are called may differ, what they are is in "content"
        "data": {name: value for name, value in spec.to_dict().items() if name not in (*PARTS, "name")},
        "content": {part: table.identity for part, table in sources.tables.items()},
        **further,
    }


def write_meta(folder: Path, meta: dict[str, Any]) -> None:
    """``meta.json``, with the size of every other file that lies in the folder."""
    files = {file.relative_to(folder).as_posix(): file.stat().st_size for file in _files_of(folder)}
    whole = {"format_version": FORMAT_VERSION, "parts": list(PARTS), **meta, "files": files}
    (folder / META).write_text(json.dumps(whole, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def existing(directory: Path) -> PreparedData | None:
    """What is prepared in a folder already; None where nothing is, or only a half-written or damaged one."""
    if not directory.exists():
        return None
    if not directory.is_dir():
        raise DataError(f"{directory} is a file; give a folder for the prepared data.")
    foreign = sorted(entry.name for entry in directory.iterdir() if not _ours(entry.name))
    if foreign:
        raise DataError(f"{directory} holds other things ({', '.join(foreign[:5])}); give an empty or a new folder.")
    try:
        return PreparedData.open(directory)
    except DataError:
        return None


def _ours(name: str) -> bool:
    return name in (META, TOKENIZER) or name in {f"{part}{end}" for part in PARTS for end in ENDINGS}


def check_key(existing: PreparedData, key: dict[str, Any]) -> None:
    """Raises:
    DataError: the folder holds data of other settings.
    """
    found = existing.key
    before, now = found.get("data", {}), key["data"]
    differing = [name for name in now if now[name] != before.get(name)]
    others = dict.fromkeys([*key, *found])
    differing += [name for name in others if name != "data" and found.get(name) != key.get(name)]
    if differing:
        raise DataError(
            f"{existing.directory} holds data that was prepared otherwise: {', '.join(differing)} differ(s) now. "
            "Give a new folder, or delete this one if nothing needs it."
        )


def write_whole(directory: Path, write: Callable[[Path], None]) -> None:
    """A folder that ``write`` fills, in its place when it is whole.

    Raises:
        DataError: the file system refuses.
    """
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
        try:
            ready = temporary / "ready"
            ready.mkdir()
            write(ready)
            for file in _files_of(ready):
                _flush(file)
            install_folder(ready, directory, intact=_finished)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise DataError(f"The prepared data cannot be written to {directory}: {error}.") from error


def _files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _flush(file: Path) -> None:
    """Hands the bytes to the disk, so that a folder found after a power cut is whole."""
    with file.open("rb+") as stream:
        os.fsync(stream.fileno())


def _finished(directory: Path) -> bool:
    try:
        PreparedData.open(directory)
    except DataError:
        return False
    return True
