"""Where labelled images come from: folders of class folders, tables with a column of paths, arrays, IDX files, digits.

A folder holds a folder for each class, or ``train``, ``valid`` and ``test`` of such folders, or the four IDX files of
MNIST. An npz file holds ``images`` and ``labels``.
"""

from __future__ import annotations

import gzip
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sherl.data.columns import LABEL_NAMES
from sherl.data.files import FORMATS, file_format, read_file
from sherl.data.hub import is_hub_id, read_hub
from sherl.data.pictures import Picture
from sherl.data.problems import Problems, listing, shorten
from sherl.data.settings import DataSpec
from sherl.data.table import Table
from sherl.errors import DataError

DIGITS = "digits"
"""scikit-learn's 1,797 handwritten digits of 8 x 8 pixels."""

EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".pgm", ".tif", ".tiff", ".webp")
IMAGE_NAMES = ("image", "path", "file", "file_name", "filename", "image_path", "filepath", "img")
PART_FOLDERS = {"train": ("train", "training"), "valid": ("valid", "validation", "val", "dev"), "test": ("test",)}
_IDX_PARTS = {"train": "train", "test": "t10k"}


@dataclass(frozen=True)
class ImageTable:
    """Images of one part: what each is called in messages, the picture itself, and its label's cell."""

    source: str
    names: list[str]
    pictures: Sequence[Picture]
    labels: list[Any]
    notes: tuple[str, ...] = ()


def wants_images(spec: DataSpec) -> bool:
    """Whether the settings are about images."""
    if spec.task != "auto":
        return spec.task == "image-classification"
    if spec.train is None:  # the packaged texts
        return spec.image is not None
    path = Path(spec.train).expanduser()
    return spec.image is not None or spec.train == DIGITS or path.is_dir() or path.suffix == ".npz" or _is_idx(path)


def read_images(spec: DataSpec) -> dict[str, ImageTable]:
    """The images of every part that the settings name, or that the training source brings along.

    Raises:
        DataError: a source cannot be found or read, or its layout is not one that is known.
    """
    if spec.train is None:
        raise DataError("Image classification needs a source of images: give --train FOLDER (or digits).")
    tables = _read(spec.train, "train", spec)
    for part in ("valid", "test"):
        named = getattr(spec, part)
        if named is not None:
            tables |= {part: _read(named, part, spec)[part]}
    return tables


def _read(source: str, part: str, spec: DataSpec) -> dict[str, ImageTable]:
    path = Path(source).expanduser()
    if source == DIGITS and not path.exists():
        return {part: _digits()}
    if path.is_dir():
        return _folder(path, part)
    if not path.exists():
        if is_hub_id(source) and file_format(path) is None and not source.startswith((".", "~")):
            return {name: _of_table(table, None, spec) for name, table in read_hub(source, part).items()}
        raise DataError(f"{source}: there is no such file or folder (the working folder is {Path.cwd()}).")
    if _is_idx(path):
        return {part: _idx_pair(path)}
    if path.suffix == ".npz":
        return {part: _npz(path)}
    if file_format(path) is not None:
        return {part: _of_table(read_file(path), path.parent, spec)}
    known = ", ".join(f".{name}" for name in FORMATS)
    raise DataError(
        f"{source} is no source of images. Known are a folder, .npz, IDX files, {DIGITS!r}, a hub id, and tables with a column "
        f"of paths ({known})."
    )


def _folder(folder: Path, part: str) -> dict[str, ImageTable]:
    idx = {name: found for name, prefix in _IDX_PARTS.items() if (found := _idx_file(folder, prefix)) is not None}
    if idx:
        if part not in idx and part != "train":
            raise DataError(f"{folder} holds IDX files, but none for {part}.")
        return {name: _idx_pair(path) for name, path in idx.items() if part in ("train", name)}
    inner = {entry.name.lower(): entry for entry in sorted(folder.iterdir()) if entry.is_dir()}
    parts = {
        name: next(inner[known] for known in names if known in inner)
        for name, names in PART_FOLDERS.items()
        if any(known in inner for known in names)
    }
    if "train" not in parts:
        return {part: _classes(folder)}
    if part != "train":
        return {part: _classes(parts.get(part, parts["train"]))}
    return {name: _classes(path) for name, path in parts.items()}


def _classes(folder: Path) -> ImageTable:
    problems = Problems(str(folder))
    names: list[str] = []
    pictures: list[Path] = []
    labels: list[str] = []
    passed: list[str] = []
    for own in sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")):
        files = [file for file in sorted(own.rglob("*")) if file.is_file() and not file.name.startswith(".")]
        images = [file for file in files if file.suffix.lower() in EXTENSIONS]
        passed += [str(file.relative_to(folder)) for file in files if file.suffix.lower() not in EXTENSIONS]
        if not images:
            problems.add(f"{own} holds no image ({', '.join(EXTENSIONS)})")
        names += [f"{folder.name}/{file.relative_to(folder).as_posix()}" for file in images]
        pictures += images
        labels += [own.name] * len(images)
    if not names:
        problems.add(
            f"{folder} holds no folder of images; a folder for each class is needed, or train/, valid/ and test/"
        )
    problems.raise_any()
    notes = (f"{len(passed)} files of {folder} are no images by their names: {listing(passed, 5)}",) if passed else ()
    return ImageTable(str(folder), names, pictures, labels, notes)


