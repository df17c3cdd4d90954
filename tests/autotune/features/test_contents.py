"""A store is of the rows that the backbone reads, not of how they were said to be made."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from xxhash import xxh3_128_hexdigest

from autotune.features.contents import content_digest
from autotune.features.errand import Errand
from autotune.features.shared import store_key
from sherl.backbones import load_backbone
from sherl.data import PreparedData
from sherl.data.image_part import ImagePart


def _reversed_ids(tensors: dict[str, Tensor]) -> None:
    tensors["input_ids"] = tensors["input_ids"].flip(0)


def _other_border(tensors: dict[str, Tensor]) -> None:
    """A token of the first row is the second's."""
    tensors["offsets"][1] -= 1


def _other_labels(tensors: dict[str, Tensor]) -> None:
    tensors["labels"] = tensors["labels"].flip(0)


@pytest.mark.parametrize(
    ("harm", "differs"), [(None, False), (_reversed_ids, True), (_other_border, True), (_other_labels, False)]
)
def test_the_key_is_of_the_ids_and_not_of_their_labels(
    errand: Errand, tmp_path: Path, harm: Callable[[dict[str, Tensor]], None] | None, differs: bool
) -> None:
    backbone = load_backbone(errand.source)
    copied = tmp_path / "prepared"
    shutil.copytree(errand.prepared, copied)
    if harm is not None:
        path = copied / "valid.safetensors"
        tensors = load_file(path)
        before = {name: tensor.clone() for name, tensor in tensors.items()}
        harm(tensors)
        assert any(not torch.equal(tensor, before[name]) for name, tensor in tensors.items())
        save_file(tensors, path)
    plain, other = PreparedData.open(errand.prepared), PreparedData.open(copied)
    assert plain.key == other.key
    assert (store_key(backbone, "fp32", plain, "cpu") != store_key(backbone, "fp32", other, "cpu")) is differs


def _images(folder: Path, pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], mean: float = 0.5) -> ImagePart:
    folder.mkdir()
    save_file({"labels": torch.zeros(len(pixels), dtype=torch.int64)}, folder / "train.safetensors")
    np.save(folder / "train.npy", pixels)
    return ImagePart(folder, name="train", mean=[mean] * 3, std=[0.5] * 3)


def test_every_pixel_counts_and_how_they_are_normalised(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (700, 3, 4, 4), dtype=np.uint8)
    digest = content_digest(_images(tmp_path / "one", pixels))
    assert content_digest(_images(tmp_path / "same", pixels)) == digest
    assert content_digest(_images(tmp_path / "mean", pixels, mean=0.25)) != digest
    pixels[-1, -1, -1, -1] ^= 1
    assert content_digest(_images(tmp_path / "pixel", pixels)) != digest


def test_a_digest_is_the_same_everywhere(tmp_path: Path) -> None:
    """Of an image of ones and mean 0: 2 / 255 in all places, after the raw values."""
    part = _images(tmp_path / "known", np.ones((1, 3, 1, 1), np.uint8), mean=0.0)
    normalised = np.float32(1) * np.float32(2 / 255)
    expected = b"\1\1\1" + b"pixel_values torch.float32 [1, 3, 1, 1]" + 3 * normalised.astype("<f4").tobytes()
    assert content_digest(part) == xxh3_128_hexdigest(expected)
