"""Tiny models that write, and text-to-text rows made in code."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sherl.backbones import Backbone, backbone_from_config
from sherl.methods import method_from_dict
from sherl.methods.base import seeded
from sherl.model import TaskModel, build_model
from sherl.spec import TaskSpec
from tests.sherl.tiny import tiny_backbone
from tests.sherl.tiny_configs import FLAN, OPT_350M, PAD, VOCABULARY

END = 2
WRITTEN = TaskSpec(kind="text-to-text", metric="exact_match", target_length=4)
NAMED = TaskSpec(
    kind="text-to-text",
    metric="accuracy",
    class_names=("no", "yes"),
    target_length=3,
    label_tokens=((7, END), (8, 9, END)),
)
MODELS = ("t5", "flan", "mt5", "bart", "pegasus")


def text_backbone(name: str = "t5", *, depth: int = 3, dtype: torch.dtype = torch.float32) -> Backbone:
    """A tiny random model that writes; ``flan`` is a t5 with a gated feed-forward part and a head of its own, ``opt-350m``
    an opt with narrower word embeddings."""
    special = {"flan": FLAN, "opt-350m": OPT_350M}
    if name not in special:
        return tiny_backbone(name, depth=depth, dtype=dtype)
    with seeded(0, torch.device("cpu")):
        return backbone_from_config(special[name](depth), dtype=dtype)


def text_batch(*, rows: int = 6, tokens: int = 9, targets: int = 4, seed: int = 0) -> dict[str, Tensor]:
    """Random rows; later ones are shorter. The target repeats the row's first token, and ends."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCABULARY, (rows, tokens), generator=generator)
    mask = (torch.arange(tokens) < tokens - torch.arange(rows)[:, None] % 4).to(torch.int64)
    labels = torch.full((rows, targets), -100)
    for row in range(rows):
        length = 1 + row % max(1, targets - 1)
        labels[row, :length] = ids[row, 0]
        labels[row, min(length, targets - 1)] = END
    return {"input_ids": torch.where(mask.bool(), ids, PAD), "attention_mask": mask, "labels": labels}


def text_model(
    method: dict[str, Any] | str, name: str = "t5", *, task: TaskSpec = WRITTEN, dtype: torch.dtype = torch.float32
) -> TaskModel:
    """A tiny model that writes with a method on it, for text-to-text."""
    plain = {"name": method} if isinstance(method, str) else method
    return build_model(text_backbone(name, dtype=dtype), method_from_dict(plain), task, seed=0)


def stirred(model: TaskModel) -> TaskModel:
    """The same model with trainables off their start: closed gates and zero matrices would hide mistakes."""
    with seeded(3, torch.device("cpu")), torch.no_grad():
        for parameter in model.trainable_parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model
