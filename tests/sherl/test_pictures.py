"""Every kind of image file becomes RGB pixels of one size, or says why not."""

from __future__ import annotations

import builtins
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sherl.data.image_settings import CLIP, IMAGENET, ImageSettings, image_settings
from sherl.data.pictures import PictureError, digest, pixels
from sherl.errors import DataError, SpecError
from tests.sherl.image_samples import PLAIN, backbone_folder, picture

SAME = ImageSettings((12, 10))


def read(picture: Any, settings: ImageSettings = SAME) -> np.ndarray[Any, Any]:
    return pixels(picture, settings)[0].transpose(1, 2, 0)


def saved(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


@pytest.mark.parametrize("ending", ["png", "bmp", "tiff", "webp"])
def test_pixels_are_those_of_the_file(tmp_path: Path, ending: str) -> None:
    options = {"lossless": True} if ending == "webp" else {}
    path = saved(tmp_path / f"a.{ending}", Image.fromarray(picture(1)), **options)
    for source in (path, path.read_bytes(), Image.open(path), picture(1), picture(1).transpose(2, 0, 1)):
        assert np.array_equal(read(source), picture(1))


def test_greys_palettes_and_alpha(tmp_path: Path) -> None:
    grey = picture(2)[:, :, 0]
    three = np.repeat(grey[:, :, None], 3, axis=2)
    assert np.array_equal(read(saved(tmp_path / "l.png", Image.fromarray(grey))), three)
    assert np.array_equal(read(grey), three)
    deep = (grey.astype(np.uint16) * 257).astype(np.uint16)
    assert np.array_equal(read(saved(tmp_path / "i16.png", Image.fromarray(deep))), three)
    assert np.array_equal(read(saved(tmp_path / "i16.tiff", Image.fromarray(deep))), three)
    assert np.array_equal(read(deep), three)
    few = Image.fromarray(picture(3)).quantize(16)
    assert np.array_equal(read(saved(tmp_path / "p.png", few)), np.asarray(few.convert("RGB")))
    alpha = np.dstack([picture(4), np.where(np.arange(10) < 5, 255, 0)[None].repeat(12, 0)]).astype(np.uint8)
    for source in (saved(tmp_path / "a.png", Image.fromarray(alpha)), alpha):
        made = read(source)
        assert np.array_equal(made[:, :5], picture(4)[:, :5])
        assert (made[:, 5:] == 255).all()  # what is transparent lies on white
    hidden = saved(tmp_path / "t.png", few, transparency=int(np.asarray(few)[0, 0]))
    assert (read(hidden)[0, 0] == 255).all()
    cmyk = saved(tmp_path / "c.jpg", Image.fromarray(picture(5)).convert("CMYK"), quality=100)
    assert np.abs(read(cmyk).astype(int) - Image.open(cmyk).convert("RGB")).max() == 0
    assert np.array_equal(read(three / np.float32(255)), three)


def test_orientation_is_applied_and_of_an_animation_the_first_frame_is_taken(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by a quarter
    turned = saved(tmp_path / "e.png", Image.fromarray(picture(6)), exif=exif)
    expected = np.rot90(picture(6), k=-1)
    assert np.array_equal(read(turned, ImageSettings((10, 12))), expected)
    frames = [Image.fromarray(np.full((12, 10, 3), value, np.uint8)) for value in (0, 255)]
    path = saved(tmp_path / "g.gif", frames[0], save_all=True, append_images=frames[1:])
    made, count = pixels(path, SAME)
    assert (count, made.max()) == (2, 0)


@pytest.mark.parametrize(("height", "width"), [(40, 20), (20, 40), (5, 9), (8, 8), (9, 8)])
def test_the_middle_is_kept_and_nothing_is_distorted(height: int, width: int) -> None:
    # a grey disc in the middle of the shorter side stays one
    rows, columns = np.mgrid[:height, :width]
    centre = ((height - 1) / 2, (width - 1) / 2)
    radius = np.hypot(rows - centre[0], columns - centre[1]) / min(height, width)
    made = read(np.where(radius < 0.3, 200, 0).astype(np.uint8), ImageSettings((64, 64)))[:, :, 0]
    assert made.shape == (64, 64)
    if min(height, width) >= 20:
        marks = made > 100
        assert marks.any(axis=0).sum() == pytest.approx(0.6 * 64, abs=4)
        assert marks.any(axis=1).sum() == pytest.approx(0.6 * 64, abs=4)
    else:
        assert np.abs(made.astype(int) - made[::-1, ::-1]).max() <= 1  # symmetric, so the middle is in the middle


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "no image that Pillow knows"),
        (b"hello", "no image that Pillow knows"),
        ("cut", "damaged"),
        (np.zeros((0, 4, 3), np.uint8), "is no image"),
        (np.zeros((4, 4, 2), np.uint8), "is no image"),
        (np.full((4, 4), 7.0), "floats from 7 to 7"),
        (np.full((4, 4), np.nan), "floats"),
        (np.zeros((4, 4), np.int64), "type int64"),
        (Image.fromarray(np.zeros((4, 4), np.float32)), "floating-point"),
        (Image.fromarray(np.full((4, 4), 70000, np.int32)), "0 to 65535 are read"),
    ],
)
def test_what_is_no_picture_says_why(content: Any, expected: str) -> None:
    if isinstance(content, str):
        stream = io.BytesIO()
        Image.fromarray(picture(1, height=90, width=90)).save(stream, "png")
        content = stream.getvalue()[:-900]
    with pytest.raises(PictureError, match=expected):
        read(content)


