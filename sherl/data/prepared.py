"""A folder of prepared data: three encoded parts and a ``meta.json`` that is only there when all is."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

from sherl.data.encoded import EncodedPart
from sherl.data.image_part import ImagePart
from sherl.data.tokenizer_files import TOKENIZER
from sherl.errors import DataError, SpecError
from sherl.forms import TensorForm, widest
from sherl.spec import TaskSpec

FORMAT_VERSION = 2
META = "meta.json"

Part: TypeAlias = EncodedPart | ImagePart
"""Rows of texts as tokens, or of images."""


class PreparedData:
    """Prepared data that :func:`sherl.data.prepare` wrote. Opening reads ``meta.json`` only."""

    def __init__(self, directory: Path, meta: dict[str, Any]) -> None:
        self.directory = directory
        self._meta = meta
        self._parts: dict[str, Part] = {}

    @classmethod
    def open(cls, directory: Path | str) -> PreparedData:
        """The prepared data of a folder.

        Raises:
            DataError: the folder is missing, half-written, damaged or of another format version.
        """
        directory = Path(directory)
        try:
            meta = json.loads((directory / META).read_text(encoding="utf-8"))
            version, files = meta["format_version"], meta["files"]
        except FileNotFoundError:
            what = "the folder is not finished" if directory.exists() else "there is no such folder"
            raise DataError(f"{directory} holds no prepared data: {what}. Prepare the data again.") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{directory / META} cannot be read ({error!r}). Prepare the data again.") from error
        if version != FORMAT_VERSION:
            raise DataError(
                f"{directory} is of format version {version}, this version reads {FORMAT_VERSION}. Prepare the data again."
            )
        damaged = [name for name, size in files.items() if not _has_size(directory / name, size)]
        if damaged:
            raise DataError(f"{directory} is damaged: {', '.join(damaged)} lack(s) bytes. Prepare the data again.")
        return cls(directory, meta)

    @cached_property
    def task(self) -> TaskSpec:
        """What is to be learnt, with class names or the targets' statistics."""
        return TaskSpec.from_dict(self._meta["task"])

    @property
    def summary(self) -> dict[str, Any]:
        """What a person wants to know: source, rows, classes, token lengths, what was cut or dropped (``notes``)."""
        return dict(self._meta["summary"])

    @property
    def key(self) -> dict[str, Any]:
        """What the content depends on; equal keys mean equal content."""
        return dict(self._meta["key"])

    @property
    def max_length(self) -> int | None:
        """Tokens at which rows were cut; None where nothing bounds them."""
        value = self._meta["max_length"]
        return None if value is None else int(value)

    @property
    def tokenizer_folder(self) -> Path | None:
        """The files of the tokenizer that made the ids; None for images, and where an earlier version kept none."""
        folder = self.directory / TOKENIZER
        return folder if folder.is_dir() else None

    @property
    def has_token_types(self) -> bool:
        """Whether batches hold ``token_type_ids``."""
        return bool(self._meta["token_types"])

    def part(self, name: str) -> Part:
        """The part "train", "valid" or "test"; opened once.

        Raises:
            SpecError: there is no such part.
            DataError: its files cannot be read.
        """
        if name not in self._meta["parts"]:
            raise SpecError(f"There is no part {name!r}; parts are {', '.join(self._meta['parts'])}.")
        if name not in self._parts:
            self._parts[name] = self._opened(name)
        return self._parts[name]

    def _opened(self, name: str) -> Part:
        if self._meta["inputs"] == "images":
            return ImagePart(self.directory, name=name, mean=self.task.image_mean, std=self.task.image_std)
        return EncodedPart(
            self.directory / f"{name}.safetensors",
            self.directory / f"{name}.texts.jsonl",
            name=name,
            pad_token_id=self._meta["pad_token_id"],
            pad_token_type_id=self._meta["pad_token_type_id"],
        )

    def largest_evaluation(self, rows: int) -> dict[str, TensorForm]:
        """Shapes and types that no batch of so many rows exceeds, of the validation part or of the test part.

        Raises:
            SpecError: ``rows`` is below 1.
            DataError: a part's files cannot be read.
        """
        return widest(self.part("valid").largest_form(rows), self.part("test").largest_form(rows))


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size
