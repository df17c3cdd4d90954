"""Transformers over patches of an image that are tried by structure."""

from __future__ import annotations

import inspect
from typing import Any, Literal

import torch
import transformers
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import _disable_current_modes
from transformers import initialization

from sherl.backbones.families import VisionFamily
from sherl.backbones.images import side
from sherl.backbones.structure.blocks import (
    FAILURES,
    WITHOUT_PROMPTS,
    Tried,
    close,
    described,
    norm_behind,
    note_of,
    short,
)
from sherl.backbones.structure.running import Running

_USUAL_SIZE = 224
_CLASS_TOKENS = ("cls_token", "class_token", "class_embedding")


def vision_row(model: Any, tried: Tried) -> VisionFamily:
    """A row for a vision transformer, of a model of it on meta.

    Raises:
        UnsupportedBackboneError: it is no stream of patches through one list of alike blocks.
    """
    config = model.config
    _require_no_maps(model, tried)
    path, blocks = tried.longest_list(model, getattr(config, "num_hidden_layers", None))
    for name in ("image_size", "patch_size", "hidden_size"):
        if getattr(config, name, None) is None:
            raise tried.refused(f"its configuration says no {name}")
    targets, end = tried.parts_of(path, blocks, config)
    size, patch = side(config.image_size), side(config.patch_size)
    shape = _shape_of(model, size, tried)
    patches = (size[0] // patch[0]) * (size[1] // patch[1])
    front = shape[1] - patches if len(shape) == 3 else -1
    if front < 0 or shape[2] != int(config.hidden_size):
        raise tried.refused(
            f"of an image of {size[0]} x {size[1]} pixels, {patches} patches, it gives {list(shape)}, and [1, patches and "
            f"more, {config.hidden_size}] was expected"
        )
    has_class = any(name.endswith(_CLASS_TOKENS) for name, _ in model.named_parameters())
    return VisionFamily(
        name=tried.kind,
        blocks=path,
        lora_targets=targets,
        feed_forward_output=end,
        final_norm=norm_behind(model, path, lambda: _hidden(model, size)),
        attention=None,
        pooling="class" if front and has_class else "mean",
        front=front,
        sizes=_sizes_of(model, size, patch),
        made_of_values=_is_made_of_values(config),
        pooler="add_pooling_layer" in inspect.signature(type(model).__init__).parameters,
        no_prompts=WITHOUT_PROMPTS,
        found=note_of(tried.kind, described(path, blocks, targets, end), f"Positions beside the patches: {front}."),
    )


def _require_no_maps(model: Any, tried: Tried) -> None:
    """Refuse a convolutional network by what it is, and not by what it lacks of a transformer."""
    config = model.config
    if getattr(config, "patch_size", None) is not None:
        return
    size = side(getattr(config, "image_size", None) or _USUAL_SIZE)
    try:
        shape = tuple(_hidden(model, size).shape)
    except FAILURES:
        return  # it is told below what was looked for
    if len(shape) == 4:
        raise tried.refused(
            f"its last hidden state is a feature map {list(shape)}, as of a convolutional network: of those none is taken "
            "without a row. A ConvolutionalFamily says where the list of blocks (stages) is, what makes the first one's "
            "input (stem), the channels of each block's input and of the last map (widths), which convolutions without "
            "groups LoRA takes, and the norm behind a block's last one: sherl/backbones/families/cnns.py has some"
        )


def _is_made_of_values(config: Any) -> bool:
    """Whether its code reads numbers out of tensors, as rates of stochastic depth for each block."""
    with _disable_current_modes(), FakeTensorMode(), initialization.no_init_weights():
        try:
            transformers.AutoModel.from_config(config, trust_remote_code=False)
        except DataDependentOutputException:
            return True
    return False


def _shape_of(model: Any, size: tuple[int, int], tried: Tried) -> tuple[int, ...]:
    """Of the last hidden state, for one image."""
    try:
        return tuple(_hidden(model, size).shape)
    except FAILURES as error:
        raise tried.refused(
            f"an image of {size[0]} x {size[1]} pixels does not run through it: {short(error)}"
        ) from error


def _hidden(model: Any, size: tuple[int, int], **options: bool) -> Tensor:
    with _disable_current_modes(), torch.no_grad():
        pixels = torch.empty(1, int(getattr(model.config, "num_channels", 3)), *size, device="meta")
        hidden: Tensor = model(pixel_values=pixels, return_dict=True, **options).last_hidden_state
    return hidden


def _sizes_of(model: Any, size: tuple[int, int], patch: tuple[int, int]) -> Literal["argument", "any", "own"]:
    told = "interpolate_pos_encoding" in inspect.signature(type(model).forward).parameters
    try:
        _hidden(
            model,
            (size[0] + 2 * patch[0], size[1] + 2 * patch[1]),
            **({"interpolate_pos_encoding": True} if told else {}),
        )
    except FAILURES:
        return "own"
    return "argument" if told else "any"


def check_vision(running: Running) -> None:
    """Run small batches through a model whose row was found by structure, to see that it is such a transformer: each image
    by itself, and the same each time.

    Raises:
        UnsupportedBackboneError: it is not; the message says in what.
    """
    backbone = running.backbone
    config = backbone.config
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(2, int(getattr(config, "num_channels", 3)), *side(config.image_size), generator=generator)
    pixels = pixels.to(backbone.device)
    hidden = running.through_blocks("2 images", {"pixel_values": pixels}, None)
    again = running.encoded("the images once more", {"pixel_values": pixels.flip(0)}).flip(0)
    if not close(again, hidden):
        raise running.refused("an image's hidden states are others beside another image, or the second time")
    running.require_read({"pixel_values": pixels}, hidden)
