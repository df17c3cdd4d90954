"""Which hidden states a method's trial would read from a store, what it can then do without, and why it may need none.

All of it is known from a configuration: no weights are read and no values are made.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import _disable_current_modes

from sherl.backbones import Backbone, Without, backbone_from_config
from sherl.features import Place
from sherl.methods import MethodConfig, Tuned
from sherl.spec import TaskSpec
from sherl.tasks import TASKS


def needs_of(config: MethodConfig, task: TaskSpec, backbone: Backbone) -> frozenset[Place]:
    """The hidden states that batches must bring so that nothing before the method's first trainable layer runs; none where
    the method does without a store (:func:`why_not`).

    backbone: with weights or without; it stays as it is.

    Raises:
        SpecError: the settings do not suit the backbone.
        UnsupportedBackboneError: the family cannot carry the method.
    """
    if why_not(config, task, backbone) is not None:
        return frozenset()
    with _tried(config, backbone) as tuned:
        return tuned.needs(stacks_to_store(task, backbone))


def stacks_to_store(task: TaskSpec, backbone: Backbone) -> tuple[str, ...]:
    """The stacks whose hidden states are the same in each pass of this task: not those that write text token by token."""
    names = tuple(backbone.stacks)
    return names[:-1] if TASKS.get(task.kind).predicts == "target_text" else names


def without_for(config: MethodConfig, task: TaskSpec, backbone: Backbone, stored: Iterable[str]) -> Without | None:
    """What of the backbone a trial needs not load when its batches bring hidden states of these stacks; None: it needs all
    of it, as the method starts from pretrained weights of early blocks, or there is nothing early.

    Raises:
        SpecError: the settings do not suit the backbone.
        UnsupportedBackboneError: the family cannot carry the method.
    """
    if config.starts_from_weights:
        return None
    names = set(stored)
    with _tried(config, backbone) as tuned:
        first = tuned.first_trainable_layer
        left = names | tuned.unread(names)
    stacks = tuple(name for name in backbone.stacks if name in left)
    if first == 0 or not stacks:
        return None
    speaks = TASKS.get(task.kind).predicts in ("target_text", "next_tokens")
    return Without(first_late=first, stacks=stacks, language_head=not speaks)


def why_not(config: MethodConfig, task: TaskSpec, backbone: Backbone) -> str | None:
    """Why a trial computes early blocks itself whatever is stored, in words; None where it can read a store.

    backbone: with weights or without.

    Raises:
        SpecError: the settings do not suit the backbone.
    """
    family, kind = backbone.family, backbone.layout.kind
    if any(stack.early is None for stack in backbone.layout.stacks):
        return f"hidden states of a {family} model are not stored: {backbone.layout.no_features}"
    if kind == "cross-modal":
        return (
            f"hidden states of a {family} model are not stored: a text's padding stands in the middle of them, in front of "
            "the image"
        )
    if not stacks_to_store(task, backbone):
        return (
            f"a {family} model that is to write text reads its input anew with what it has written behind it, so hidden states "
            "of the input are not the same in each pass"
        )
    with _described(backbone) as described:
        if config.first_late_layer(described) == 0:
            return (
                f"method {config.name} trains something in all blocks or in front of them, so no hidden state stays the same "
                "from epoch to epoch"
            )
    return None


@contextmanager
def _tried(config: MethodConfig, backbone: Backbone) -> Iterator[Tuned]:
    """The method on a backbone without values, until the ``with`` ends."""
    with _described(backbone) as described:
        tuned = config.apply(described, seed=0)
        try:
            yield tuned
        finally:
            tuned.remove()


@contextmanager
def _described(backbone: Backbone) -> Iterator[Backbone]:
    """A backbone of this configuration that is whole, and has no values and no method on it."""
    if not backbone.is_real and backbone.method_name is None and backbone.without is None:
        yield backbone
        return
    with _disable_current_modes(), torch.device("meta"):
        yield backbone_from_config(backbone.config, dtype=backbone.dtype)
