"""Backbones without their early blocks, for batches that bring the hidden states from a store.

What is left out has no weights: they take no memory and are not read from disk. The modules stay where they are, emptied,
so that paths, blocks and whatever is asked of a layout are as ever; to run them is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sherl.backbones.backbone import Backbone, blocks_of, stack_names_of
from sherl.backbones.families import DecoderFamily, EncoderDecoderFamily, Family, Stack
from sherl.backbones.paths import matching
from sherl.backbones.standing import submodule
from sherl.errors import SpecError, UnsupportedBackboneError

ANCHOR = "left_out"
"""A parameter of no elements in a light model, which says device and type where nothing else is left."""


@dataclass(frozen=True)
class Without:
    """What of a pretrained model is left out.

    first_late: the blocks before this one (0-based, over all stacks). stacks: of these stacks, with what stands in front
    of them (token tables, stems) where nothing else uses it. language_head: whether it is left out too, as the task does
    not ask for words.
    """

    first_late: int
    stacks: tuple[str, ...]
    language_head: bool = False


def lighten(backbone: Backbone, without: Without) -> None:
    """Take weights out of a backbone, in place; works on fake tensors and on meta.

    Its fingerprint stays that of the whole model, ``left_out_count`` tells how many parameters went. There is no way back.

    Raises:
        SpecError: a method is on the backbone, it is light already, or there is no such block or stack.
        UnsupportedBackboneError: nothing can stand in for early blocks of this family.
    """
    if backbone.method_name is not None or backbone.without is not None:
        what = "is light already" if backbone.without is not None else f"has the method {backbone.method_name!r} on it"
        raise SpecError(f"This backbone {what}: load it once more, and leave out then what is not needed.")
    backbone.settle_fingerprint()
    dtype, device = backbone.dtype, backbone.device
    count = leave_out(backbone.model, backbone.layout, without)
    with device:
        settle(backbone, without, count, dtype)


def settle(backbone: Backbone, without: Without, count: int, dtype: torch.dtype) -> None:
    """Note on a backbone what was left out of its model, and give that an anchor."""
    anchor = nn.Parameter(torch.empty(0, dtype=dtype), requires_grad=False)
    backbone.model.register_parameter(ANCHOR, anchor)
    backbone.without = without
    backbone.left_out_count = count


def leave_out(model: Any, layout: Family, without: Without) -> int:
    """Empty the modules of a model that ``without`` names; gives how many parameters went.

    A weight that is tied to one of a module that stays does not go.

    Raises:
        SpecError: there is no such block or stack.
        UnsupportedBackboneError: nothing can stand in for early blocks of this family.
    """
    roots = dict(_roots(model, layout, without))
    going = {id(module): module for root, stays in roots.items() for module in _inside(root, stays)}
    groups = _tied_groups(model, layout)
    staying = {
        groups[id(parameter)]
        for module in model.modules()
        if id(module) not in going
        for parameter in module._parameters.values()
        if parameter is not None
    }
    counted: dict[int, int] = {}
    for module in going.values():
        own = {name: one for name, one in module._parameters.items() if one is not None}
        if any(groups[id(one)] in staying for one in own.values()):
            continue
        counted.update({groups[id(one)]: one.numel() for one in own.values()})
        for name, one in own.items():  # some models ask a weight for its type
            del module._parameters[name]
            vars(module)[name] = torch.empty(0, dtype=one.dtype)
        module._buffers.update(dict.fromkeys(module._buffers))
        vars(module)["_is_hf_initialized"] = True  # transformers would fill in what a checkpoint does not give
    for root in roots:
        if next(root.parameters(), None) is None or roots[root]:
            vars(root)["forward"] = _Left(type(root).__name__)
    if isinstance(tied := getattr(model, "all_tied_weights_keys", None), dict):
        names = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        model.all_tied_weights_keys = {one: other for one, other in tied.items() if {one, other} <= names}
    return sum(counted.values())


class Lightener:
    """A class of transformers whose models are made without what ``without`` names; ``count`` parameters were left out."""

    def __init__(self, made: type[Any], layout: Family, without: Without) -> None:
        self.count = 0
        self.made = made

        def init(model: Any, config: Any, *args: Any, **settings: Any) -> None:
            made.__init__(model, config, *args, **settings)
            self.count = leave_out(model, layout, without)

        names = {"__module__": made.__module__, "__qualname__": made.__qualname__}
        self.lightened: Any = type(made.__name__, (made,), {"__init__": init, **names})

    def as_made(self, model: Any) -> Any:
        """The model, of its own class again."""
        model.__class__ = self.made
        return model


class _Left:
    """The forward of a module that was left out."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *_args: Any, **_kwargs: Any) -> Any:
        raise SpecError(
            f"This backbone was loaded without the weights of its {self.name}, as stored hidden states were to stand in for "
            "them, and this batch brings none: give it the tensors 'features.<stack>.<n>', or load the whole backbone."
        )


