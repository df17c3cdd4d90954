"""Prepares data once: read, check, split, tokenise, write. Every trial then reads the same files."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sherl.backbones import FAMILIES, load_config, load_tokenizer
from sherl.data.encoding import Encoded, effective_max_length, encode, save_part, tokenizer_fingerprint
from sherl.data.examples import Examples, Reading, read_examples
from sherl.data.folders import install_folder
from sherl.data.parting import PARTS, make_parts
from sherl.data.prepared import FORMAT_VERSION, META, PreparedData
from sherl.data.settings import DataSpec
from sherl.data.sources import DEFAULT_DATA, Sources, read_sources
from sherl.errors import DataError
from sherl.metrics import DEFAULT_METRICS, metric_for
from sherl.spec import TaskSpec


def prepare(
    spec: DataSpec, *, backbone_source: str, directory: Path | str, max_length: int | None = 128
) -> PreparedData:
    """Reads, checks, splits and tokenises data into ``directory``, or opens what an equal call left there.

    The content depends on nothing but the settings, the source's rows and the tokenizer, to the byte. The folder appears
    whole or not at all; a half-written one is replaced.

    Args:
        max_length: tokens at which rows are cut (of a pair the longer text first); None takes the backbone's own limit.

    Raises:
        DataError: a source, its columns or its rows are at fault (all problems at once), or the folder holds data of
            other settings or something else.
        SpecError: max_length is not what the backbone takes, or the metric does not fit the task.
    """
    tokenizer = load_tokenizer(backbone_source)
    limit = effective_max_length(tokenizer, max_length, _max_tokens(backbone_source))
    return prepare_with(tokenizer, spec, directory=directory, max_length=limit, tokenizer_name=backbone_source)


def prepare_with(
    tokenizer: Any, spec: DataSpec, *, directory: Path | str, max_length: int | None, tokenizer_name: str = ""
) -> PreparedData:
    """As :func:`prepare`, with a tokenizer that is loaded already and a max_length that fits the backbone."""
    directory = Path(directory)
    sources = read_sources(spec)
    key = {
        "format_version": FORMAT_VERSION,
        # where the rows came from and what they are called may differ, what they are is in "content"
        "data": {name: value for name, value in spec.to_dict().items() if name not in (*PARTS, "name")},
        "content": {part: table.identity for part, table in sources.tables.items()},
        "tokenizer": tokenizer_fingerprint(tokenizer),
        "max_length": max_length,
    }
    existing = _existing(directory)
    if existing is not None:
        _check_key(existing, key)
        return existing
    reading = make_parts(read_examples(sources, spec), spec, sources.rows)
    task = _task(spec, reading)
    encoded = {part: encode(tokenizer, rows.texts, max_length) for part, rows in reading.parts.items()}
    # the models take absent types as zeros, so types that are all zero only cost memory
    types = any(bool(rows.token_types.any()) for rows in encoded.values())
    pad = tokenizer.pad_token_id
    meta = {
        "format_version": FORMAT_VERSION,
        "key": key,
        "task": task.to_dict(),
        "parts": list(PARTS),
        "max_length": max_length,
        "token_types": types,
        "pad_token_id": 0 if pad is None else int(pad),
        "pad_token_type_id": int(tokenizer.pad_token_type_id or 0),
        "summary": _summary(spec, sources, reading, task, encoded, max_length, tokenizer_name),
    }

    def write(folder: Path) -> None:
        for part, rows in reading.parts.items():
            save_part(folder, part, encoded[part], rows.texts, _labels(rows, task), types=types)
        files = {file.name: file.stat().st_size for file in sorted(folder.iterdir())}
        text = json.dumps({**meta, "files": files}, indent=2, sort_keys=True, ensure_ascii=False)
        (folder / META).write_text(text + "\n", encoding="utf-8")

    _write_whole(directory, write)
    written = PreparedData.open(directory)
    _check_key(written, key)  # another process may have been faster, with other settings
    return written


def _max_tokens(backbone_source: str) -> int | None:
    """The longest input that the backbone's positions allow; None where nothing bounds it."""
    config = load_config(backbone_source)
    family = FAMILIES.get(config.model_type)
    if family.positions in ("relative", "rotary"):
        return None
    return int(config.max_position_embeddings) - family.position_offset


