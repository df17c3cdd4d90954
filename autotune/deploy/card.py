"""The model card of an export: what the model does, how it was made, what it cost, how it is loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from autotune.deploy.front_matter import front_matter
from autotune.deploy.licence import Licence, licence_of
from autotune.deploy.scores import confirmed_scores
from autotune.outcome import MemoryFigures, Outcome, TrialRecord
from autotune.units import count_words, format_bytes, format_duration

_NOT_ON_THE_CARD = {"task", "metric", "tokens", "tokenizer", "backbone"}  # said elsewhere, or too fine for a card
_LONGEST_VALUE = 600


def model_card(
    record: TrialRecord,
    outcome: Outcome,
    *,
    folder_name: str,
    manifest: Mapping[str, Any],
    settings: Mapping[str, Any],
    info: Mapping[str, Any],
) -> str:
    """The card as markdown. Names that people gave are escaped; see :func:`autotune.deploy.export` for ``info``."""
    task = manifest["task"]
    licence = licence_of(manifest["backbone"]["source"])
    sections = [
        f"# {_text(settings.get('name') or folder_name)}: trial {record.number}",
        f"{_sort(task)}: {_text(record.candidate.label)} on {_text(_source(manifest))}.",
        _loading(folder_name, manifest),
        _task(task, info),
        _results(record, outcome, settings, info),
        _memory(record, outcome, settings),
        _inference(record),
        _configuration(record),
        _backbone(manifest, licence),
        "## What is in the folder\n\n"
        "- `trainables.safetensors`: the trained tensors and the buffers of added modules; not the frozen backbone\n"
        "- `sherl.json`: method, task, backbone and its fingerprint\n"
        "- the tokenizer's files (for images `preprocessor_config.json`), `requirements.txt`, and `export.json`, which lists the files of this export",
    ]
    matter = front_matter(
        record, name=str(settings.get("name") or folder_name), manifest=manifest, licence=licence, data=info.get("data")
    )
    return matter + "\n" + "\n\n".join(section for section in sections if section) + "\n"


def example_input(task: Mapping[str, Any]) -> str | tuple[str, str]:
    """What a model of this task (a dictionary as :meth:`sherl.spec.TaskSpec.to_dict` gives it) may be handed, for examples."""
    if task.get("image_size"):
        return "photo.jpg"
    if task.get("pair"):
        return ("A first text.", "A second text.")
    return "Words of a sentence" if task["kind"] == "token-classification" else "A text."


_ANSWERS = {
    "regression": "a value",
    "text-to-text": "the text that it writes",
    "language-modelling": "nats a token, perplexity and the number of tokens",
    "token-classification": "the words (split at blanks, or give a list of them) and their tags",
}


def _kind(task: Mapping[str, Any]) -> str:
    return "image classification" if task.get("image_size") else str(task["kind"])


def _sort(task: Mapping[str, Any]) -> str:
    kind = _text(_kind(task))
    return f"{'An' if kind[0] in 'aeiou' else 'A'} {kind} model"


def _loading(folder_name: str, manifest: Mapping[str, Any]) -> str:
    example = example_input(manifest["task"])
    given = repr(example) if isinstance(example, tuple) else json.dumps(example)
    folder = json.dumps(folder_name, ensure_ascii=False)
    code = f"import sherl\nmodel = sherl.load({folder})  # the path of this folder\nprint(model.predict({given}))  # {_ANSWERS.get(_kind(manifest['task']), 'a label and its scores')}"
    text = f"## How to load it\n\n```python\n{code}\n```"
    if _is_path(_source(manifest)):
        text += (
            "\n\nThe backbone lies in a folder of the machine that trained the model. Elsewhere, say where it is: "
            '`sherl.load(..., backbone="PATH")`; its fingerprint is compared.'
        )
    return text


def _task(task: Mapping[str, Any], info: Mapping[str, Any]) -> str:
    lines = [f"- task: {_text(_kind(task))}" + (" of pairs of texts" if task.get("pair") else "")]
    if task.get("class_names"):
        lines.append("- classes: " + ", ".join(_text(name) for name in task["class_names"]))
    data = info.get("data")
    if isinstance(data, Mapping):
        shown = {key: value for key, value in data.items() if key not in _NOT_ON_THE_CARD and _shown(value)}
        lines += [f"- {_text(key).replace('_', ' ')}: {_value(value)}" for key, value in shown.items()]
    return "## Data and task\n\n" + "\n".join(lines)


def _results(record: TrialRecord, outcome: Outcome, settings: Mapping[str, Any], info: Mapping[str, Any]) -> str:
    metric = str(settings.get("metric") or "metric")
    rows = [("validation", metric, outcome.metric)] if outcome.metric is not None else []
    rows += [("validation", name, value) for name, value in outcome.metrics.items() if name != metric]
    tests = record.test_metrics or {}
    rows += [("test", name, value) for name, value in tests.items()]
    lines = ["| part | metric | value |", "|---|---|---|"]
    lines += [f"| {part} | {_text(name)} | {value:.4f} |" for part, name, value in rows]
    text = "## Results\n\n" + "\n".join(lines)
    text += f"\n\n{_certainty(record, metric)}"
    text += " The model was chosen by its validation figures, which are therefore a little too good."
    text += " The test part was scored once, after the choice." if tests else " It was not scored on a test part."
    if info.get("selection"):
        text += f"\n\n{_text(info['selection'])}"
    return text


def _certainty(record: TrialRecord, metric: str) -> str:
    """How far the validation figure may be trusted to come again with another seed."""
    confirmed = confirmed_scores(record)
    if confirmed is None:
        return f"One seed ({record.seed}), unconfirmed: how far the figures move with another seed is not known."
    spread = "" if confirmed.spread is None else f" ± {confirmed.spread:.4f} (standard deviation)"
    seeds = ", ".join(map(str, confirmed.seeds))
    count = len(confirmed.values)
    return (
        f"Confirmed: trained again with {count_words(count, 'other seed')} ({seeds}), the validation "
        f"{_text(metric)} was {confirmed.mean:.4f}{spread} on average; "
        f"each: {', '.join(f'{value:.4f}' for value in confirmed.values)}. The weights here are those of seed {record.seed}."
    )


def _memory(record: TrialRecord, outcome: Outcome, settings: Mapping[str, Any]) -> str:
    lines = []
    cap = settings.get("memory_cap")
    if isinstance(cap, int):
        lines.append(f"- memory cap of training: {format_bytes(cap)}, compared with the device figure")
    lines += _figures("measured peak", outcome.peak) + _figures("predicted peak", outcome.predicted)
    plan = record.candidate.plan
    words = ", ".join(f"{_text(key).replace('_', ' ')}: {_text(value)}" for key, value in plan.items())
    lines.append(f"- memory plan: {words or 'none; it ran as it was asked for'}")
    if outcome.trainable_parameters is not None:
        lines.append(f"- trainable parameters: {outcome.trainable_parameters:,}")
    lines.append(f"- wall time of the trial: {format_duration(outcome.seconds)}")
    return "## Cost of training\n\n" + "\n".join(lines)


def _inference(record: TrialRecord) -> str:
    inference = record.inference
    if inference is None:
        return "## Cost of answering\n\nNot measured."
    lines = [
        f"- measured on: {_text(inference.device)}, {count_words(inference.threads, 'CPU thread')}",
        *_figures("measured peak", inference.peak),
        f"- latency of one row alone: {1000 * inference.latency_seconds:.1f} ms (median), from prepared tensors to the answer's",
        f"- throughput: {inference.rows_per_second:,.1f} rows a second in batches of {inference.batch_rows}",
    ]
    return "## Cost of answering\n\n" + "\n".join(lines)


def _figures(what: str, figures: MemoryFigures | None) -> list[str]:
    if figures is None:
        return []
    reserved = f", reserved {format_bytes(figures.reserved)}" if figures.reserved is not None else ""
    text = f"- {what}: device {format_bytes(figures.device)}{reserved}, tensor bytes {format_bytes(figures.allocated)}"
    return [f"{text} (meter: {_text(figures.meter)})"]


def _configuration(record: TrialRecord) -> str:
    trained = record.candidate.realised
    plain = {"method": trained.method, "training": trained.training, "seed": record.seed}
    return "## Configuration\n\n```json\n" + json.dumps(plain, indent=2, ensure_ascii=False, default=str) + "\n```"


def _backbone(manifest: Mapping[str, Any], licence: Licence) -> str:
    backbone = manifest["backbone"]
    return (
        f"## Backbone\n\n- name: {_text(_source(manifest))}\n- family: {_text(backbone.get('family'))}\n"
        f"- fingerprint: `{_text(backbone['fingerprint'])}`\n- precision: {_text(manifest.get('precision'))}\n"
        f"- licence: {_text(licence)}"
    )


def _source(manifest: Mapping[str, Any]) -> str:
    return str(manifest["backbone"]["source"] or "a backbone made in memory")


def _is_path(source: str) -> bool:
    return source.startswith(("/", "~", ".")) or "\\" in source


def _shown(value: Any) -> bool:
    return value is not None and value != "" and value != {} and value != []


def _value(value: Any) -> str:
    words = _words(value)
    return words if len(words) <= _LONGEST_VALUE else words[:_LONGEST_VALUE] + "…"


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{_text(key)}: {_words(inner)}" for key, inner in value.items() if _shown(inner))
    if isinstance(value, (list, tuple)):
        return ", ".join(_words(inner) for inner in value)
    return f"{value:.4g}" if isinstance(value, float) else _text(value)


def _text(value: Any) -> str:
    """Text that stays text in markdown: one line, no tags, no columns, no code fences."""
    escaped = " ".join(str(value).split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return escaped.replace("|", "\\|").replace("`", "'")
