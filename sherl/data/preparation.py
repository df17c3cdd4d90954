"""Prepares data once: read, check, split, tokenise, write. Every trial then reads the same files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from sherl.backbones import backbone_from_config, load_config, load_tokenizer
from sherl.data.encoding import effective_max_length, save_part, tokenizer_fingerprint
from sherl.data.image_settings import image_settings
from sherl.data.image_sources import wants_images
from sherl.data.images import prepare_images
from sherl.data.language import language_rows
from sherl.data.prepared import PreparedData
from sherl.data.progress import Progress, untold
from sherl.data.rows import Encoding, TaskRows, target_rows, text_rows
from sherl.data.settings import DataSpec
from sherl.data.sources import Sources, read_settled
from sherl.data.summary import summary_of
from sherl.data.tagged import tag_rows
from sherl.data.tokenizer_files import TOKENIZER, save_tokenizer
from sherl.data.writing import check_key, existing, key_of, write_meta, write_whole


def prepare(
    spec: DataSpec,
    *,
    backbone_source: str,
    directory: Path | str,
    max_length: int | None = 128,
    progress: Progress = untold,
) -> PreparedData:
    """Reads, checks, splits and tokenises (of images: decodes) data into ``directory``, or opens what an equal call left there.

    The content depends on nothing but the settings, the source's rows and the tokenizer, to the byte. The folder appears
    whole or not at all; a half-written one is replaced.

    Args:
        max_length: tokens at which rows are cut (of a pair the longer text first); None takes the backbone's own limit.
        progress: hears how many rows or images are done.

    Raises:
        DataError: a source, its columns or its rows are at fault (all problems at once), or the folder holds data of
            other settings or something else.
        SpecError: max_length is not what the backbone takes, or the metric does not fit the task.
    """
    if wants_images(spec):
        settings = image_settings(backbone_source, spec.image_size)
        return prepare_images(spec, settings, directory=directory, backbone_name=backbone_source, progress=progress)
    tokenizer = load_tokenizer(backbone_source)
    family, max_tokens = _limits(backbone_source)
    return prepare_with(
        tokenizer,
        spec,
        directory=directory,
        max_length=effective_max_length(tokenizer, max_length, max_tokens),
        tokenizer_name=backbone_source,
        decoder=family == "decoder",
        max_tokens=max_tokens,
        progress=progress,
    )


def prepare_with(
    tokenizer: Any,
    spec: DataSpec,
    *,
    directory: Path | str,
    max_length: int | None,
    tokenizer_name: str = "",
    decoder: bool = False,
    max_tokens: int | None = None,
    progress: Progress = untold,
) -> PreparedData:
    """As :func:`prepare`, with a tokenizer that is loaded already and a max_length that fits the backbone.

    decoder: whether the backbone has no encoder: a target then goes on behind its input. max_tokens: the backbone's
    longest input; with a decoder it bounds input and target together.
    """
    directory = Path(directory)
    spec, sources = read_settled(spec)
    key = key_of(spec, sources, tokenizer=tokenizer_fingerprint(tokenizer), max_length=max_length)
    if decoder and spec.task == "text-to-text":
        key["tokenizer"] += "/decoder"  # targets get other tokens
    found = existing(directory)
    if found is not None:
        check_key(found, key)
        return found
    make = _ROWS.get(spec.task, text_rows)
    rows = make(sources, Encoding(tokenizer, spec, max_length, decoder, max_tokens, progress))
    # the models take absent types as zeros, so types that are all zero only cost memory
    types = any(bool(part.token_types.any()) for part in rows.encoded.values())
    pad = tokenizer.pad_token_id
    meta = {
        "key": key,
        "task": rows.task.to_dict(),
        "inputs": "tokens",
        "max_length": max_length,
        "token_types": types,
        "pad_token_id": 0 if pad is None else int(pad),
        "pad_token_type_id": int(getattr(tokenizer, "pad_token_type_id", 0) or 0),
        "summary": summary_of(spec, sources, rows, max_length=max_length, tokenizer_name=tokenizer_name),
    }

    def write(folder: Path) -> None:
        for part, examples in rows.reading.parts.items():
            save_part(folder, part, rows.encoded[part], examples.texts, rows.labels[part], types=types)
        save_tokenizer(tokenizer, folder / TOKENIZER)
        write_meta(folder, meta)

    write_whole(directory, write)
    written = PreparedData.open(directory)
    check_key(written, key)  # another process may have been faster, with other settings
    return written


_ROWS: dict[str, Callable[[Sources, Encoding], TaskRows]] = {
    "text-to-text": target_rows,
    "token-classification": tag_rows,
    "language-modelling": language_rows,
}
"""How the rows of a task are made; of all others by :func:`sherl.data.rows.text_rows`."""


def _limits(backbone_source: str) -> tuple[str, int | None]:
    """The backbone's kind, and the longest input that its positions allow; None where nothing bounds it."""
    with torch.device("meta"):
        backbone = backbone_from_config(load_config(backbone_source))
    return backbone.layout.kind, backbone.max_tokens
