"""A tokenizer's files, kept where the backbone's folder may not be at hand later."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TOKENIZER = "tokenizer"
"""The folder of these files in a folder of prepared data."""


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Write a tokenizer as ``save_pretrained`` does, without where it lay on this machine and how it was last called.

    Raises:
        OSError: the folder cannot be written.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:  # every call sets both anew
        backend.no_truncation()
        backend.no_padding()
    tokenizer.save_pretrained(folder)
    config = folder / "tokenizer_config.json"
    if config.is_file():
        plain = json.loads(config.read_text(encoding="utf-8"))
        for key in ("name_or_path", "_name_or_path"):
            plain.pop(key, None)
        config.write_text(json.dumps(plain, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