def _of_table(table: Table, folder: Path | None, spec: DataSpec) -> ImageTable:
    """Cells are paths (relative to the table's folder), or what parquet files and the hub hold: bytes, or images."""
    image = spec.image or _column(table, IMAGE_NAMES, "image", "--image")
    label = spec.label or _column(table, tuple(name for tier in LABEL_NAMES for name in tier), "label", "--label")
    problems = Problems(table.source)
    for option, name in (("--image", image), ("--label", label)):
        if name not in table.columns:
            problems.add(
                f"{table.source}: {option} names the column {name!r}; it has the columns {listing(table.columns)}"
            )
    problems.raise_any()
    pictures: list[Picture] = []
    for row, cell in enumerate(table.columns[image]):
        if isinstance(cell, dict) and isinstance(cell.get("bytes"), bytes):
            pictures.append(cell["bytes"])
        elif isinstance(cell, str) and cell.strip() and folder is not None:
            pictures.append(folder / Path(cell.strip()).expanduser())
        elif isinstance(cell, bytes | np.ndarray) or hasattr(cell, "convert"):
            pictures.append(cell)
        else:
            pictures.append(None)
            problems.add_cell(table.place(row), image, cell, "the path of an image, or its bytes, is needed")
    problems.raise_any()
    names = [
        cell if isinstance(cell, str) else f"{table.source} row {row + 1}"
        for row, cell in enumerate(table.columns[image])
    ]
    return ImageTable(table.source, names, pictures, table.columns[label])


def _column(table: Table, names: Sequence[str], what: str, option: str) -> str:
    free = {name.strip().lower(): name for name in table.columns}
    found = [free[name] for name in names if name in free]
    if len(found) == 1:
        return found[0]
    told = (
        f"may be in any of {listing(found)}"
        if found
        else f"is in no column with an obvious name; it has {listing(table.columns)}"
    )
    raise DataError(f"{table.source}: the {what} {told}; say which with {option}.")


def _digits() -> ImageTable:
    from sklearn.datasets import load_digits

    loaded = load_digits()
    images = np.rint(loaded.images * (255 / 16)).astype(np.uint8)
    return _of_arrays(DIGITS, images, loaded.target)


def _npz(path: Path) -> ImageTable:
    try:
        with np.load(path, allow_pickle=False) as stored:
            missing = [name for name in ("images", "labels") if name not in stored]
            if missing:
                raise DataError(f"{path}: the arrays {missing} are missing; it has {listing(stored.files)}.")
            return _of_arrays(path.name, stored["images"], stored["labels"])
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} is no readable npz file of plain arrays ({error}).") from error


def _of_arrays(source: str, images: NDArray[Any], labels: NDArray[Any]) -> ImageTable:
    if images.ndim not in (3, 4) or labels.ndim != 1 or len(images) != len(labels):
        raise DataError(
            f"{source}: images of shape {list(images.shape)} and labels of shape {list(labels.shape)} were given; [rows, height, "
            "width], [rows, height, width, channels] or [rows, 3, height, width] and [rows] are needed."
        )
    if not len(images):
        raise DataError(f"{source}: there is no image in it.")
    return ImageTable(source, [f"{source} row {row + 1}" for row in range(len(images))], list(images), labels.tolist())


def _is_idx(path: Path) -> bool:
    return "ubyte" in path.name and "idx3" in path.name


def _idx_file(folder: Path, prefix: str) -> Path | None:
    names = [f"{prefix}-images{mark}idx3-ubyte{end}" for mark in ("-", ".") for end in ("", ".gz")]
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _idx_pair(path: Path) -> ImageTable:
    beside = path.name.replace("images", "labels").replace("idx3", "idx1")
    found = [path.with_name(name) for name in (beside, beside.removesuffix(".gz"), beside + ".gz")]
    labels = next((file for file in found if file.is_file() and file != path), None)
    if labels is None:
        raise DataError(f"{path}: its labels are missing; {found[0].name} is needed beside it.")
    return _of_arrays(path.name, _idx(path, 3), _idx(labels, 1))


def _idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """An array of unsigned bytes: two zeros, 8, the number of dimensions, their sizes as big-endian int32, the values."""
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error}).") from error
    begin = 4 + 4 * dimensions
    if content[:4] != bytes([0, 0, 8, dimensions]) or len(content) < begin:
        raise DataError(
            f"{path} is no IDX file of unsigned bytes in {dimensions} dimension(s): it begins {shorten(content[:4])}."
        )
    shape = np.frombuffer(content, dtype=">i4", count=dimensions, offset=4).tolist()
    if len(content) - begin != int(np.prod(shape)):
        raise DataError(
            f"{path}: {len(content) - begin} bytes of values were read, {shape} needs {int(np.prod(shape))}."
        )
    return np.frombuffer(content, dtype=np.uint8, offset=begin).reshape(shape)
