"""Pictures made in code, and folders of them."""

from __future__ import annotations

import gzip
import json
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sherl.data.image_settings import ImageSettings

PLAIN = ImageSettings((8, 8), (0.5, 0.4, 0.3), (0.5, 0.25, 0.2))


def picture(number: int, *, height: int = 12, width: int = 10) -> NDArray[np.uint8]:
    """An RGB picture of its own for each number."""
    return np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)


def write_folder(folder: Path, classes: dict[str, int], *, first: int = 0) -> Path:
    """A folder for each class with so many png files."""
    number = first
    for name, count in classes.items():
        (folder / name).mkdir(parents=True)
        for _ in range(count):
            Image.fromarray(picture(number)).save(folder / name / f"{number}.png")
            number += 1
    return folder


def write_idx(path: Path, values: NDArray[np.uint8]) -> Path:
    """An IDX file of unsigned bytes; gzipped where the name says so."""
    head = struct.pack(f">BBBB{values.ndim}i", 0, 0, 8, values.ndim, *values.shape)
    content = head + values.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def backbone_folder(folder: Path, config: dict[str, object], preprocessor: dict[str, object] | None) -> str:
    """What image settings are read from: a folder with a configuration and perhaps a preprocessor's."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    if preprocessor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor), encoding="utf-8")
    return str(folder)
