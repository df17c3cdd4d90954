"""A fine-tuned model that answers for raw input: ``sherl.load(directory).predict(["What a film!"])``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from sherl.backbones import Backbone, load_tokenizer, tokenizer_in
from sherl.backbones.writing import PADDING
from sherl.checkpoint import load_checkpoint, read_manifest
from sherl.data.encoding import effective_max_length
from sherl.errors import CheckpointError, DataError, SherlError, SpecError
from sherl.evaluation import eval_step, evaluating, to_device
from sherl.inputs import Inputs, images_of, is_single, sentences_of, texts_of
from sherl.model import TaskModel
from sherl.shapes import Float
from sherl.tasks import task_for

LANGUAGE_MODELLING = "language-modelling"


class Unset:
    """What an option is that nobody gave, where None means something."""


UNSET = Unset()

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


def load(
    directory: str | Path, *, backbone: Backbone | str | None = None, device: str | torch.device | None = None
) -> Predictor:
    """The model of a checkpoint, ready to predict on raw input.

    Args:
        directory: a folder that ``autotune export`` or :func:`sherl.checkpoint.save_checkpoint` wrote.
        backbone: the pretrained model, or where to load it from; by default the source that the checkpoint names.
            Its tokenizer is used, unless the folder holds tokenizer files of its own; for images none is needed.
        device: where it answers, as torch names it (``"cuda"``); by default where the backbone lies, which is the CPU for
            one that is loaded here.

    Raises:
        CheckpointError: the checkpoint is unreadable, or its backbone or tokenizer cannot be had.
        SpecError: there is no such device here.
    """
    manifest = read_manifest(directory)
    place = None if device is None else _device(device)
    model = load_checkpoint(directory, backbone=backbone)
    if place is not None:
        model.to(place)
    if model.task.image_size:
        return Predictor(model, None, max_length=None)
    source = backbone if isinstance(backbone, str) else model.tuned.backbone.source
    tokenizer = _tokenizer_of(Path(directory), source)
    return Predictor(model, tokenizer, max_length=manifest.max_length)


def _device(asked: str | torch.device) -> torch.device:
    try:
        device = torch.device(asked)
        torch.empty(1, device=device)  # a name alone says nothing of what is here
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise SpecError(
            f"The device {str(asked)!r} cannot be used: {reason}. Give 'cpu', or on a machine with a GPU 'cuda' or 'cuda:N'."
        ) from error
    return device


def _tokenizer_of(folder: Path, source: str | None) -> Any:
    """The tokenizer that lies in the folder, else the one of the backbone's source."""
    own = any((folder / name).exists() for name in _TOKENIZER_FILES)
    if not own and source is None:
        raise CheckpointError(
            f"{folder} has no tokenizer files, and its backbone was made in memory, without a source to take a "
            "tokenizer from: put the tokenizer's files into the folder."
        )
    try:
        if own or source is None:
            return tokenizer_in(folder)
        return load_tokenizer(source)
    except SherlError as error:
        place = folder if own else source
        raise CheckpointError(f"The tokenizer of {folder} cannot be loaded from {str(place)!r}: {error}") from error


