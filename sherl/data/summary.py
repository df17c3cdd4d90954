"""What a person wants to know of prepared data."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from sherl.data.encoding import Encoded
from sherl.data.examples import Examples
from sherl.data.glue import is_glue
from sherl.data.rows import TaskRows
from sherl.data.settings import DataSpec
from sherl.data.sources import DEFAULT_DATA, Sources


def summary_of(
    spec: DataSpec, sources: Sources, rows: TaskRows, *, max_length: int | None, tokenizer_name: str
) -> dict[str, Any]:
    """Source, rows, classes or targets, token lengths, what was cut or dropped (``notes``)."""
    reading, task, encoded = rows.reading, rows.task, rows.encoded
    source = spec.train or DEFAULT_DATA
    notes = list(reading.notes)
    notes += [
        f"{made.truncated} of {len(made.lengths)} rows of {part} cut at {max_length} tokens"
        for part, made in encoded.items()
        if made.truncated
    ]
    summary: dict[str, Any] = {
        "name": spec.name or _name_of(source),
        "source": {part: table.source for part, table in sources.tables.items()},
        "columns": {"text": reading.columns.text, "pair": reading.columns.pair, "label": reading.columns.label or None},
        "task": task.kind,
        "metric": task.metric,
        "rows": {part: len(examples) for part, examples in reading.parts.items()},
        "tokens": {part: _token_statistics(made) for part, made in encoded.items()},
        "tokenizer": tokenizer_name,
        "max_length": max_length,
        "seed": spec.seed,
        "notes": notes,
    }
    if task.template:
        summary["template"] = task.template
    if task.target_length:
        summary["target_length"] = task.target_length
    if reading.targets == "classes":
        counts = {part: Counter(examples.labels) for part, examples in reading.parts.items()}
        summary["classes"] = {part: {name: count[name] for name in task.class_names} for part, count in counts.items()}
    elif reading.targets == "values":
        summary["targets"] = {part: _target_statistics(examples) for part, examples in reading.parts.items()}
    return summary


def _name_of(source: str) -> str:
    if is_glue(source):
        return source.partition("@")[0]
    return source if source == DEFAULT_DATA else Path(source).name


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
    targets = np.asarray([float(label) for label in rows.labels], dtype=np.float64)
    return {
        "min": float(targets.min()),
        "mean": float(targets.mean()),
        "max": float(targets.max()),
        "std": float(targets.std()),
    }
