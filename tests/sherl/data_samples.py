"""A tokenizer and files made in code, for the tests of tasks and data."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

WORDS = ("good", "bad", "film", "plot", "actor", "very", "not", "the", "a", "of")


def tiny_tokenizer(*, token_types: bool = True) -> PreTrainedTokenizerFast:
    """Words split at blanks; [CLS] text [SEP] second [SEP], the second text with type 1."""
    vocabulary = {token: place for place, token in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    inputs = ["input_ids", "attention_mask", *(["token_type_ids"] if token_types else [])]
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=inputs,
    )


def write_csv(path: Path, rows: Iterable[Sequence[Any]], header: Sequence[str] = ("text", "label")) -> Path:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        writer.writerows(rows)
    return path


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def sentence(number: int) -> str:
    """A text of its own for each number, of 3 to 12 words."""
    return " ".join(WORDS[(number + place) % len(WORDS)] for place in range(2 + number % 10)) + f" {number}"


def two_class_rows(count: int) -> list[tuple[str, str]]:
    return [(sentence(number), "pos" if number % 3 == 0 else "neg") for number in range(count)]


def fake_archive(folder: Path, files: dict[str, bytes], inner: str) -> tuple[Path, str]:
    """A source archive laid out like the real one, and its sha256."""
    inner_bytes = _tar({f"ratings/{name}": content for name, content in files.items()})
    path = folder / "vaderSentiment-2.5.tar.gz"
    path.write_bytes(_tar({f"vaderSentiment-2.5/{inner}": inner_bytes}))
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def _tar(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()
