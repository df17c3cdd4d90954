"""Hooks on block inputs: what they see and replace, and that nothing stays behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sherl.errors import UnsupportedBackboneError
from sherl.insertion import BlockCall, block_calls, early_route


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))
        self.seen: list[Any] = []

    def forward(self, states: Tensor, mask: Tensor | None = None, scale: float = 1.0, **more: Any) -> Tensor:
        self.seen.append((mask, scale, more, torch.is_grad_enabled()))
        if scale == -1.0:
            raise ValueError("a fault inside a block")
        return states * self.weight * scale


def make_blocks(count: int = 3) -> nn.ModuleList:
    return nn.ModuleList(Block() for _ in range(count))


def run(blocks: nn.ModuleList, hidden: Tensor, **arguments: Any) -> Tensor:
    for block in blocks:
        hidden = block(hidden, **arguments)
    return hidden


def hooks(blocks: nn.ModuleList) -> int:
    return sum(len(block._forward_pre_hooks) + len(block._forward_hooks) for block in blocks)


@pytest.mark.parametrize("by_name", [False, True])
def test_inputs_are_recorded_and_replaced(by_name: bool) -> None:
    blocks = make_blocks()
    recorded: dict[int, Tensor] = {}

    def on_call(index: int, call: BlockCall) -> None:
        recorded[index] = call.hidden
        if index == 2:
            call.hidden = recorded[0] + 100

    hidden = torch.ones(1, 2, 3)
    with block_calls({0: blocks[0], 2: blocks[2]}, on_call):
        for block in blocks:
            hidden = block(states=hidden) if by_name else block(hidden)
    assert sorted(recorded) == [0, 2]
    assert torch.equal(recorded[2], torch.full((1, 2, 3), 4.0))
    assert torch.equal(hidden, torch.full((1, 2, 3), 202.0))
    assert hooks(blocks) == 0


def test_other_arguments_are_replaced_where_they_are_or_added() -> None:
    block = make_blocks(1)[0]
    first, second = torch.zeros(1), torch.ones(1)

    def on_call(_index: int, call: BlockCall) -> None:
        assert call.get("mask") is first
        assert call.get("extra") is None
        call.set("mask", second)
        call.set("extra", 7)

    with block_calls({0: block}, on_call):
        block(torch.ones(1), first)
        block(torch.ones(1), mask=first)
        block(torch.ones(1), first, 3.0)
    assert [(mask is second, scale, more) for mask, scale, more, _ in block.seen] == [
        (True, 1.0, {"extra": 7}),
        (True, 1.0, {"extra": 7}),
        (True, 3.0, {"extra": 7}),
    ]


@pytest.mark.parametrize("where", ["block", "hook"])
def test_an_error_leaves_no_hook_and_the_callers_grad_mode(where: str) -> None:
    blocks = make_blocks()

    def on_call(index: int, _call: BlockCall) -> None:
        if where == "hook" and index == 1:
            raise ValueError("a fault inside a hook")

    arguments = {"scale": -1.0} if where == "block" else {}
    with (
        pytest.raises(ValueError, match="a fault inside"),
        early_route(blocks, 2),
        block_calls(dict(enumerate(blocks)), on_call),
    ):
        run(blocks, torch.ones(1), **arguments)
    assert hooks(blocks) == 0
    assert torch.is_grad_enabled()


def test_a_block_whose_first_argument_is_no_tensor() -> None:
    block = make_blocks(1)[0]
    with (
        pytest.raises(UnsupportedBackboneError, match=r"A Block got tuple as its first argument, 'states'"),
        block_calls({0: block}, lambda _index, call: call.hidden),
    ):
        block((torch.ones(1),))


def test_a_wrapped_forward_is_still_understood() -> None:
    block = make_blocks(1)[0]
    original = block.forward
    block.forward = lambda *args, **kwargs: original(*args, **kwargs)
    seen: list[Tensor] = []
    with block_calls({0: block}, lambda _index, call: seen.append(call.hidden)):
        block(states=torch.ones(2))
    assert torch.equal(seen[0], torch.ones(2))


@pytest.mark.parametrize(("first_late", "modes"), [(0, [1, 1, 1]), (1, [0, 1, 1]), (2, [0, 0, 1]), (3, [0, 0, 0])])
def test_gradients_begin_with_the_first_late_block(first_late: int, modes: list[int]) -> None:
    blocks = make_blocks()
    with early_route(blocks, first_late):
        out = run(blocks, torch.ones(1))
        inside = torch.is_grad_enabled()
    assert [int(block.seen[0][3]) for block in blocks] == modes
    assert inside == bool(modes[-1])
    assert torch.is_grad_enabled()
    assert out.requires_grad == bool(modes[-1])
    if modes[-1]:
        out.sum().backward()
    assert [block.weight.grad is not None for block in blocks] == [bool(mode) for mode in modes]
    assert hooks(blocks) == 0


def test_a_caller_under_no_grad_stays_there() -> None:
    blocks = make_blocks()
    with torch.no_grad(), early_route(blocks, 1):
        out = run(blocks, torch.ones(1))
    assert not out.requires_grad
    assert not any(block.seen[0][3] for block in blocks)


def test_gradients_are_on_when_the_first_late_blocks_input_is_replaced() -> None:
    blocks = make_blocks()
    added = nn.Parameter(torch.ones(1))

    def on_call(_index: int, call: BlockCall) -> None:
        call.hidden = call.hidden + added

    with early_route(blocks, 1), block_calls({1: blocks[1]}, on_call):
        run(blocks, torch.ones(1)).sum().backward()
    assert added.grad is not None
    assert blocks[0].weight.grad is None
