"""The head of a model card in YAML, which the hub reads: licence, base model, task, results."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from autotune.deploy.licence import Licence
from autotune.deploy.scores import confirmed_scores
from autotune.outcome import TrialRecord
from autotune.units import count_words

_ON_THE_HUB = {"all-minilm-l6-v2": "sentence-transformers/all-MiniLM-L6-v2"}  # packaged here, known there by this name
_PIPELINES = {
    "classification": "text-classification",
    "regression": "text-classification",
    "text-to-text": "text-generation",
    "language-modelling": "text-generation",
    "token-classification": "token-classification",
}


def front_matter(record: TrialRecord, *, name: str, manifest: Mapping[str, Any], licence: Licence, data: Any) -> str:
    """The YAML between its two lines of dashes. data: the summary of the prepared data, where there is one."""
    task = manifest["task"]
    pipeline = "image-classification" if task.get("image_size") else _PIPELINES.get(task["kind"])
    source = manifest["backbone"]["source"]
    base = _ON_THE_HUB.get(source, source if _is_hub_id(source) else None)
    plain: dict[str, Any] = {
        "license": licence.hub_id,
        "license_name": licence.name.strip().lower().replace(" ", "-") if licence.hub_id == "other" else None,
        "library_name": "sherl",
        "base_model": base,
        "pipeline_tag": pipeline,
        "tags": ["memory-autotune", str(record.candidate.method["name"])],
        "model-index": _results(record, name, task, pipeline, data),
    }
    kept = {key: value for key, value in plain.items() if value is not None}
    return "---\n" + yaml.safe_dump(kept, allow_unicode=True, sort_keys=False, width=10_000) + "---\n"


def _results(
    record: TrialRecord, name: str, task: Mapping[str, Any], pipeline: str | None, data: Any
) -> list[dict[str, Any]] | None:
    """The hub's model-index: one result a part, validation and test apart."""
    if record.outcome is None or pipeline is None:
        return None
    called = str(data.get("name") or data.get("source") or "") if isinstance(data, Mapping) else ""
    called = called or "the data of the study"
    confirmed = confirmed_scores(record)
    parts = {"validation": record.outcome.metrics, "test": record.test_metrics or {}}
    results = []
    for part, metrics in parts.items():
        finite = [(kind, value) for kind, value in metrics.items() if math.isfinite(value)]
        shown = [{"type": kind, "value": round(value, 6), "name": kind} for kind, value in finite]
        if part == "validation" and confirmed is not None:
            kind, count = str(task["metric"]), len(confirmed.values)
            shown.append(
                {
                    "type": kind,
                    "value": round(confirmed.mean, 6),
                    "name": f"{kind}, mean of {count_words(count, 'other seed')}",
                }
            )
        if shown:
            dataset = {"type": called, "name": called, "split": part}
            results.append({"task": {"type": pipeline}, "dataset": dataset, "metrics": shown})
    return [{"name": name, "results": results}] if results else None


def _is_hub_id(source: str | None) -> bool:
    if source is None or source.startswith((".", "~", "/")) or Path(source).exists():
        return False
    return source.count("/") <= 1
