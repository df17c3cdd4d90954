"""Image classification data: every source, splits by content, batches, and a small model that learns from them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from sherl.data import DataSpec, ImagePart, ImageSettings, PreparedData, prepare, prepare_images
from sherl.data.image_sources import wants_images
from sherl.errors import DataError, SpecError
from tests.sherl.data_samples import write_csv
from tests.sherl.image_samples import PLAIN, backbone_folder, picture, write_folder, write_idx

SAME = ImageSettings((12, 10))
PARTS = ("train", "valid", "test")


def make(source: Path | str, folder: Path, settings: ImageSettings = SAME, **options: Any) -> PreparedData:
    return prepare_images(DataSpec(train=str(source), **options), settings, directory=folder)


def rows_of(data: PreparedData) -> dict[bytes, str]:
    """Class by pixels, over all parts."""
    made = {}
    for name in PARTS:
        part = data.part(name)
        assert isinstance(part, ImagePart)
        for pixels, label in zip(part.pixels, part.labels.tolist(), strict=True):
            made[pixels.tobytes()] = data.task.class_names[label]
    return made


def as_stored(number: int) -> bytes:
    return np.ascontiguousarray(picture(number).transpose(2, 0, 1)).tobytes()


def test_a_folder_of_class_folders(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "pets", {"cat": 20, "dog": 30})
    (folder / "cat" / "notes.txt").write_text("x", encoding="utf-8")
    (folder / "cat" / ".DS_Store").write_bytes(b"x")
    data = make(folder, tmp_path / "p")
    assert data.task.class_names == ("cat", "dog")
    assert (data.task.kind, data.task.metric, data.task.image_size) == ("classification", "accuracy", (12, 10))
    assert rows_of(data) == {as_stored(n): "cat" if n < 20 else "dog" for n in range(50)}
    assert sum(data.summary["rows"].values()) == 50
    assert data.summary["classes"]["train"]["cat"] == pytest.approx(14, abs=2)
    assert any("1 files" in note and "cat/notes.txt" in note for note in data.summary["notes"])
    part = data.part("valid")
    assert all(str(name).startswith("pets/") and name.endswith(".png") for name in part.texts)
    assert not data.has_token_types
    assert data.max_length is None


def test_batches_are_normalised_and_every_row_comes_once(tmp_path: Path) -> None:
    data = make(write_folder(tmp_path / "pets", {"cat": 20, "dog": 30}), tmp_path / "p", PLAIN)
    part = data.part("train")
    assert isinstance(part, ImagePart)
    assert isinstance(part.pixels, np.memmap)
    values = part.pixels.astype(np.float64) / 255
    mean, std = (np.reshape(channels, (3, 1, 1)) for channels in (PLAIN.mean, PLAIN.std))
    expected = torch.from_numpy((values - mean) / std).float()
    seen = []
    for batch, rows in part.eval_batches(8):
        assert batch["pixel_values"].dtype == torch.float32
        torch.testing.assert_close(batch["pixel_values"], expected[rows], atol=1e-5, rtol=0)
        assert torch.equal(batch["labels"], part.labels[rows])
        seen += rows.tolist()
    assert sorted(seen) == list(range(len(part)))
    assert part.largest_form(8)["pixel_values"].shape == (8, 3, 8, 8)
    assert part.largest_form(1000)["pixel_values"].shape == (len(part), 3, 8, 8)
    assert part.largest_batch(4)["pixel_values"].shape == (4, 3, 8, 8)
    orders = [
        torch.cat([batch["labels"] for batch in part.batches(7, seed=s, epoch=e)]).tolist()
        for s, e in [(0, 0), (0, 0), (0, 1), (1, 0)]
    ]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]
    assert orders[0] != orders[3]
    assert len(list(part.batches(7, seed=0))) == part.num_batches(7)
    with pytest.raises(SpecError, match="batch_size"):
        part.batches(0, seed=0)


def test_parts_that_have_folders_stay_as_they_are(tmp_path: Path) -> None:
    for n, part in enumerate(("train", "val", "test")):
        write_folder(tmp_path / "pets" / part, {"cat": 4, "dog": 4}, first=100 * n)
    data = make(tmp_path / "pets", tmp_path / "p")
    assert data.summary["rows"] == {"train": 8, "valid": 8, "test": 8}
    other = make(tmp_path / "pets" / "train", tmp_path / "q", test=str(tmp_path / "pets" / "test"))
    assert other.summary["rows"]["test"] == 8


def test_equal_images_stay_in_one_part(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "pets", {"cat": 15, "dog": 15})
    for file in sorted(folder.rglob("*.png")):
        shutil.copy(file, file.with_name("copy-" + file.name))
    data = make(folder, tmp_path / "p")
    names = {part: {str(name).replace("copy-", "") for name in data.part(part).texts} for part in PARTS}
    assert sum(len(data.part(part)) for part in PARTS) == 60
    assert not names["train"] & names["valid"]
    assert not names["train"] & names["test"]
    assert any("30 rows of train as read repeat" in note for note in data.summary["notes"])


def test_a_table_with_paths_or_bytes(tmp_path: Path) -> None:
    write_folder(tmp_path / "all", {"x": 20})
    labels = ["cat" if n % 2 else "dog" for n in range(20)]
    write_csv(tmp_path / "t.csv", [(f"all/x/{n}.png", labels[n]) for n in range(20)], ("path", "label"))
    expected = {as_stored(n): labels[n] for n in range(20)}
    data = make(tmp_path / "t.csv", tmp_path / "p", task="image-classification")
    assert rows_of(data) == expected
    assert data.part("train").texts[0] in {f"all/x/{n}.png" for n in range(20)}
    rows = [
        {"picture": {"bytes": (tmp_path / f"all/x/{n}.png").read_bytes(), "path": None}, "kind": labels[n]}
        for n in range(20)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    assert rows_of(make(tmp_path / "t.parquet", tmp_path / "q", image="picture", label="kind")) == expected


@pytest.mark.parametrize("channels_first", [False, True])
def test_arrays(tmp_path: Path, channels_first: bool) -> None:
    images = np.stack([picture(n) for n in range(20)])
    labels = np.arange(20) % 3
    np.savez(tmp_path / "a.npz", images=images.transpose(0, 3, 1, 2) if channels_first else images, labels=labels)
    data = make(tmp_path / "a.npz", tmp_path / "p")
    assert rows_of(data) == {as_stored(n): str(n % 3) for n in range(20)}
    assert data.part("train").texts[0].startswith("a.npz row ")


@pytest.mark.parametrize("end", ["", ".gz"])
def test_idx_files_as_mnist_has_them(tmp_path: Path, end: str) -> None:
    images = np.stack([picture(n)[:, :, 0] for n in range(40)])
    labels = (np.arange(40) % 10).astype(np.uint8)
    for prefix, rows in (("train", slice(0, 30)), ("t10k", slice(30, 40))):
        write_idx(tmp_path / f"{prefix}-images-idx3-ubyte{end}", images[rows])
        write_idx(tmp_path / f"{prefix}-labels-idx1-ubyte{end}", labels[rows])
    whole = make(tmp_path, tmp_path / "out" / "p")
    assert whole.summary["rows"]["test"] == 10
    one = make(tmp_path / f"train-images-idx3-ubyte{end}", tmp_path / "out" / "q", valid_rows=4, test_rows=4)
    assert sum(one.summary["rows"].values()) == 30
    grey = {np.repeat(image[None], 3, axis=0).tobytes(): str(n % 10) for n, image in enumerate(images)}
    assert rows_of(whole) == grey


def test_digits_as_they_come(tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    data = make("digits", tmp_path / "p", ImageSettings((8, 8)), train_rows=100, valid_rows=50, test_rows=50)
    assert data.summary["rows"] == {"train": 100, "valid": 50, "test": 50}
    assert data.task.class_names == tuple(map(str, range(10)))
    loaded = load_digits()
    part = data.part("train")
    assert isinstance(part, ImagePart)
    for name, pixels, label in zip(part.texts, part.pixels, part.labels.tolist(), strict=True):
        row = int(name.rpartition(" ")[2]) - 1
        assert label == loaded.target[row]
        assert np.abs(pixels[0] * (16 / 255) - loaded.images[row]).max() < 0.04


def test_all_bad_images_are_named_at_once_and_nothing_is_left(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "pets", {"cat": 10, "dog": 10})
    (folder / "cat" / "3.png").write_bytes(b"no image")
    (folder / "dog" / "12.png").write_bytes((folder / "dog" / "13.png").read_bytes()[:-60])
    (folder / "dog" / "14.png").write_bytes(b"")
    with pytest.raises(DataError) as caught:
        make(folder, tmp_path / "out" / "p")
    assert len(caught.value.problems) == 3
    for name in ("pets/cat/3.png", "pets/dog/12.png", "pets/dog/14.png"):
        assert name in str(caught.value)
    assert list((tmp_path / "out").iterdir()) == []


def test_an_animation_is_told_of(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "pets", {"cat": 10, "dog": 10})
    frames = [Image.fromarray(picture(n)) for n in (500, 501)]
    frames[0].save(folder / "cat" / "moves.gif", save_all=True, append_images=frames[1:])
    assert "of 1 animated image(s) the first frame is taken" in make(folder, tmp_path / "p").summary["notes"]


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        ({}, "holds no folder of images"),
        ({"cat/a.txt": b"x", "dog/a.png": b"x"}, "cat holds no image"),
        ({"train-images-idx3-ubyte": b"\0\0\x08\x03"}, "its labels are missing; train-labels-idx1-ubyte"),
        ({"train-images-idx3-ubyte": b"\1", "train-labels-idx1-ubyte": b"\0"}, "is no IDX file of unsigned bytes"),
    ],
)
def test_layouts_that_are_not_known(tmp_path: Path, layout: dict[str, bytes], expected: str) -> None:
    (tmp_path / "in").mkdir()
    for name, content in layout.items():
        (tmp_path / "in" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_bytes(content)
    with pytest.raises(DataError, match=expected):
        make(tmp_path / "in", tmp_path / "p")


def test_missing_paths_and_columns_are_named(tmp_path: Path) -> None:
    write_csv(tmp_path / "t.csv", [("a.png", "x"), ("b.png", "y")], ("path", "label"))
    with pytest.raises(DataError) as caught:
        make(tmp_path / "t.csv", tmp_path / "p", image="path")
    assert "a.png: it cannot be read" in str(caught.value)
    assert "b.png: it cannot be read" in str(caught.value)
    with pytest.raises(DataError, match="--image names the column 'img'; it has the columns 'path', 'label'"):
        make(tmp_path / "t.csv", tmp_path / "p", image="img")
    np.savez(tmp_path / "a.npz", pictures=np.zeros(3))
    with pytest.raises(DataError, match=r"\['images', 'labels'\] are missing"):
        make(tmp_path / "a.npz", tmp_path / "p")
    np.savez(tmp_path / "b.npz", images=np.zeros((3, 4, 4)), labels=np.zeros(2))
    with pytest.raises(DataError, match=r"shape \[3, 4, 4\] and labels of shape \[2\]"):
        make(tmp_path / "b.npz", tmp_path / "p")


def test_prepared_images_are_reused_and_other_settings_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "pets", {"cat": 10, "dog": 10})
    first = make(folder, tmp_path / "p")
    before = {file.name: file.read_bytes() for file in first.directory.iterdir()}
    make(folder, tmp_path / "p")
    assert {file.name: file.read_bytes() for file in first.directory.iterdir()} == before
    make(folder, tmp_path / "again")
    assert {file.name: file.read_bytes() for file in (tmp_path / "again").iterdir()} == before
    with pytest.raises(DataError, match=r"images differ\(s\) now"):
        make(folder, tmp_path / "p", ImageSettings((9, 9)))
    (tmp_path / "p" / "train.npy").write_bytes(b"")
    with pytest.raises(DataError, match="damaged"):
        PreparedData.open(tmp_path / "p")
    assert len(make(folder, tmp_path / "p").part("train")) == len(first.part("train"))


def test_prepare_takes_size_and_mean_of_the_backbone_and_a_small_model_learns(tmp_path: Path) -> None:
    preprocessor = {"size": {"height": 8, "width": 8}, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    source = backbone_folder(tmp_path / "model", {"model_type": "vit", "image_size": 224}, preprocessor)
    data = prepare(DataSpec(train="digits", train_rows=300), backbone_source=source, directory=tmp_path / "p")
    assert data.task.image_size == (8, 8)
    assert data.task.image_mean == (0.5, 0.5, 0.5)
    part, valid = data.part("train"), data.part("valid").largest_batch(200)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 10))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for epoch in range(10):
        for batch in part.batches(32, seed=0, epoch=epoch):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(batch["pixel_values"]), batch["labels"]).backward()
            optimizer.step()
    right = model(valid["pixel_values"]).argmax(-1) == valid["labels"]
    assert float(right.float().mean()) > 0.85
    larger = DataSpec(train="digits", train_rows=300, image_size=16)
    assert prepare(larger, backbone_source=source, directory=tmp_path / "q").task.image_size == (16, 16)


def test_no_source_at_all_means_the_packaged_texts() -> None:
    assert not wants_images(DataSpec())
    assert not wants_images(DataSpec(text="review"))
    assert wants_images(DataSpec(task="image-classification"))
