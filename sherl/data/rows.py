"""From what was read to what is stored: inputs and labels as tokens and numbers, for each task on texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from sherl.data.encoded import Text
from sherl.data.encoding import Encoded, encode
from sherl.data.examples import Examples, Reading, read_examples
from sherl.data.parting import make_parts
from sherl.data.problems import listing
from sherl.data.progress import Progress, counted, untold
from sherl.data.settings import DataSpec
from sherl.data.sources import Sources
from sherl.data.target_texts import checked_lengths, encode_targets, ragged
from sherl.data.templates import fitted
from sherl.errors import DataError
from sherl.metrics import DEFAULT_METRICS, METRICS, metric_for
from sherl.spec import TaskSpec


@dataclass(frozen=True)
class Encoding:
    """What rows are made with: the tokenizer, the settings, what bounds a row (see :func:`sherl.data.prepare_with`), and what
    hears how far it is."""

    tokenizer: Any
    spec: DataSpec
    max_length: int | None
    decoder: bool = False
    max_tokens: int | None = None
    progress: Progress = untold

    def counts(self, reading: Reading) -> Callable[[int], None]:
        """Told of rows as they are made, passes on how many are by now."""
        return counted(self.progress, "rows tokenised", sum(map(len, reading.parts.values())))


@dataclass(frozen=True)
class TaskRows:
    """What is written: the rows of each part, their token ids, and the tensors of their labels."""

    reading: Reading
    task: TaskSpec
    encoded: dict[str, Encoded]
    labels: dict[str, dict[str, torch.Tensor]]


def text_rows(sources: Sources, encoding: Encoding) -> TaskRows:
    """A class or a number for each text or pair of texts."""
    spec = encoding.spec
    reading = make_parts(read_examples(sources, spec), spec, sources.rows)
    task = _task(spec, reading)
    further = encoding.counts(reading)
    encoded = {
        part: encode(encoding.tokenizer, rows.texts, encoding.max_length, further=further)
        for part, rows in reading.parts.items()
    }
    return TaskRows(
        reading, task, encoded, {part: {"labels": _labels(rows, task)} for part, rows in reading.parts.items()}
    )


def target_rows(sources: Sources, encoding: Encoding) -> TaskRows:
    """A text for each text or pair of texts."""
    spec = encoding.spec
    reading = make_parts(read_examples(sources, spec), spec, sources.rows)
    template = spec.template or ""
    further = encoding.counts(reading)
    encoded = {
        part: encode_filled(encoding.tokenizer, template, rows.texts, encoding.max_length, further=further)
        for part, rows in reading.parts.items()
    }
    targets = {part: [str(label) for label in rows.labels] for part, rows in reading.parts.items()}
    ids = {part: encode_targets(encoding.tokenizer, rows, decoder=encoding.decoder) for part, rows in targets.items()}
    limit = encoding.max_tokens
    if encoding.decoder and limit is not None:  # input and target stand in one row of positions
        limit = max(0, limit - max(int(made.lengths.max()) for made in encoded.values()))
    named = encode_targets(encoding.tokenizer, reading.classes, decoder=encoding.decoder)
    if len(set(named)) < len(named):
        same = [name for name, row in zip(reading.classes, named, strict=True) if named.count(row) > 1]
        raise DataError(
            f"The tokenizer makes the same tokens of the targets {listing(same)}: the model could not tell them apart. Take a "
            "tokenizer that knows their words, or other targets."
        )
    longest = checked_lengths(ids, targets, asked=spec.target_length, limit=limit)
    task = TaskSpec(
        kind="text-to-text",
        metric=_metric_of_targets(spec, reading),
        class_names=reading.classes,
        pair=reading.columns.pair is not None,
        target_length=max(longest, *(len(row) for row in named)) if named else longest,
        label_tokens=tuple(named),
        template=template,
    )
    return TaskRows(reading, task, encoded, {part: tensors(ragged(rows)) for part, rows in ids.items()})


def _metric_of_targets(spec: DataSpec, reading: Reading) -> str:
    if spec.metric is not None and METRICS.get(spec.metric).targets == "tokens":
        return spec.metric
    return metric_for(spec.metric or DEFAULT_METRICS[reading.targets], reading.targets).name


def encode_filled(
    tokenizer: Any,
    template: str,
    texts: Sequence[Text],
    max_length: int | None,
    *,
    further: Callable[[int], None] | None = None,
) -> Encoded:
    """Token ids of texts in their template, of at most ``max_length`` (see :func:`sherl.data.templates.fitted`)."""
    inputs, shortened = fitted(tokenizer, template, texts, max_length)
    made = encode(tokenizer, inputs, max_length, further=further)
    return replace(made, truncated=max(made.truncated, shortened))


def tensors(arrays: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Numpy arrays as tensors."""
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


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
