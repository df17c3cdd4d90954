"""From a file, bytes or an array to RGB pixels of one size: the one door to Pillow, which is imported on first use.

- Sizes: the largest piece from the middle that has the asked shape is resized (the shorter side whole, a centre crop of
  the longer one). Nothing is distorted.
- EXIF orientation is applied. Of an animation the first frame is taken.
- Palettes, greys and CMYK become RGB; what is transparent lies on white; 16-bit greys are divided by 257.
- Arrays are [h, w], [h, w, 1], [h, w, 3], [h, w, 4] or [3, h, w], uint8, uint16, or floats in [0, 1].
"""

from __future__ import annotations

import hashlib
import io
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sherl.data.image_settings import ImageSettings
from sherl.errors import DataError

Picture: TypeAlias = Any
"""A path, the bytes of an image file, an array, or an image of Pillow."""

PixelArray: TypeAlias = NDArray[np.uint8]


class PictureError(ValueError):
    """A picture that cannot be used; says why in words."""


def pillow() -> Any:
    """Pillow's module Image.

    Raises:
        DataError: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise DataError(
            "Images are read with Pillow, which is not installed. Run: pip install 'memory-autotune[images]' (or pip install "
            "pillow)."
        ) from error
    return Image


def digest(picture: Picture) -> str:
    """A sha256 of a picture's content: of the file's bytes, or of the values.

    Raises:
        PictureError: the file cannot be read.
    """
    if isinstance(picture, Path):
        try:
            return hashlib.sha256(picture.read_bytes()).hexdigest()
        except OSError as error:
            raise PictureError(f"it cannot be read: {error.strerror or error}") from error
    if isinstance(picture, bytes):
        return hashlib.sha256(picture).hexdigest()
    values = np.ascontiguousarray(picture)
    return hashlib.sha256(f"{values.shape}{values.dtype}".encode() + values.tobytes()).hexdigest()


def pixels(picture: Picture, settings: ImageSettings) -> tuple[PixelArray, int]:
    """RGB values [3, height, width] of the settings' size, and the number of frames that the picture has.

    Raises:
        PictureError: it is corrupt, empty or of a form that has no plain reading.
        DataError: Pillow is not installed.
    """
    image, frames = _opened(picture)
    height, width = settings.size
    if min(image.size) < 1:
        raise PictureError(f"it has no pixels ({image.size[0]} x {image.size[1]})")
    if image.size != (width, height):
        scale = max(width / image.width, height / image.height)
        half = (width / scale / 2, height / scale / 2)
        middle = (image.width / 2, image.height / 2)
        left, top = max(0.0, middle[0] - half[0]), max(0.0, middle[1] - half[1])
        box = (left, top, min(image.width, middle[0] + half[0]), min(image.height, middle[1] + half[1]))
        image = image.resize((width, height), resample=settings.resample, box=box)
    return np.ascontiguousarray(np.asarray(image, dtype=np.uint8).transpose(2, 0, 1)), frames


def _opened(picture: Picture) -> tuple[Any, int]:
    """The picture as an RGB image of Pillow, and its frames."""
    module = pillow()
    if isinstance(picture, np.ndarray):
        return module.fromarray(_array(picture)), 1
    from PIL import ImageOps, UnidentifiedImageError

    source = io.BytesIO(picture) if isinstance(picture, bytes) else picture
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", module.DecompressionBombWarning)
            warnings.filterwarnings("ignore", category=UserWarning)  # oddities in metadata are not ours to tell
            with nullcontext(source) if isinstance(source, module.Image) else module.open(source) as image:
                frames = int(getattr(image, "n_frames", 1))
                if frames > 1:
                    image.seek(0)
                image.load()
                return _rgb(ImageOps.exif_transpose(image)), frames
    except UnidentifiedImageError as error:
        raise PictureError("it is no image that Pillow knows, or it is damaged") from error
    except (module.DecompressionBombWarning, module.DecompressionBombError) as error:
        raise PictureError(f"it is too large to be opened safely ({error})") from error
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError) as error:
        if isinstance(error, PictureError):
            raise
        if isinstance(error, OSError) and error.strerror:  # the system's own, no finding of Pillow's
            raise PictureError(f"it cannot be read: {error.strerror}") from error
        raise PictureError(f"it is damaged ({error})") from error


def _rgb(image: Any) -> Any:
    module = pillow()
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.size and (values.min() < 0 or values.max() > 65535):
            raise PictureError(f"its grey values reach from {values.min()} to {values.max()}; 0 to 65535 are read")
        return module.fromarray(_sixteen(values)).convert("RGB")
    if image.mode == "F":
        raise PictureError("its values are floating-point numbers without a known range; save it with 8 or 16 bits")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        over = image.convert("RGBA")
        white = module.new("RGBA", over.size, (255, 255, 255, 255))
        return module.alpha_composite(white, over).convert("RGB")
    return image.convert("RGB")


def _sixteen(values: NDArray[Any]) -> PixelArray:
    return np.asarray(np.rint(values.astype(np.float64) / 257), dtype=np.uint8)


def _array(values: NDArray[Any]) -> PixelArray:
    """[h, w, 3] in 8 bits."""
    if values.ndim == 3 and values.shape[2] not in (1, 3, 4) and values.shape[0] in (1, 3):
        values = values.transpose(1, 2, 0)
    if values.ndim == 2:
        values = values[:, :, None]
    if values.ndim != 3 or values.shape[2] not in (1, 3, 4) or min(values.shape) < 1:
        raise PictureError(f"an array of shape {values.shape} is no image; [h, w], [h, w, 1 or 3 or 4] or [3, h, w] is")
    if values.dtype == np.uint16:
        values = _sixteen(values)
    elif values.dtype.kind == "f":
        if not np.isfinite(values).all() or values.min() < 0 or values.max() > 1:
            raise PictureError(f"floats from {values.min():g} to {values.max():g} were given; [0, 1] is read, or uint8")
        values = np.rint(values * 255).astype(np.uint8)
    elif values.dtype != np.uint8:
        raise PictureError(f"values of type {values.dtype} were given; uint8, uint16 or floats in [0, 1] are read")
    if values.shape[2] == 4:
        alpha = values[:, :, 3:].astype(np.float64) / 255
        values = np.rint(values[:, :, :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)
    return np.ascontiguousarray(np.repeat(values, 3, axis=2) if values.shape[2] == 1 else values)