def test_a_bomb_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "a.png", Image.fromarray(picture(1)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(PictureError, match="too large"):
        read(path)


def test_without_pillow_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "PIL":
            raise ModuleNotFoundError("No module named 'PIL'")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DataError, match=r"pip install 'memory-autotune\[images\]'"):
        read(picture(1))


def test_equal_content_has_an_equal_digest(tmp_path: Path) -> None:
    one = saved(tmp_path / "a.png", Image.fromarray(picture(1)))
    (tmp_path / "b.png").write_bytes(one.read_bytes())
    assert digest(one) == digest(tmp_path / "b.png") == digest(one.read_bytes())
    assert digest(picture(1)) != digest(picture(2))
    assert digest(np.zeros((2, 3), np.uint8)) != digest(np.zeros((3, 2), np.uint8))
    with pytest.raises(PictureError, match="cannot be read"):
        digest(tmp_path / "none.png")


# ---- what a backbone wants


@pytest.mark.parametrize(
    ("config", "preprocessor", "size", "mean"),
    [
        ({"model_type": "vit", "image_size": 32}, None, (32, 32), IMAGENET[0]),
        ({"model_type": "clip", "vision_config": {"image_size": 48}}, None, (48, 48), CLIP[0]),
        (
            {"model_type": "clip"},
            {"crop_size": {"height": 20, "width": 30}, "size": {"shortest_edge": 64}},
            (20, 30),
            CLIP[0],
        ),
        (
            {"model_type": "vit"},
            {"size": {"height": 20, "width": 30}, "image_mean": [0.5, 0.5, 0.5]},
            (20, 30),
            (0.5,) * 3,
        ),
        ({"model_type": "resnet"}, {"size": {"shortest_edge": 40}}, (40, 40), IMAGENET[0]),
        ({"model_type": "dinov2"}, {"size": 24, "crop_size": 16, "do_center_crop": False}, (24, 24), IMAGENET[0]),
        ({"model_type": "vit"}, {"size": 24, "do_normalize": False}, (24, 24), (0.0, 0.0, 0.0)),
        ({"model_type": "resnet"}, None, (224, 224), IMAGENET[0]),
    ],
)
def test_settings_come_from_the_backbone(
    tmp_path: Path, config: dict[str, Any], preprocessor: dict[str, Any] | None, size: tuple[int, int], mean: Any
) -> None:
    source = backbone_folder(tmp_path / "model", config, preprocessor)
    settings = image_settings(source, None)
    assert (settings.size, settings.mean) == (size, mean)
    assert image_settings(source, 96).size == (96, 96)
    assert any("preprocessor_config.json" in note for note in settings.notes) == (preprocessor is None)


def test_damaged_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="image_mean must be three numbers"):
        image_settings(backbone_folder(tmp_path / "a", {}, {"image_mean": [1, 2]}), None)
    with pytest.raises(DataError, match="image_std must be above 0"):
        image_settings(backbone_folder(tmp_path / "b", {}, {"image_std": 0}), None)
    folder = backbone_folder(tmp_path / "c", {}, None)
    (tmp_path / "c" / "preprocessor_config.json").write_text("[", encoding="utf-8")
    with pytest.raises(SpecError, match="cannot be read"):
        image_settings(folder, None)
    assert PLAIN.size == (8, 8)


def test_what_the_system_does_not_open_is_not_called_damaged(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="cannot be read: No such file"):
        pixels(tmp_path / "none.png", PLAIN)
