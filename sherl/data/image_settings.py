"""What a vision backbone wants its images to be: size, resampling, mean and deviation of channels."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

from sherl.backbones import resolve_source
from sherl.errors import DataError, SpecError

Channels: TypeAlias = tuple[tuple[float, ...], tuple[float, ...]]

IMAGENET: Channels = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP: Channels = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
DEFAULT_SIZE = 224
BILINEAR, BICUBIC = 2, 3
"""Pillow's numbers, which preprocessor_config.json has under "resample"."""

PREPROCESSOR = "preprocessor_config.json"


@dataclass(frozen=True)
class ImageSettings:
    """size: height and width in pixels. mean, std: of red, green and blue in [0, 1]. resample: Pillow's number of a filter.

    notes: what was taken because the backbone does not say it.
    """

    size: tuple[int, int]
    mean: tuple[float, ...] = IMAGENET[0]
    std: tuple[float, ...] = IMAGENET[1]
    resample: int = BILINEAR
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """What decides pixels and batches, JSON-able."""
        plain = {**asdict(self), "size": list(self.size), "mean": list(self.mean), "std": list(self.std)}
        del plain["notes"]
        return plain


def image_settings(backbone_source: str, asked_size: int | None) -> ImageSettings:
    """The settings of a backbone's preprocessor_config.json; where that or an entry is missing, those of its configuration.

    The size is ``asked_size``, else the crop's, else the preprocessor's, else the configuration's ``image_size``, else
    224. Mean and deviation are else ImageNet's, for CLIP models its own.

    Raises:
        SpecError: nothing is at ``backbone_source``, or a file there is damaged.
        DataError: the preprocessor's size, mean or deviation is none.
    """
    where = resolve_source(backbone_source)
    config = _json(where, "config.json", backbone_source)
    if config is None:
        raise SpecError(f"{backbone_source!r} has no config.json: give the folder or the hub id of a pretrained model.")
    given = _json(where, PREPROCESSOR, backbone_source)
    kind = str(config.get("model_type", ""))
    mean, std = CLIP if kind.startswith("clip") else IMAGENET
    notes = []
    if given is None:
        notes.append(
            f"{backbone_source} has no {PREPROCESSOR}: {'CLIP' if kind.startswith('clip') else 'ImageNet'}'s mean and "
            "deviation are taken"
        )
        given = {}
    elif not given.get("do_normalize", True):
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    else:
        mean, std = _channels(given, "image_mean", mean), _channels(given, "image_std", std)
    if min(std) <= 0:
        raise DataError(f"{PREPROCESSOR} of {backbone_source!r}: image_std must be above 0, {list(std)} was given.")
    size = (asked_size, asked_size) if asked_size is not None else _size(given) or _size_of(config)
    if size is None:
        size = (DEFAULT_SIZE, DEFAULT_SIZE)
        notes.append(
            f"{backbone_source} does not say its image size: {DEFAULT_SIZE} pixels are taken; --image-size changes it"
        )
    return ImageSettings(size, mean, std, int(given.get("resample", BILINEAR)), tuple(notes))


def _json(where: str, name: str, source: str) -> dict[str, Any] | None:
    """A JSON file of a folder or of the hub; None where there is none."""
    path = Path(where) / name
    if not Path(where).is_dir():
        from transformers.utils import cached_file

        try:
            found = cached_file(where, name, _raise_exceptions_for_missing_entries=False)
        except OSError as error:
            raise SpecError(f"{name} of {source!r} cannot be had: {str(error).splitlines()[0]}") from error
        if found is None:
            return None
        path = Path(found)
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise SpecError(f"{path} cannot be read ({error}).") from error
    if not isinstance(plain, dict):
        raise SpecError(f"{path} must hold a JSON object, it holds a {type(plain).__name__}.")
    return plain


def _size(given: dict[str, Any]) -> tuple[int, int] | None:
    """What reaches the model: the crop, where there is one, else what is resized to."""
    crops = given.get("do_center_crop", "crop_size" in given)
    for key in (["crop_size"] if crops else []) + ["size"]:
        value = given.get(key)
        if isinstance(value, int) and not isinstance(value, bool):
            return value, value
        if isinstance(value, dict):
            short = value.get("shortest_edge")
            height, width = value.get("height", short), value.get("width", short)
            if isinstance(height, int) and isinstance(width, int) and min(height, width) > 0:
                return height, width
    return None


def _size_of(config: dict[str, Any]) -> tuple[int, int] | None:
    vision = config.get("vision_config")
    value = config.get("image_size", vision.get("image_size") if isinstance(vision, dict) else None)
    sides = [value, value] if isinstance(value, int) else value
    if isinstance(sides, list) and len(sides) == 2 and all(isinstance(side, int) and side > 0 for side in sides):
        return sides[0], sides[1]
    return None


def _channels(given: dict[str, Any], key: str, default: tuple[float, ...]) -> tuple[float, ...]:
    value = given.get(key)
    if value is None:
        return default
    values = value if isinstance(value, list) else [value] * 3
    if len(values) != 3 or not all(isinstance(part, int | float) for part in values):
        raise DataError(f"{PREPROCESSOR}: {key} must be three numbers, {value!r} was given.")
    return tuple(float(part) for part in values)