def _roots(model: Any, layout: Family, without: Without) -> Iterator[tuple[nn.Module, tuple[str, ...]]]:
    """Modules to be emptied, each with the paths inside it that stay."""
    names = stack_names_of(layout)
    rows = dict(zip(names, layout.stacks, strict=True))
    blocks = blocks_of(model, layout)
    unknown = [name for name in without.stacks if name not in rows]
    if unknown or not without.stacks or not 1 <= without.first_late <= len(blocks):
        raise SpecError(
            f"Blocks before {without.first_late} of {', '.join(without.stacks) or 'no stack'} cannot be left out: a "
            f"{layout.name} model of this configuration has {len(blocks)} blocks in {', '.join(names)}."
        )
    for name in without.stacks:
        row = rows[name]
        if row.early is None:
            raise UnsupportedBackboneError(
                f"Early blocks of a {layout.name} model cannot be left out: {layout.no_features}."
            )
        late = any(stack == row for stack, _, _ in blocks[without.first_late :])
        for stack, _, block in blocks[: without.first_late]:
            if stack == row:
                yield block, row.early.stays if late else ()
    yield from ((module, ()) for module in _fronts(model, rows, without))
    if without.language_head and isinstance(layout, DecoderFamily | EncoderDecoderFamily):
        head = model.get_output_embeddings()
        if head is not None:
            yield head, ()


def _fronts(model: Any, rows: dict[str, Stack], without: Without) -> list[nn.Module]:
    def of(names: list[str]) -> dict[int, nn.Module]:
        early = [rows[name].early for name in names]
        found = [submodule(model, path) for row in early if row is not None for path in row.front]
        return {id(module): module for module in found if module is not None}

    others = of([name for name in rows if name not in without.stacks])
    return [module for key, module in of(list(without.stacks)).items() if key not in others]


def _inside(root: nn.Module, stays: tuple[str, ...]) -> list[nn.Module]:
    kept = [path for pattern in stays for path in matching(root, pattern)]
    return [
        module
        for name, module in root.named_modules()
        if not any(name == path or name.startswith(f"{path}.") for path in kept)
    ]


def _tied_groups(model: Any, layout: Family) -> dict[int, int]:
    """For each parameter, by its id, a number that all that are tied to it share; also before transformers ties them."""
    by_name = dict(model.named_parameters(remove_duplicate=False))
    group = {id(parameter): id(parameter) for parameter in by_name.values()}
    tied = dict(getattr(model, "all_tied_weights_keys", None) or {})
    if isinstance(layout, EncoderDecoderFamily) and layout.untied_head(model.config):
        head = model.get_output_embeddings().weight
        tied = {one: other for one, other in tied.items() if head is not by_name[one] and head is not by_name[other]}
    for one, other in tied.items():
        if one in by_name and other in by_name:
            merged, into = group[id(by_name[one])], group[id(by_name[other])]
            group = {key: into if value == merged else value for key, value in group.items()}
    return group
