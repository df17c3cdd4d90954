"""Passes in which early blocks do not compute, as a batch brings their hidden states from a store.

The values are those of the whole model: late blocks, norms, pooling and heads run as always, on stored hidden states. Nothing
is copied: what a block gets is the batch's own tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from sherl.backbones.backbone import Backbone
from sherl.backbones.families.early import Early
from sherl.errors import SpecError, UnsupportedBackboneError
from sherl.features import Place
from sherl.insertion import BlockCall, block_calls, other_forward


@contextmanager
def stand_ins(
    backbone: Backbone, first_late: int, features: Mapping[Place, Tensor], *, unread: Collection[str] = ()
) -> Iterator[None]:
    """Around one pass, in which the blocks before ``first_late`` of every stack that ``features`` is of do not compute.

    Each block up to ``first_late`` is given what is stored for it before any hook that is registered inside sees its call;
    what an early block gives is what it was given, the stack's last one h_N. Hidden states of later places are not looked at.

    first_late: a block, counted over all stacks. features: hidden states of the batch that the pass is about, in the shape
    and type that blocks are given. unread: stacks that do not compute either, as nothing of them is read.

    Raises:
        UnsupportedBackboneError: nothing can stand in for early blocks of this family.
    """
    states = by_stack(features)
    standing = [name for name in backbone.stacks if name in states or name in unread]
    with ExitStack() as stack:
        for name in standing:
            own = states.get(name, {})
            template = min(own.items())[1] if own else next(iter(features.values()))
            for module in fronts_of(backbone, name, standing):
                stack.enter_context(other_forward(module, _giving(template)))
            _stand_in(stack, backbone, name, first_late, own)
        yield


def by_stack(features: Mapping[Place, Tensor]) -> dict[str, dict[int, Tensor]]:
    """Hidden states by stack and number."""
    found: dict[str, dict[int, Tensor]] = {}
    for place, hidden in features.items():
        found.setdefault(place.stack, {})[place.n] = hidden
    return found


def early_row(backbone: Backbone, name: str) -> Early:
    """What the family's row says of the early blocks of a stack.

    Raises:
        UnsupportedBackboneError: nothing can stand in for them.
    """
    row = backbone.stack_of(backbone.stacks[name].start).early
    if row is None:
        raise UnsupportedBackboneError(
            f"Stored hidden states cannot stand in for early blocks of a {backbone.family} model: "
            f"{backbone.layout.no_features}."
        )
    return row


def fronts_of(backbone: Backbone, name: str, standing: Collection[str]) -> list[nn.Module]:
    """The modules in front of a stack that need not run when these stacks are stood in for."""
    paths = early_row(backbone, name).front
    model: nn.Module = backbone.model
    others = {
        id(module)
        for other in backbone.stacks
        if other not in standing and (row := backbone.stack_of(backbone.stacks[other].start).early) is not None
        for path in row.front
        if (module := submodule(model, path)) is not None
    }
    found = [submodule(model, path) for path in paths]
    return [module for module in found if module is not None and id(module) not in others]


def submodule(model: nn.Module, path: str) -> nn.Module | None:
    """The module at a path; None where there is none, as a configuration may leave it out."""
    module: Any = model
    for name in path.split("."):
        module = getattr(module, name, None)
    return module if isinstance(module, nn.Module) else None


def _stand_in(stack: ExitStack, backbone: Backbone, name: str, first_late: int, states: Mapping[int, Tensor]) -> None:
    row, span = early_row(backbone, name), backbone.stacks[name]
    early = range(span.start, min(span.stop, first_late))
    for layer in early:
        block = backbone.blocks[layer]
        output = states.get(len(span)) if layer == span[-1] else None
        stack.enter_context(other_forward(block, _early_block(block, row, output)))
    # not through outputs: something may stand between two blocks (a convolution, the end of a stage)
    given = {
        layer: states[layer - span.start] for layer in span if layer <= first_late and layer - span.start in states
    }

    def on_call(layer: int, call: BlockCall) -> None:
        call.hidden = given[layer]

    stack.enter_context(block_calls({layer: backbone.blocks[layer] for layer in given}, on_call))


def _early_block(block: nn.Module, row: Early, output: Tensor | None) -> Callable[..., Any]:
    def forward(*args: Any, **kwargs: Any) -> Any:
        call = BlockCall(block, args, kwargs)
        return row.output(block, call, call.hidden if output is None else output)

    return forward


def _giving(hidden: Tensor) -> Callable[..., Tensor]:
    def forward(*_args: Any, **_kwargs: Any) -> Tensor:
        return hidden

    return forward


def check_features(backbone: Backbone, batch: Mapping[str, Tensor], features: Mapping[Place, Tensor]) -> None:
    """Refuses hidden states that cannot be of this batch and backbone; looks at shapes and types alone.

    Raises:
        SpecError: a stack is unknown, or a tensor has other rows, tokens or another type.
    """
    inputs = {name: tensor for name, tensor in batch.items() if name in _ROWS}
    problems = []
    for place, hidden in features.items():
        if place.stack not in backbone.stacks:
            problems.append(f"there is no stack {place.stack!r}, only {', '.join(backbone.stacks)}")
            continue
        tokens = batch.get("decoder_input_ids" if place.stack == "decoder" else "input_ids")
        wanted = None if tokens is None or backbone.layout.kind == "cross-modal" else int(tokens.shape[1])
        if any(len(tensor) != len(hidden) for tensor in inputs.values()):
            problems.append(f"h_{place.n} of {place.stack} has {len(hidden)} rows, the batch has others")
        elif wanted is not None and hidden.shape[1] != wanted:
            problems.append(f"h_{place.n} of {place.stack} has {hidden.shape[1]} tokens, the batch has {wanted}")
        if hidden.dtype != backbone.dtype:
            problems.append(
                f"h_{place.n} of {place.stack} is {hidden.dtype}, the backbone was loaded in {backbone.dtype}"
            )
    if problems:
        raise SpecError(f"The batch's features are not of this batch and backbone: {'; '.join(problems)}.")


_ROWS = ("input_ids", "pixel_values", "input_features")
