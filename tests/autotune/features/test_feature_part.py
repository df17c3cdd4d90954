"""A part whose batches bring features along is otherwise the part it wraps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from autotune.features.layout import Layout
from autotune.features.part import FeaturePart
from autotune.features.store import FeatureStore
from sherl.data import EncodedPart
from sherl.data.image_part import ImagePart
from sherl.data.part import Batch, Part
from sherl.errors import SpecError
from sherl.forms import TensorForm, enlarged, form_of, hollowed, widest, with_rows
from tests.autotune.features.samples import KEY, build, padded, row_values

LENGTHS = [3, 1, 5, 2, 5, 4, 1]


class Rows(Part):
    """Token ids that are their own row and column; targets of other lengths."""

    def __init__(self, lengths: Sequence[int], name: str = "train") -> None:
        self.name = name
        self.lengths: NDArray[np.int64] = np.array(lengths, dtype=np.int64)
        self.labels = torch.arange(len(lengths))
        self.texts = [f"row {number}" for number in range(len(lengths))]
        self.longest_label = 7
        self.has_token_types = False

    def batch(self, rows: Any) -> Batch:
        lengths = torch.from_numpy(self.lengths[np.asarray(rows)])
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        ids = torch.as_tensor(np.asarray(rows))[:, None] * 10 + torch.arange(mask.shape[1])
        return {"input_ids": ids * mask, "attention_mask": mask.long(), "labels": self.labels[np.asarray(rows)]}


LAYOUTS = {
    ("encoder", 2): Layout.tokens(LENGTHS, 3, torch.float32),
    ("decoder", 0): Layout.tokens([1, 6, 1, 1, 2, 1, 1], 2, torch.bfloat16),
    ("decoder", 1): Layout.fixed(7, (1, 2), torch.float32),
}


@pytest.fixture
def part(tmp_path: Path) -> FeaturePart:
    store = FeatureStore.open(tmp_path, KEY)
    build(store, LAYOUTS)
    reader = store.reader("train", LAYOUTS)
    assert reader is not None
    return FeaturePart(Rows(LENGTHS), reader)


def _features(rows: Sequence[int]) -> Batch:
    made = {}
    for (stack, n), layout in LAYOUTS.items():
        values = row_values(layout, seed=n)
        made[f"features.{stack}.{n}"] = padded([values[row] for row in rows], layout)
    return made


def _same(one: Batch, other: Batch) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


@pytest.mark.parametrize("rows", [[0], [2, 4, 0], [6, 6, 1], list(range(7))])
def test_a_batch_is_the_other_parts_and_features(part: FeaturePart, rows: list[int]) -> None:
    assert _same(part.batch(rows), {**Rows(LENGTHS).batch(rows), **_features(rows)})
    assert _same(part.batch(np.array(rows)), part.batch(rows))


@pytest.mark.parametrize("ahead", [False, True])
def test_epochs_and_evaluation_go_as_the_other_parts_do(part: FeaturePart, ahead: bool) -> None:
    plain, part = Rows(LENGTHS), FeaturePart(part._part, part._reader, ahead=ahead)
    for seed, epoch in ((None, 0), (3, 0), (3, 1)):
        wanted = list(plain.batches(2, seed=seed, epoch=epoch))
        made = list(part.batches(2, seed=seed, epoch=epoch))
        assert len(made) == len(wanted) == part.num_batches(2) == 4
        for one, other in zip(made, wanted, strict=True):
            assert _same(one, {**other, **_features(other["labels"].tolist())})
    for (one, index), (other, wanted_index) in zip(part.eval_batches(3), plain.eval_batches(3), strict=True):
        assert torch.equal(index, wanted_index)
        assert _same(one, {**other, **_features(index.tolist())})


def test_everything_else_is_the_other_parts(part: FeaturePart) -> None:
    plain = Rows(LENGTHS)
    assert (part.name, part.texts, part.longest_label, part.has_token_types) == ("train", plain.texts, 7, False)
    assert len(part) == 7
    assert torch.equal(part.labels, plain.labels)
    assert np.array_equal(part.order, plain.order)
    with pytest.raises(AttributeError, match="pixels"):
        part.pixels  # noqa: B018 - asking is the test
    for ask in (part.batches, lambda size, seed: part.eval_batches(size), lambda size, seed: part.largest_batch(size)):
        with pytest.raises(SpecError, match="at least 1"):
            ask(0, seed=None)  # at once, not at the first batch


@pytest.mark.parametrize("size", [1, 3, 7, 50])
def test_no_batch_exceeds_the_largest(part: FeaturePart, size: int) -> None:
    largest, form = part.largest_batch(size), part.largest_form(size)
    assert form == form_of(largest)
    batches = [*part.batches(size, seed=1), *(batch for batch, _ in part.eval_batches(size))]
    for batch in batches:
        assert widest(form, form_of(batch)) == form
    # the longest rows of the decoder stand elsewhere than those of the encoder
    assert form["features.decoder.0"].shape == (min(size, 7), 6, 2)
    assert form["features.encoder.2"].shape == (min(size, 7), 5, 3)
    assert form["features.encoder.2"].shape[1] == form["input_ids"].shape[1]
    assert form["features.decoder.0"].dtype == "bfloat16"


def test_forms_of_features_grow_as_the_others_do(part: FeaturePart) -> None:
    form = widest(part.largest_form(3), {**part.largest_form(3), "input_ids": part.largest_form(3)["input_ids"]})
    more = with_rows(form, 9)
    assert more["features.encoder.2"].shape == (9, 5, 3)
    batch = part.batch([1, 6])
    made = enlarged(batch, more)
    assert form_of(made) == more
    assert torch.equal(made["features.encoder.2"][8, :1], batch["features.encoder.2"][0])
    assert not made["features.encoder.2"][:, 1:].any()
    assert not made["attention_mask"][:, 1:].any()


def test_features_of_other_rows_are_refused(part: FeaturePart) -> None:
    with pytest.raises(ValueError, match="are of 7 rows, part 'valid' has 2: build them anew"):
        FeaturePart(Rows([1, 2], "valid"), part._reader)


def test_targets_of_prepared_texts_stay_padded_to_the_longest(tmp_path: Path) -> None:
    """Text-to-text: the longest target and the longest row of the decoder are another row's than the longest text."""
    ids = {"input_ids": torch.arange(1, 10, dtype=torch.int32), "offsets": torch.tensor([0, 2, 7, 9])}
    targets = {"labels": torch.arange(1, 8), "label_offsets": torch.tensor([0, 4, 5, 7])}
    save_file({**ids, **targets}, tmp_path / "train.safetensors")
    inner = EncodedPart(tmp_path / "train.safetensors", tmp_path / "none.jsonl", name="train", pad_token_id=0)
    layouts = {
        ("encoder", 1): Layout.tokens(inner.lengths, 3, torch.float32),
        ("decoder", 1): Layout.tokens([4, 1, 2], 3, torch.float32),
    }
    store = FeatureStore.open(tmp_path / "store", KEY)
    build(store, layouts)
    reader = store.reader("train", layouts)
    assert reader is not None
    part = FeaturePart(inner, reader)
    assert part.longest_label == 4
    form = part.largest_form(2)
    assert form["labels"].shape == form["features.decoder.1"].shape[:2] == (2, 4)
    assert form["input_ids"].shape == form["features.encoder.1"].shape[:2] == (2, 5)
    for batch in part.batches(2, seed=0):
        assert batch["features.decoder.1"].shape[:2] == batch["labels"].shape
        assert widest(form, form_of(batch)) == form


