"""Image classification: images are decoded once into memory-mapped files that every trial reads."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from sherl.data.columns import Columns
from sherl.data.encoding import save_texts
from sherl.data.examples import Examples, Reading
from sherl.data.image_settings import ImageSettings
from sherl.data.image_sources import ImageTable, read_images
from sherl.data.label_columns import read_classes
from sherl.data.parting import make_parts
from sherl.data.pictures import PictureError, digest, pillow, pixels
from sherl.data.prepared import PreparedData
from sherl.data.problems import Problems
from sherl.data.progress import Progress, counted, untold
from sherl.data.settings import DataSpec
from sherl.data.sources import Sources
from sherl.data.table import Table
from sherl.data.writing import check_key, existing, key_of, write_meta, write_whole
from sherl.metrics import DEFAULT_METRICS, metric_for
from sherl.spec import TaskSpec

_LABEL = "label"


def prepare_images(
    spec: DataSpec,
    settings: ImageSettings,
    *,
    directory: Path | str,
    backbone_name: str = "",
    progress: Progress = untold,
) -> PreparedData:
    """Images and their classes in a folder, or what an equal call left there; see :func:`sherl.data.prepare`.

    Images of equal content (bytes of the file, or values of the array) stay in one part.

    Raises:
        DataError: a source or an image is at fault (all problems at once), or Pillow is not installed.
        SpecError: the metric does not score classes.
    """
    directory = Path(directory)
    pillow()
    tables = read_images(spec)
    digests = _digests(tables, progress)
    sources = Sources({part: _as_table(table, digests[part]) for part, table in tables.items()})
    key = key_of(spec, sources, images=settings.to_dict())
    found = existing(directory)
    if found is not None:
        check_key(found, key)
        return found
    reading = make_parts(_reading(tables, sources, digests), spec, sources.rows)
    metric = metric_for(spec.metric or DEFAULT_METRICS["classes"], "classes").name
    task = TaskSpec(
        kind="classification",
        metric=metric,
        class_names=reading.classes,
        image_size=settings.size,
        image_mean=settings.mean,
        image_std=settings.std,
        image_resample=settings.resample,
    )

    def write(folder: Path) -> None:
        notes = [*settings.notes, *reading.notes, *_write_parts(folder, reading, tables, task, settings, progress)]
        summary = _summary(spec, tables, reading, task, notes, backbone_name)
        write_meta(
            folder,
            {
                "key": key,
                "task": task.to_dict(),
                "inputs": "images",
                "max_length": None,
                "token_types": False,
                "summary": summary,
            },
        )

    write_whole(directory, write)
    written = PreparedData.open(directory)
    check_key(written, key)  # another process may have been faster, with other settings
    return written


def _digests(tables: dict[str, ImageTable], progress: Progress) -> dict[str, list[str]]:
    problems = Problems(", ".join(dict.fromkeys(table.source for table in tables.values())))
    made: dict[str, list[str]] = {}
    further = counted(progress, "images read", sum(len(table.names) for table in tables.values()))
    for part, table in tables.items():
        made[part] = []
        for name, picture in zip(table.names, table.pictures, strict=True):
            try:
                made[part].append(digest(picture))
            except PictureError as error:
                problems.add(f"{name}: {error}")
            further(1)
    problems.raise_any("Nothing was prepared. Mend the paths or leave the rows out.")
    return made


def _as_table(table: ImageTable, digests: list[str]) -> Table:
    """Labels as a column, so that they are read as those of texts are."""
    content = hashlib.sha256()
    for cell, one in zip(table.labels, digests, strict=True):
        content.update(f"{cell!r} {one}\n".encode())
    return Table(table.source, {_LABEL: table.labels}, identity=content.hexdigest())


def _reading(tables: dict[str, ImageTable], sources: Sources, digests: dict[str, list[str]]) -> Reading:
    problems = Problems(", ".join(dict.fromkeys(table.source for table in tables.values())))
    labels, classes = read_classes(sources.tables, _LABEL, problems)
    problems.raise_any("Nothing was prepared. Mend the labels or leave the rows out; --label chooses the column.")
    parts = {
        part: Examples(
            [(part, str(row)) for row in range(len(table.names))], labels[part], [(one,) for one in digests[part]]
        )
        for part, table in tables.items()
    }
    notes = [note for table in tables.values() for note in table.notes]
    return Reading(parts, "classes", classes, Columns("", None, _LABEL), notes)


def _write_parts(
    folder: Path,
    reading: Reading,
    tables: dict[str, ImageTable],
    task: TaskSpec,
    settings: ImageSettings,
    progress: Progress,
) -> list[str]:
    """Pixels, names and labels of each part; notes on what was seen.

    Raises:
        DataError: images cannot be used; all are named.
    """
    problems = Problems(", ".join(dict.fromkeys(table.source for table in tables.values())))
    index = {name: place for place, name in enumerate(task.class_names)}
    animated = 0
    further = counted(progress, "images decoded", sum(map(len, reading.parts.values())))
    for part, rows in reading.parts.items():
        shape = (len(rows), 3, *settings.size)
        stored = np.lib.format.open_memmap(folder / f"{part}.npy", mode="w+", dtype=np.uint8, shape=shape)
        names = []
        for row, place in enumerate(rows.texts):
            table = tables[place[0]]
            names.append(table.names[int(place[1])])
            try:
                stored[row], frames = pixels(table.pictures[int(place[1])], settings)
                animated += frames > 1
            except PictureError as error:
                problems.add(f"{names[-1]}: {error}")
            further(1)
        stored.flush()
        del stored
        labels = torch.tensor([index[label] for label in rows.labels], dtype=torch.int64)
        save_file({"labels": labels}, folder / f"{part}.safetensors")
        save_texts(folder / f"{part}.texts.jsonl", names)
    problems.raise_any("Nothing was prepared. Mend these images or leave them out.")
    return [f"of {animated} animated image(s) the first frame is taken"] if animated else []


def _summary(
    spec: DataSpec,
    tables: dict[str, ImageTable],
    reading: Reading,
    task: TaskSpec,
    notes: list[str],
    backbone_name: str,
) -> dict[str, Any]:
    counts = {part: Counter(rows.labels) for part, rows in reading.parts.items()}
    return {
        "name": spec.name or Path(spec.train or "").name,
        "source": {part: _short(table.source) for part, table in tables.items()},
        "task": task.kind,
        "metric": task.metric,
        "rows": {part: len(rows) for part, rows in reading.parts.items()},
        "images": {"size": list(task.image_size), "mean": list(task.image_mean), "std": list(task.image_std)},
        "backbone": backbone_name,
        "seed": spec.seed,
        "notes": notes,
        "classes": {part: {name: count[name] for name in task.class_names} for part, count in counts.items()},
    }


def _short(source: str) -> str:
    """A folder or file by its name, as texts' sources are told; other names as they are."""
    return Path(source).name if Path(source).is_absolute() else source
