"""Whether a model can learn what the data settings ask for, judged by its configuration before any row is read."""

from __future__ import annotations

from autotune.errors import ConfigError
from sherl.backbones import FAMILIES, Backbone
from sherl.data import DataSpec
from sherl.data.image_sources import wants_images
from sherl.model import require_suited

OF_IMAGES = ("vision", "cnn")
"""Kinds of models whose rows are images alone."""


def require_model_suits(backbone: Backbone, data: DataSpec, *, max_length: int | None = None) -> None:
    """Raises where this backbone, weights or not, does not read such rows, or cannot learn such a task.

    Raises:
        ConfigError: it reads rows of another sort (texts, images, both together, speech); or ``max_length`` was given for
            images.
        UnsupportedBackboneError: it cannot learn the task.
    """
    kind, images = backbone.layout.kind, wants_images(data)
    family = f"{backbone.family} model"
    if kind == "cross-modal" or getattr(backbone.layout, "frames", None) is not None:
        reads = "an image and a text together" if kind == "cross-modal" else "speech"
        raise ConfigError(
            f"A {family} reads {reads}, and a study has no data of that sort: it takes texts or images. Take a model of one "
            "of these, or train this one in Python (sherl.model.build_model, sherl.training.fit)."
        )
    if images and kind not in OF_IMAGES:
        raise ConfigError(
            f"The data are images, and a {family} reads texts. Take a model of images ({_families(OF_IMAGES)}), or say what "
            "the task on texts is with --task."
        )
    if not images and kind in OF_IMAGES:
        raise ConfigError(
            f"A {family} reads images, and these data are not taken for such. Give --task image-classification with a folder "
            "that holds a folder for each class (or a table with a column of paths), or a model of texts."
        )
    if images and max_length is not None:
        raise ConfigError("--max-length is about texts, and the data are images: give --image-size, in pixels.")
    if not images and data.task != "auto":
        require_suited(backbone, data.task)


def _families(kinds: tuple[str, ...]) -> str:
    return ", ".join(name for name in FAMILIES.names() if FAMILIES.get(name).kind in kinds)