def test_no_image_is_read_whose_hidden_states_are(tmp_path: Path) -> None:
    """Only their shape is looked at; whatever hands images out is never asked for their values."""
    pixels = np.arange(5 * 3 * 4 * 4, dtype=np.uint8).reshape(5, 3, 4, 4)
    np.save(tmp_path / "train.npy", pixels)
    save_file({"labels": torch.arange(5)}, tmp_path / "train.safetensors")
    images = ImagePart(tmp_path, name="train", mean=[0.5] * 3, std=[0.5] * 3)
    place, layout = ("blocks", 2), Layout.fixed(5, (3, 2), torch.float32)
    store = FeatureStore.open(tmp_path / "store", KEY)
    build(store, {place: layout})
    reader = store.reader("train", [place])
    assert reader is not None
    part, whole = FeaturePart(images, reader), images.batch([3, 0])
    images.pixels = _Unreadable(pixels.shape)
    made = part.batch([3, 0])
    assert form_of(made) == {
        **hollowed(form_of(whole), {"pixel_values"}),
        "features.blocks.2": TensorForm((2, 3, 2), "float32"),
    }
    assert torch.equal(made["labels"], whole["labels"])
    assert len(list(part.batches(2, seed=0))) == 3
    images.pixels = pixels
    assert form_of(part.largest_batch(2)) == form_of(made)


def test_a_part_of_ones_own_brings_no_values_of_images_either(tmp_path: Path) -> None:
    """What was predicted, and rehearsed, has them hollow; so must be what comes."""

    class Own(Part):
        name, labels, lengths = "train", torch.arange(5), np.ones(5, dtype=np.int64)

        def batch(self, rows: Any) -> Batch:
            return {"pixel_values": torch.rand(len(rows), 3, 4, 4), "labels": self.labels[np.asarray(rows)]}

    place = ("blocks", 2)
    store = FeatureStore.open(tmp_path / "store", KEY)
    build(store, {place: Layout.fixed(5, (3, 2), torch.float32)})
    reader = store.reader("train", [place])
    assert reader is not None
    part = FeaturePart(Own(), reader)
    assert form_of(part.batch([3, 0])) == form_of(part.largest_batch(2))
    assert form_of(part.batch([3, 0]))["pixel_values"] == TensorForm((2, 3, 4, 4), "float32", hollow=True)


class _Unreadable:
    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape

    def __getitem__(self, index: Any) -> Any:
        raise AssertionError(f"images {index} are read")
