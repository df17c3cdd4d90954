"""Structured pruning: a side network's first weights are rows and columns of the backbone's own (LST, section 3.3).

Which hidden channels, feed-forward units and channels of a head stay is decided by the importance of what they touch: the
size of the weights, or their Fisher importance. Channels of the residual stream are the same in all blocks; those of a
head are the same in all heads of an attention, so that queries, keys and values stay matched, shared ones too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sherl.backbones import Backbone, Stack
from sherl.methods.recording import stacks_of
from sherl.methods.side_network import HEADS, side_parameters

Importances = Mapping[str, Tensor]


def magnitudes(backbone: Backbone) -> dict[str, Tensor]:
    """|w| of every weight, by name."""
    return {name: parameter.detach().float().abs() for name, parameter in backbone.model.named_parameters()}


@torch.no_grad()
def prune_into(side: Backbone, backbone: Backbone, kept: Sequence[Sequence[int]], importances: Importances) -> set[str]:
    """Give the side network's blocks the most important parts of the blocks that they stand beside.

    kept: of each stack the blocks (counted in it) that have a side block. Weights of a form that is not known here
    (convolutions, say) keep the values that they have, and all do where blocks differ in width.

    Returns:
        The names, in the side network, of what was filled.
    """
    if backbone.has_stages:
        return set()
    blocks = list(_blocks(side, backbone, kept, importances))
    width = backbone.width_of(0)
    score = torch.zeros(width)
    for block in blocks:
        score += block.hidden_score(width)
    hidden = _best(score, side.width_of(0))
    filled: set[str] = set()
    for block in blocks:
        filled |= block.fill(hidden)
    return filled | _fill_beside(side, backbone, hidden, filled)


@dataclass
class _Linear:
    """A linear layer in a block: its weight as [outputs, inputs], whichever way round it is stored."""

    path: str
    weight: Tensor
    importance: Tensor
    transposed: bool
    writes_hidden: bool


class _Block:
    """One block of the backbone and the side block beside it."""

    def __init__(
        self, path: str, block: nn.Module, side_path: str, side_block: nn.Module, stack: Stack, heads: tuple[int, int] | None,
        importances: Importances, *, rotary: bool,
    ) -> None:  # fmt: skip
        self.rotary = rotary
        self.path, self.side_path = path, side_path
        self.block, self.side_block = block, side_block
        self.heads = heads
        self.attentions = stack.attention_outputs
        outputs = (stack.feed_forward_output, *stack.attention_outputs)
        self.linears: dict[str, _Linear] = {}
        for name, module in block.named_modules():
            weight = getattr(module, "weight", None)
            transposed = type(module).__name__ == "Conv1D"  # GPT-2's
            importance = importances.get(f"{path}.{name}.weight")
            if (
                not isinstance(weight, Tensor)
                or importance is None
                or not (isinstance(module, nn.Linear) or transposed)
            ):
                continue
            importance = importance.detach().float().cpu()
            self.linears[name] = _Linear(
                name, weight.t() if transposed else weight, importance.t() if transposed else importance, transposed,
                name in outputs,
            )  # fmt: skip
        self.outputs = [self.linears[name] for name in outputs if name in self.linears]
        self.group_of = {name: self._group(linear) for name, linear in self.linears.items() if not linear.writes_hidden}

    def hidden_score(self, width: int) -> Tensor:
        """How much each channel of the residual stream matters to this block's matrices, each counted alike."""
        score = torch.zeros(width)
        for linear in self.linears.values():
            touched = linear.importance.sum(dim=1 if linear.writes_hidden else 0)
            if len(touched) == width:
                score += touched / touched.mean().clamp(min=1e-30)
        return score

    def _group(self, linear: _Linear) -> _Linear | None:
        """The output layer that reads what this one writes: the nearest by path whose inputs these outputs can be."""
        best: tuple[int, bool] | None = None
        found = None
        for output in self.outputs:
            units, written = output.weight.shape[1], linear.weight.shape[0]
            heads = self.heads[0] if self.heads is not None and output.path in self.attentions else 0
            shared = heads > 0 and units % heads == 0 and written % (units // heads) == 0  # grouped keys and values
            whole = written % units == 0 or shared
            rank = (_common(linear.path, output.path), written % units == 0)
            if whole and (best is None or rank > best):
                best, found = rank, output
        return found

    def fill(self, hidden: Tensor) -> set[str]:
        """Write the parts into the side block; names of what was filled."""
        inner = {output.path: self._inner(output) for output in self.outputs}
        target = dict(self.side_block.named_parameters())
        filled = set()
        for name, parameter in self.block.named_parameters():
            module = name.rpartition(".")[0]
            if name not in target:
                continue
            linear = self.linears.get(module)
            if linear is None:  # norms, tables
                chosen = self._by_head_channel(name, parameter, inner)
                chosen = _by_channel(parameter, target[name], hidden) if chosen is None else chosen
            else:
                chosen = self._part(name, parameter, linear, inner, hidden)
            if chosen is not None and chosen.shape == target[name].shape:
                target[name].copy_(chosen)
                filled.add(f"{self.side_path}.{name}")
        return filled

    def _part(
        self, name: str, parameter: Tensor, linear: _Linear, inner: Mapping[str, _Units | None], hidden: Tensor
    ) -> Tensor | None:
        width = int(self.outputs[0].weight.shape[0]) if self.outputs else -1
        if linear.writes_hidden:
            rows, units = hidden, inner[linear.path]
            columns = None if units is None else units.of(linear.weight.shape[1])
        else:
            output = self.group_of[linear.path]
            units = None if output is None else inner[output.path]
            rows_or_none = None if units is None else units.of(linear.weight.shape[0])
            if rows_or_none is None:
                return None
            rows, columns = rows_or_none, hidden
        if name.endswith(".bias"):
            return parameter.cpu()[rows]
        if columns is None or (not linear.writes_hidden and linear.weight.shape[1] != width):
            return None
        part = linear.weight.cpu()[rows][:, columns]
        return part.t() if linear.transposed else part

    def _by_head_channel(self, name: str, parameter: Tensor, inner: Mapping[str, _Units | None]) -> Tensor | None:
        """Of a norm over the channels of a head (Qwen3's queries and keys) those that stay; None for anything else."""
        for path in self.attentions:
            units = inner.get(path)
            if units is not None and _common(name, path) and parameter.shape == (units.head,):
                return parameter.detach().cpu()[units.chosen]
        return None

    def _inner(self, output: _Linear) -> _Units | None:
        """Which of an output layer's inputs stay; None where the side block has another form."""
        side = self.side_block.get_submodule(output.path)
        stored = getattr(side, "weight", None)
        if not isinstance(stored, Tensor):
            return None
        wanted = stored.shape[0 if output.transposed else 1]
        units = output.weight.shape[1]
        members = [self.linears[name] for name, group in self.group_of.items() if group is output]
        score = output.importance.sum(dim=0)
        for member in members:
            rows = member.importance.sum(dim=1)
            if len(rows) % units == 0:
                score = score + rows.view(-1, units).sum(dim=0)
        if output.path not in self.attentions or self.heads is None:
            return _Units(units, _best(score, wanted), head=None)
        heads, side_heads = self.heads
        if units % heads or wanted % side_heads:
            return None
        by_head = score.view(heads, -1)
        chosen_heads = _best(by_head.sum(dim=1), side_heads)
        channels = self._channels(by_head.sum(dim=0), wanted // side_heads)
        return _Units(units, channels, head=units // heads, heads=heads, chosen_heads=chosen_heads)

    def _channels(self, score: Tensor, count: int) -> Tensor:
        if not self.rotary:
            return _best(score, count)
        half = len(score) // 2  # channels are turned in pairs, half a head apart
        pairs = _best(score[:half] + score[half:], count // 2)
        return torch.cat([pairs, pairs + half])


@dataclass
class _Units:
    """Chosen units of an axis, or chosen channels of each of its heads; the axis may hold it several times (fused layers)."""

    units: int
    chosen: Tensor
    head: int | None
    heads: int = 0
    chosen_heads: Tensor | None = None

    def of(self, length: int) -> Tensor | None:
        """The indices on an axis of this length."""
        if self.head is None:
            return None if length % self.units else _repeated(self.chosen, self.units, length // self.units)
        parts = length // self.head
        assert self.chosen_heads is not None
        if len(self.chosen_heads) == self.heads:
            return _repeated(self.chosen, self.head, parts)
        if length % self.units:
            return None  # heads that share keys, and fewer of them: which go together is not known
        one = (self.chosen_heads[:, None] * self.head + self.chosen).flatten()
        return _repeated(one, self.units, length // self.units)


def _repeated(chosen: Tensor, size: int, times: int) -> Tensor:
    return (torch.arange(times)[:, None] * size + chosen).flatten()


def _by_channel(tensor: Tensor, like: Tensor, hidden: Tensor) -> Tensor | None:
    """With the chosen channels on every axis on which ``like`` has as many and the tensor has more; None: other forms."""
    part = tensor.detach().cpu()
    if tensor.ndim != like.ndim:
        return None
    for axis, (length, wanted) in enumerate(zip(tensor.shape, like.shape, strict=True)):
        if length != wanted and wanted == len(hidden) and length > int(hidden.max()):
            part = part.index_select(axis, hidden)
    return part if part.shape == like.shape else None


def _best(score: Tensor, count: int) -> Tensor:
    """Indices of the largest scores, in their order on the axis; of equal ones the first."""
    return torch.sort(torch.sort(score, descending=True, stable=True).indices[:count]).values


def _common(one: str, other: str) -> int:
    """How many steps two paths have in common."""
    count = 0
    for a, b in zip(one.split(".")[:-1], other.split(".")[:-1], strict=False):
        if a != b:
            break
        count += 1
    return count


def _blocks(
    side: Backbone, backbone: Backbone, kept: Sequence[Sequence[int]], importances: Importances
) -> Iterator[_Block]:
    place = 0
    for index, (stack, own, layers) in enumerate(zip(backbone.layout.stacks, stacks_of(backbone), kept, strict=True)):
        heads = _heads(backbone.config, side.config, is_decoder=index == 1)
        for layer in layers:
            block = _Block(
                backbone.block_path(own.start + layer), backbone.blocks[own.start + layer], side.block_path(place),
                side.blocks[place], stack, heads, importances, rotary=backbone.layout.positions == "rotary",
            )  # fmt: skip
            yield block
            place += 1


def _heads(config: object, side: object, *, is_decoder: bool) -> tuple[int, int] | None:
    """Attention heads of the backbone and of the side network; None where the configuration says nothing of them."""
    keys = ("decoder_attention_heads", *HEADS) if is_decoder else HEADS
    for key in keys:
        count, narrow = getattr(config, key, None), getattr(side, key, None)
        if isinstance(count, int) and isinstance(narrow, int):
            return count, narrow
    return None


def _fill_beside(side: Backbone, backbone: Backbone, hidden: Tensor, filled: set[str]) -> set[str]:
    """Final norms, tables beside the blocks, and what only the first block of a stack has (T5's relative positions)."""
    source = dict(backbone.model.named_parameters())
    target = side_parameters(side)
    more = set()
    for name in target.keys() - filled:
        given = source.get(name)
        if given is None:
            continue
        part = _by_channel(given, target[name], hidden)
        if part is not None:
            target[name].copy_(part)
            more.add(name)
    return more
