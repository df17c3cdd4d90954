"""Tiny random backbones of every family, made in code, and batches for them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sherl.backbones import FAMILIES, Backbone, backbone_from_config
from sherl.methods.base import seeded
from sherl.spec import TaskSpec
from tests.sherl.tiny_configs import BINS, CONFIGS, FRAMES, PAD, VOCABULARY


def tiny_config(family: str, *, depth: int = 3) -> Any:
    """A configuration of this family; a family without a factory here fails loudly."""
    if family not in CONFIGS:
        raise AssertionError(
            f"The family {family!r} has no tiny configuration: add one to tests/sherl/tiny_configs.py."
        )
    return CONFIGS[family](depth)


def tiny_backbone(
    family: str = "bert", *, depth: int = 3, dtype: torch.dtype = torch.float32, seed: int = 0
) -> Backbone:
    """A backbone with random weights, the same in every call."""
    with seeded(seed, torch.device("cpu")):
        backbone = backbone_from_config(tiny_config(family, depth=depth), dtype=dtype)
        with torch.no_grad():  # biases and norms that are all 0 and 1 would hide mistakes
            for name, parameter in backbone.model.named_parameters():
                if name.endswith("bias") or "norm" in name.lower():
                    parameter.add_(0.1 * torch.randn_like(parameter))
            _settle(backbone)
    return backbone


def _settle(backbone: Backbone) -> None:
    """Give batch norms scales around 1 (EfficientNet's start near 0) and, as of a trained model, the images' statistics."""
    norms = [module for module in backbone.model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    if not norms:
        return
    usual, dtype = [norm.momentum for norm in norms], backbone.dtype
    backbone.model.float()
    for norm in norms:
        norm.weight.copy_(1 + 0.1 * torch.randn_like(norm.weight))
        norm.momentum = 1.0
        norm.train()
    backbone.encode(batch_for(backbone.family))
    backbone.model.to(dtype)
    for norm, momentum in zip(norms, usual, strict=True):
        norm.momentum = momentum
        norm.eval()


def tiny_batch(
    *, rows: int = 3, tokens: int = 9, padded: bool = True, classes: int = 2, seed: int = 0
) -> dict[str, Tensor]:
    """Random token ids; the first row is full, later rows end in padding if ``padded``."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCABULARY, (rows, tokens), generator=generator)
    mask = torch.ones(rows, tokens, dtype=torch.int64)
    if padded:
        for row in range(1, rows):
            mask[row, max(1, tokens - 2 * row) :] = 0
    return {
        "input_ids": torch.where(mask.bool(), ids, PAD),
        "attention_mask": mask,
        "token_type_ids": torch.zeros_like(ids),
        "labels": torch.arange(rows) % classes,
    }


def image_size_of(family: str) -> int:
    """Height and width, in pixels, of the images that the family's tiny model is tried on."""
    return int(getattr(tiny_config(family), "image_size", 16)) if FAMILIES.get(family).kind != "cnn" else 16


def tiny_images(family: str, *, rows: int = 3, size: int | None = None, seed: int = 0) -> dict[str, Tensor]:
    """Random images of the size that the family's tiny model was made for."""
    generator = torch.Generator().manual_seed(seed)
    side = image_size_of(family) if size is None else size
    return {
        "pixel_values": torch.randn(rows, 3, side, side, generator=generator),
        "labels": torch.arange(rows) % 2,
    }


def batch_for(family: str, *, rows: int = 16, tokens: int = 8) -> dict[str, Tensor]:
    """A batch of the family's kind, with labels that can be learnt from it."""
    kind = FAMILIES.get(family).kind if family in FAMILIES else "encoder"
    if kind in ("vision", "cnn"):
        batch = tiny_images(family, rows=rows)
        _mark(batch["pixel_values"], batch["labels"])
        return batch
    if family in SPEECH:
        return {name: heard(_learnable_text(rows, tokens))[name] for name in ("input_features", "labels")}
    batch = _learnable_text(rows, tokens)
    if kind == "cross-modal":
        batch |= tiny_regions(family, rows=rows)
        for name in {"pixel_values", "visual_embeds", "visual_feats"} & set(batch):
            _mark(batch[name], batch["labels"])
        if family == "lxmert":  # row 0 of its table of types is padding's, and never learnt
            batch["token_type_ids"] += 1
    return batch


def tiny_regions(family: str, *, rows: int = 3, seed: int = 0) -> dict[str, Tensor]:
    """The image of a cross-modal batch: random pixels, or random features of five regions."""
    if family == "vilt":
        return {"pixel_values": tiny_images(family, rows=rows, seed=seed)["pixel_values"]}
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(rows, 5, 12, generator=generator)
    if family == "lxmert":
        return {"visual_feats": features, "visual_pos": torch.rand(rows, 5, 4, generator=generator)}
    return {"visual_embeds": features}


def _mark(images: Tensor, labels: Tensor) -> None:
    """Class 1 is brighter in the first channel (or region), class 0 in the second."""
    for label in (0, 1):
        images[labels == label, 1 - label] += 2


def _learnable_text(rows: int, tokens: int) -> dict[str, Tensor]:
    """Half of a row's tokens are the label's own; later rows are shorter."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(rows) % 2
    ids = torch.randint(10, VOCABULARY, (rows, tokens), generator=generator)
    ids[:, ::2] = 5 + labels[:, None]
    mask = (torch.arange(tokens) < tokens - torch.arange(rows)[:, None] % 4).to(torch.int64)
    return {
        "input_ids": torch.where(mask.bool(), ids, PAD),
        "attention_mask": mask,
        "token_type_ids": torch.zeros_like(ids),
        "labels": labels,
    }


def heard(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The batch with ``input_features`` beside its ids, for models that hear: two frames for each of its first 8 tokens.

    Each token has a sound of its own; padding is silence.
    """
    sounds = 2 * torch.randn(VOCABULARY, BINS, generator=torch.Generator().manual_seed(0))
    frames = (
        (sounds[batch["input_ids"]] * batch["attention_mask"][..., None]).transpose(1, 2).repeat_interleave(2, dim=2)
    )
    missing = max(0, FRAMES - frames.shape[2])
    features = torch.nn.functional.pad(frames, (0, missing))[:, :, :FRAMES].clone()
    return {**batch, "input_features": features}


def wider(batch: dict[str, Tensor], extra: int) -> dict[str, Tensor]:
    """The same batch with more padding on the right."""
    fill = {"input_ids": PAD, "attention_mask": 0, "token_type_ids": 0}
    return {
        name: torch.nn.functional.pad(tensor, (0, extra), value=fill[name]) if name in fill else tensor
        for name, tensor in batch.items()
    }


def padded_on_the_left(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same rows with their padding in front."""
    left = {name: tensor.clone() for name, tensor in batch.items()}
    for row, length in enumerate(batch["attention_mask"].sum(dim=1).tolist()):
        for name in {"input_ids", "attention_mask", "token_type_ids"} & batch.keys():
            left[name][row] = batch[name][row].roll(-length)
    assert bool((left["attention_mask"][:, -1] == 1).all())
    return left


CLASSIFICATION = TaskSpec(kind="classification", metric="accuracy", class_names=("no", "yes"))

ALL_FAMILIES = FAMILIES.names()
ENCODERS = tuple(name for name in ALL_FAMILIES if FAMILIES.get(name).kind == "encoder")
DECODERS = tuple(name for name in ALL_FAMILIES if FAMILIES.get(name).kind == "decoder")
VISION = tuple(name for name in ALL_FAMILIES if FAMILIES.get(name).kind == "vision")
CROSS_MODAL = tuple(name for name in ALL_FAMILIES if FAMILIES.get(name).kind == "cross-modal")
CNNS = tuple(name for name in ALL_FAMILIES if FAMILIES.get(name).kind == "cnn")
ENCODER_DECODERS = tuple(name for name in ALL_FAMILIES if FAMILIES.get(name).kind == "encoder-decoder")
SPEECH = tuple(name for name in ENCODER_DECODERS if FAMILIES.get(name).frames is not None)  # type: ignore[attr-defined]
TEXTS = tuple(name for name in (*ENCODERS, *DECODERS, *ENCODER_DECODERS) if name not in SPEECH)
