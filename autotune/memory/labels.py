"""Names for what a model makes while it runs, by the module that makes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from autotune.memory.allocated import TensorMemory
from autotune.memory.events import Part
from sherl.model import TaskModel

_LATE_PART = "late"  # what methods call the part that adapts late blocks


@contextmanager
def labelled(memory: TensorMemory, model: TaskModel) -> Iterator[None]:
    """Inside, what the fusion, the late blocks and the head make is called so, and what a fusion is given, kept features.

    Hooks set the name and touch no tensor, so no figure depends on them. Late blocks are those of a method that runs
    others under no_grad before them; where all blocks train, what they make stays "activations".
    """
    labels: dict[nn.Module, Part] = {model.head: "logits"}
    tuned = model.tuned
    if tuned.first_trainable_layer > 0:
        for block in list(tuned.backbone.blocks)[tuned.first_trainable_layer :]:
            labels[block] = "late route"
            # a checkpointed block runs again in backward by its forward alone: its children are called
            labels.update(dict.fromkeys(block.children(), "late route"))
    fusions: list[nn.Module] = []
    for name, part in tuned.parts().items():
        for module in _called(part.module):
            labels[module] = "late route" if name == _LATE_PART else "fusion"
            if name != _LATE_PART:
                fusions.append(module)
    before: list[Part] = []
    with ExitStack() as stack:
        for module, label in labels.items():
            stack.callback(module.register_forward_pre_hook(_begin(memory, before, label)).remove)
            stack.callback(module.register_forward_hook(_end(memory, before), always_call=True).remove)
        for fusion in fusions:
            stack.callback(fusion.register_forward_pre_hook(_name_features(memory)).remove)
        yield


def _called(module: nn.Module | None) -> Iterator[nn.Module]:
    """The modules in containers, which are called themselves, unlike the containers."""
    if isinstance(module, nn.ModuleDict | nn.ModuleList):
        for child in module.children():
            yield from _called(child)
    elif module is not None:
        yield module


def _begin(memory: TensorMemory, before: list[Part], label: Part) -> Callable[..., None]:
    def hook(_module: nn.Module, _args: Any) -> None:
        before.append(memory.bear(label))

    return hook


def _end(memory: TensorMemory, before: list[Part]) -> Callable[..., None]:
    def hook(_module: nn.Module, _args: Any, _result: Any) -> None:
        memory.bear(before.pop())

    return hook


def _name_features(memory: TensorMemory) -> Callable[..., None]:
    def hook(_module: nn.Module, args: tuple[Any, ...]) -> None:
        features = args[0] if args and isinstance(args[0], (list, tuple)) else ()
        memory.track(*(item for item in features if isinstance(item, torch.Tensor)), part="kept features")

    return hook