class Predictor:
    """Raw input in, answers out.

    Input is texts (or pairs of texts); of token classification sentences, as lists of words or as strings that are split
    at blanks; of image classification paths, images of Pillow, or arrays (see :mod:`sherl.data.pictures`).

    The answer for a row does not depend on what else is in the list, up to rounding (1e-5 in float32). Texts longer
    than ``max_length`` tokens are cut as they were in training. The empty text is a text.
    """

    def __init__(self, model: TaskModel, tokenizer: Any, *, max_length: int | None) -> None:
        """tokenizer: None for images."""
        self.model = model
        self.tokenizer = tokenizer
        self._task = task_for(model.task)
        self.max_length = None
        if not model.task.image_size:
            self.max_length = effective_max_length(tokenizer, max_length, model.tuned.backbone.max_tokens)

    def predict(self, texts: Any, batch_size: int = 32) -> Any:
        """One answer for each row, in the order given; for a single text, pair, tuple of words or image one answer.

        Classification: ``{"label": name, "scores": {name: probability}}``. Regression: ``{"value": number}``.
        Text-to-text: ``{"text": written}``, with ``"label"`` (None where it is none of the classes) or ``"value"`` where
        these are learnt. Token classification: ``{"words": [...], "tags": [...]}``, None for words that were cut off.
        Language modelling: ``{"nll": mean nats a token, "perplexity": ..., "tokens": predicted ones}``.

        Raises:
            DataError: something is no text (or no pair, where the model was trained on pairs), no sentence or no image;
                the message has its index.
        """
        if self._is_single(texts):
            return self.predict([texts], batch_size)[0]
        if self.model.task.kind == LANGUAGE_MODELLING:
            return self._likelihoods(texts)
        if self._task.per_token:
            return self._tagged(texts, batch_size)
        outputs = self.logits(texts, batch_size)
        answers: list[dict[str, Any]] = self._task.decode(outputs)
        return [self._written(answer) for answer in answers] if self._task.writes_text else answers

    def __call__(
        self, inputs: Any, *, top_k: int | Unset | None = UNSET, batch_size: int = 32
    ) -> list[dict[str, Any]] | list[list[dict[str, Any]]]:
        """Answers in the form of transformers' pipelines.

        Classes: ``[{"label": ..., "score": ...}]`` for a single input, and for a list one such dictionary each. With ``top_k``
        said (None: all), the best k of each input, best first, in a list of its own for each input of a list; for images it is
        5 unless said, as there. Regression: the label ``value`` and the number itself as score. Text-to-text:
        ``[{"generated_text": ...}]``. Token classification: ``{"entity", "word", "index"}`` for each tagged word of each input.
        Language modelling: as :meth:`predict`.

        Raises:
            DataError: as :meth:`predict`; or top_k is below 1, or was given to a task without classes.
        """
        classes = self.model.task.kind == "classification"
        if not isinstance(top_k, Unset):
            if not classes:
                raise DataError(
                    f"top_k chooses among classes, and the task {self.model.task.kind} has none: leave it out."
                )
            if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1):
                raise DataError(f"top_k must be a whole number of at least 1, or None for all; {top_k!r} was given.")
        elif classes and self.model.task.image_size:
            top_k = 5
        single = self._is_single(inputs)
        answers = [self.predict(inputs, batch_size)] if single else self.predict(inputs, batch_size)
        each = [as_in_a_pipeline(answer, 1 if isinstance(top_k, Unset) else top_k) for answer in answers]
        if single:
            return each[0]
        of_lists = self._task.per_token or not isinstance(top_k, Unset)
        return each if of_lists else [row[0] for row in each]

    def logits(self, texts: Any, batch_size: int = 32) -> Float[Tensor, "rows outputs"]:
        """The model's outputs on the CPU, one row for each in the order given: float32 logits [rows, outputs], or the
        int64 tokens that are written [rows, target_length], or the int64 tags [rows, tokens] (-100 is padding).

        Raises:
            DataError: as :meth:`predict`; or batch_size is below 1.
        """
        given = [texts] if self._is_single(texts) else texts
        if self.model.task.image_size:
            return self._outputs(images_of(given, self.model.task), batch_size)
        if self._task.per_token:
            return self._outputs(sentences_of(given, self.tokenizer, self.max_length)[0], batch_size)
        return self._outputs(texts_of(given, self.model.task, self.tokenizer, self.max_length), batch_size)

    def _is_single(self, given: Any) -> bool:
        return is_single(given, self.model.task, words=self._task.per_token)

    def _outputs(self, inputs: Inputs, batch_size: int) -> Tensor:
        if batch_size < 1:
            raise DataError(f"batch_size must be at least 1, {batch_size!r} was given.")
        if not len(inputs):
            return torch.empty(0, self.model.task.num_outputs)
        made: Tensor | None = None
        order = inputs.order
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            outputs = eval_step(self.model, inputs.batch(chosen)).cpu()
            if outputs.is_floating_point():
                outputs = outputs.float()
            if made is None:  # the widest, as the longest rows come first
                made = outputs.new_full((len(order), *outputs.shape[1:]), PADDING)
            missing = made.shape[-1] - outputs.shape[-1]
            made[chosen] = pad(outputs, (0, missing), value=PADDING) if missing else outputs
        assert made is not None
        return made

    def _written(self, answer: dict[str, Any]) -> dict[str, Any]:
        tokens = [token for token in answer["tokens"] if token >= 0]
        text = self.tokenizer.decode(tokens, skip_special_tokens=True).strip()
        if "label" not in answer:
            return {"text": text}
        if self._task.targets == "values":
            return {"text": text, "value": None if answer["label"] is None else float(answer["label"])}
        return {"text": text, "label": answer["label"]}

    def _tagged(self, sentences: Any, batch_size: int) -> list[dict[str, Any]]:
        inputs, words = sentences_of(sentences, self.tokenizer, self.max_length)
        names = self.model.task.class_names
        answers = []
        for row, best in enumerate(self._outputs(inputs, batch_size).tolist()):
            tags: list[str | None] = [None] * len(words[row])
            for word, tag in zip(inputs.words(row).tolist(), best, strict=False):  # behind the row's tokens is padding
                if word >= 0 and tag >= 0:
                    tags[word] = names[tag]
            answers.append({"words": words[row], "tags": tags})
        return answers

    def _likelihoods(self, texts: Any) -> list[dict[str, Any]]:
        """Each text alone: the mean of a batch of one is its own."""
        inputs = texts_of(texts, self.model.task, self.tokenizer, self.max_length)
        return [self._likelihood(inputs, row) for row in range(len(inputs))]

    def _likelihood(self, inputs: Inputs, row: int) -> dict[str, Any]:
        batch = inputs.batch([row])
        tokens = int(batch["attention_mask"].sum()) - 1
        if tokens < 1:
            return {"nll": None, "perplexity": None, "tokens": 0}
        with evaluating(self.model), torch.no_grad():
            batch = to_device({**batch, "labels": batch["input_ids"]}, self.model)
            nll = float(self.model.loss(self.model(batch), batch["labels"]))
        return {"nll": nll, "perplexity": math.exp(nll) if nll < 700 else math.inf, "tokens": tokens}


def as_in_a_pipeline(answer: dict[str, Any], top_k: int | None) -> list[dict[str, Any]]:
    """One answer of :meth:`Predictor.predict` in the form of transformers' pipelines."""
    if "scores" in answer:
        best = sorted(answer["scores"].items(), key=lambda item: -item[1])[:top_k]
        return [{"label": name, "score": score} for name, score in best]
    if "tags" in answer:
        words = zip(answer["words"], answer["tags"], strict=True)
        return [
            {"entity": tag, "word": word, "index": index} for index, (word, tag) in enumerate(words) if tag is not None
        ]
    if "text" in answer:
        return [{"generated_text": answer["text"]}]
    return [{"label": "value", "score": answer["value"]}] if "value" in answer else [answer]
