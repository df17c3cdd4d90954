"""A fine-tuned model that answers for raw text: ``sherl.load(directory).predict(["What a film!"])``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoTokenizer

from sherl.backbones import Backbone, load_tokenizer
from sherl.checkpoint import load_checkpoint, read_manifest
from sherl.data.batching import longest_first
from sherl.data.encoding import Encoded, effective_max_length, encode
from sherl.errors import CheckpointError, DataError, SherlError
from sherl.evaluation import Batch, eval_step
from sherl.model import TaskModel
from sherl.shapes import Float
from sherl.tasks import task_for

Text = str | tuple[str, str]

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
_PROBLEMS_SHOWN = 10


def load(directory: str | Path, *, backbone: Backbone | str | None = None) -> Predictor:
    """The model of a checkpoint, ready to predict on raw text.

    Args:
        directory: a folder that ``autotune export`` or :func:`sherl.checkpoint.save_checkpoint` wrote.
        backbone: the pretrained model, or where to load it from; by default the source that the checkpoint names.
            Its tokenizer is used, unless the folder holds tokenizer files of its own.

    Raises:
        CheckpointError: the checkpoint is unreadable, or its backbone or tokenizer cannot be had.
    """
    manifest = read_manifest(directory)
    model = load_checkpoint(directory, backbone=backbone)
    source = backbone if isinstance(backbone, str) else model.tuned.backbone.source
    tokenizer = _tokenizer_of(Path(directory), source)
    return Predictor(model, tokenizer, max_length=manifest.max_length)


def _tokenizer_of(folder: Path, source: str | None) -> Any:
    """The tokenizer that lies in the folder, else the one of the backbone's source."""
    own = any((folder / name).exists() for name in _TOKENIZER_FILES)
    if not own and source is None:
        raise CheckpointError(
            f"{folder} has no tokenizer files, and its backbone was made in memory, without a source to take a "
            "tokenizer from: put the tokenizer's files into the folder."
        )
    try:
        return AutoTokenizer.from_pretrained(str(folder)) if own or source is None else load_tokenizer(source)
    except (SherlError, OSError, ValueError) as error:
        place = folder if own else source
        raise CheckpointError(f"The tokenizer of {folder} cannot be loaded from {str(place)!r}: {error}") from error


class Predictor:
    """Raw text (or pairs of texts) in, answers out.

    The answer for a text does not depend on what else is in the list, up to rounding (1e-5 in float32). Texts longer
    than ``max_length`` tokens are cut as they were in training. The empty text is a text.
    """

    def __init__(self, model: TaskModel, tokenizer: Any, *, max_length: int | None) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.max_length = effective_max_length(tokenizer, max_length, model.tuned.backbone.max_tokens)
        self._task = task_for(model.task)

    def predict(self, texts: Text | Iterable[Text], batch_size: int = 32) -> Any:
        """One answer for each text, in the order given; for a single text (or pair) a single answer.

        Classification: ``{"label": name, "scores": {name: probability}}``. Regression: ``{"value": number}``.

        Raises:
            DataError: something is no text (or no pair, where the model was trained on pairs); the message has its
                index.
        """
        if self._is_single(texts):
            return self.predict([texts], batch_size)[0]  # type: ignore[list-item]  # _is_single has looked
        answers: list[dict[str, Any]] = self._task.decode(self.logits(texts, batch_size))
        return answers

    def logits(self, texts: Text | Iterable[Text], batch_size: int = 32) -> Float[Tensor, "rows outputs"]:
        """Float32 logits on the CPU, one row for each text in the order given.

        Raises:
            DataError: as :meth:`predict`; or batch_size is below 1.
        """
        if batch_size < 1:
            raise DataError(f"batch_size must be at least 1, {batch_size!r} was given.")
        rows = self._checked([texts] if self._is_single(texts) else texts)
        logits = torch.empty(len(rows), self.model.task.num_outputs)
        if not rows:
            return logits
        encoded = encode(self.tokenizer, rows, self.max_length)
        # longest first: little padding, and too large a batch size shows at once
        order = longest_first(encoded.lengths).tolist()
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            logits[chosen] = eval_step(self.model, self._batch(encoded, chosen)).to("cpu", torch.float32)
        return logits

    def _is_single(self, texts: object) -> bool:
        if isinstance(texts, str):
            return True
        pair = self.model.task.pair
        return pair and isinstance(texts, tuple) and len(texts) == 2 and all(isinstance(text, str) for text in texts)

    def _checked(self, texts: Any) -> list[Text]:
        """The rows as clean strings or pairs of them."""
        if isinstance(texts, bytes | dict) or not isinstance(texts, Iterable):
            raise DataError(f"Texts must be a string or a list, {type(texts).__name__} was given.")
        rows: list[Text] = []
        problems = []
        for index, text in enumerate(texts):
            if not self.model.task.pair and isinstance(text, str):
                rows.append(_clean(text))
            elif self.model.task.pair and _is_pair(text):
                rows.append((_clean(text[0]), _clean(text[1])))
            else:
                wanted = "a pair of strings" if self.model.task.pair else "a string"
                problems.append(f"index {index}: {wanted} is needed, {_described(text)} was given")
        if problems:
            left = len(problems) - _PROBLEMS_SHOWN
            more = [f"and {left} more"] if left > 0 else []
            raise DataError([*problems[:_PROBLEMS_SHOWN], *more], where="texts")
        return rows

    def _batch(self, encoded: Encoded, rows: Sequence[int]) -> Batch:
        """Right-padded to the longest of the rows."""
        flat = {"input_ids": (encoded.ids, self.tokenizer.pad_token_id or 0)}
        if len(encoded.token_types):
            flat["token_type_ids"] = (encoded.token_types, self.tokenizer.pad_token_type_id)
        lengths = torch.as_tensor(encoded.lengths)[torch.as_tensor(rows)]
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        batch = {"attention_mask": mask.to(torch.int64)}
        for name, (values, padding) in flat.items():
            batch[name] = torch.full(mask.shape, padding, dtype=torch.int64)
            pieces = [values[encoded.offsets[row] : encoded.offsets[row + 1]] for row in rows]
            batch[name][mask] = torch.from_numpy(np.concatenate(pieces).astype(np.int64))
        return batch


def _is_pair(text: object) -> bool:
    return isinstance(text, tuple | list) and len(text) == 2 and all(isinstance(part, str) for part in text)


def _described(text: object) -> str:
    shown = repr(text)
    return f"{type(text).__name__} {shown if len(shown) <= 60 else shown[:57] + '...'}"


def _clean(text: str) -> str:
    """The text with half surrogate pairs, which no tokenizer takes, as U+FFFD."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