def _existing(directory: Path) -> PreparedData | None:
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
    return name == META or name in {f"{part}{end}" for part in PARTS for end in (".safetensors", ".texts.jsonl")}


def _check_key(existing: PreparedData, key: dict[str, Any]) -> None:
    found = existing.key
    before, now = found.get("data", {}), key["data"]
    differing = [name for name in now if now[name] != before.get(name)]
    differing += [name for name in ("content", "tokenizer", "max_length") if found.get(name) != key[name]]
    if differing:
        raise DataError(
            f"{existing.directory} holds data that was prepared otherwise: {', '.join(differing)} differ(s) now. "
            "Give a new folder, or delete this one if nothing needs it."
        )


def _write_whole(directory: Path, write: Callable[[Path], None]) -> None:
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
        try:
            ready = temporary / "ready"
            ready.mkdir()
            write(ready)
            for file in ready.iterdir():
                _flush(file)
            install_folder(ready, directory, intact=_finished)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise DataError(f"The prepared data cannot be written to {directory}: {error}.") from error


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


def _task(spec: DataSpec, reading: Reading) -> TaskSpec:
    metric = metric_for(spec.metric or DEFAULT_METRICS[reading.targets], reading.targets).name
    pair = reading.columns.pair is not None
    if reading.targets == "classes":
        return TaskSpec(kind="classification", metric=metric, class_names=reading.classes, pair=pair)
    targets = np.asarray(reading.parts["train"].labels, dtype=np.float64)
    mean, std = float(targets.mean()), float(targets.std())
    return TaskSpec(kind="regression", metric=metric, pair=pair, target_mean=mean, target_std=std)


def _labels(rows: Examples, task: TaskSpec) -> torch.Tensor:
    if task.class_names:
        index = {name: place for place, name in enumerate(task.class_names)}
        return torch.tensor([index[label] for label in rows.labels], dtype=torch.int64)
    return torch.tensor(rows.labels, dtype=torch.float32)


def _summary(
    spec: DataSpec,
    sources: Sources,
    reading: Reading,
    task: TaskSpec,
    encoded: dict[str, Encoded],
    max_length: int | None,
    tokenizer_name: str,
) -> dict[str, Any]:
    source = spec.train or DEFAULT_DATA
    notes = list(reading.notes)
    notes += [
        f"{rows.truncated} of {len(rows.lengths)} rows of {part} cut at {max_length} tokens"
        for part, rows in encoded.items()
        if rows.truncated
    ]
    summary: dict[str, Any] = {
        "name": spec.name or (source if source == DEFAULT_DATA else Path(source).name),
        "source": {part: table.source for part, table in sources.tables.items()},
        "columns": {"text": reading.columns.text, "pair": reading.columns.pair, "label": reading.columns.label},
        "task": task.kind,
        "metric": task.metric,
        "rows": {part: len(rows) for part, rows in reading.parts.items()},
        "tokens": {part: _token_statistics(rows) for part, rows in encoded.items()},
        "tokenizer": tokenizer_name,
        "max_length": max_length,
        "seed": spec.seed,
        "notes": notes,
    }
    if task.class_names:
        counts = {part: Counter(rows.labels) for part, rows in reading.parts.items()}
        summary["classes"] = {part: {name: count[name] for name in task.class_names} for part, count in counts.items()}
    else:
        summary["targets"] = {part: _target_statistics(rows) for part, rows in reading.parts.items()}
    return summary


def _token_statistics(rows: Encoded) -> dict[str, float]:
    lengths = rows.lengths
    return {
        "mean": round(float(lengths.mean()), 2),
        "median": float(np.median(lengths)),
        "p95": float(np.percentile(lengths, 95)),
        "max": int(lengths.max()),
        "truncated": rows.truncated,
    }


def _target_statistics(rows: Examples) -> dict[str, float]:
    targets = np.asarray(rows.labels, dtype=np.float64)
    return {
        "min": float(targets.min()),
        "mean": float(targets.mean()),
        "max": float(targets.max()),
        "std": float(targets.std()),
    }
