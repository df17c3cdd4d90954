"""TensorMemory against arithmetic done by hand, against torch's own profiler, and its invariants on random programs."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from autotune.memory.allocated import PARTS, TensorMemory

MODES = pytest.mark.parametrize("mode", [contextlib.nullcontext, FakeTensorMode], ids=["real", "fake"])


@MODES
def test_births_and_deaths_are_counted(mode: type) -> None:
    with mode(), TensorMemory() as memory:
        first = torch.zeros(100)
        second = torch.zeros(50, dtype=torch.float64)
        assert memory.live_bytes == 800
        del first
        assert (memory.live_bytes, memory.peak_bytes) == (400, 800)
        third = torch.zeros(10, dtype=torch.int8)
        assert (memory.live_bytes, memory.peak_bytes) == (410, 800)
        del second, third
        assert (memory.live_bytes, memory.peak_bytes) == (0, 800)


@MODES
def test_views_and_in_place_operations_cost_nothing(mode: type) -> None:
    with mode(), TensorMemory() as memory:
        base = torch.zeros(4, 25)
        view = base.t()[3:, 1:].unsqueeze(0)
        base.add_(1).relu_()
        base.detach().reshape(-1)
        assert (memory.live_bytes, memory.peak_bytes) == (400, 400)
        del base
        assert memory.live_bytes == 400, "the view keeps the storage alive"
        del view
        assert memory.live_bytes == 0


@MODES
def test_a_resize_changes_what_is_counted(mode: type) -> None:
    with mode(), TensorMemory() as memory:
        tensor = torch.zeros(10)
        tensor.resize_(1000)
        assert memory.live_bytes == 4000
        torch.add(torch.zeros(3), 1, out=torch.empty(0))
        assert memory.live_bytes == 4000
        del tensor
        assert memory.live_bytes == 0
        assert memory.peak_bytes >= 4000


def test_what_autograd_saves_lives_until_backward() -> None:
    weight = torch.zeros(100, requires_grad=True)
    with TensorMemory() as memory:
        memory.track(weight)
        hidden = (weight * 2).exp()  # exp saves its result, which stays alive though nothing here names it
        loss = hidden.sum()
        del hidden
        assert memory.live_bytes == 400 + 400 + 4
        loss.backward()
        del loss
        assert memory.live_bytes == 400 + 400, "the weight and its gradient"
        weight.grad = None
        assert memory.live_bytes == 400


def test_storages_from_before_count_once_when_entered() -> None:
    layer = nn.Linear(10, 10)
    tied = nn.ModuleList([layer, layer])
    batch = {"ids": torch.zeros(5, dtype=torch.int64), "more": [torch.zeros(5)]}
    with TensorMemory() as memory:
        memory.track(tied, layer, batch, batch, layer.weight.view(-1))
        assert memory.live_bytes == 440 + 40 + 20
        assert memory.peak_parts["inputs"] == 60 + 400  # a name given later replaces the earlier one


def test_what_is_left_after_the_block_changes_nothing() -> None:
    with TensorMemory() as memory:
        tensor = torch.zeros(100)
    del tensor
    torch.zeros(10_000)
    assert (memory.live_bytes, memory.peak_bytes) == (400, 400)


def test_a_block_is_entered_once_only() -> None:
    memory = TensorMemory()
    with memory, pytest.raises(RuntimeError, match="Make a new one"):
        memory.__enter__()
    with pytest.raises(RuntimeError, match="entered before"):
        memory.__enter__()


def test_an_exception_leaves_nothing_behind() -> None:
    memory = TensorMemory()

    def fail() -> None:
        with memory:
            torch.zeros(10)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    torch.zeros(1000)
    assert memory.peak_bytes == 40
    with TensorMemory() as another:
        torch.zeros(1)
    assert another.peak_bytes == 4


def test_two_followers_may_be_nested() -> None:
    with TensorMemory() as outer:
        first = torch.zeros(10)
        with TensorMemory() as inner:
            second = torch.zeros(5)
    del first, second
    assert (outer.peak_bytes, inner.peak_bytes) == (60, 20)


def test_composite_operators_are_taken_apart_under_inference_mode() -> None:
    """Under inference_mode attention by the math kernel arrives as one operator; its scores count all the same."""

    def attention() -> torch.Tensor:
        query = torch.zeros(2, 4, 16, 8)
        return nn.functional.scaled_dot_product_attention(query, query, query)

    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        with TensorMemory() as without, torch.no_grad():
            attention()
        with TensorMemory() as within, torch.inference_mode():
            attention()
    scores = 2 * 4 * 16 * 16 * 4
    assert without.peak_bytes >= scores
    assert within.peak_bytes >= scores


def test_sparse_tensors_are_counted_by_their_pieces() -> None:
    with TensorMemory() as memory:
        indices, values = torch.zeros(2, 3, dtype=torch.int64), torch.zeros(3)
        sparse = torch.sparse_coo_tensor(indices, values, (5, 5), check_invariants=False)
        assert memory.live_bytes >= 48 + 12
        del sparse, indices, values


def _train(memory: TensorMemory | None, steps: int = 2) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Dropout(0.1), nn.LayerNorm(128), nn.Linear(128, 3))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    batch = torch.zeros(32, 64)
    if memory is not None:
        memory.track(model, batch)
    for _ in range(steps):
        loss = nn.functional.cross_entropy(model(batch), torch.zeros(32, dtype=torch.int64))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return model


@MODES
def test_the_parts_of_the_peak_are_named(mode: type) -> None:
    with mode(), TensorMemory() as memory:
        model = _train(memory)
        weights = sum(parameter.numel() * 4 for parameter in model.parameters())
    parts = memory.peak_parts
    assert tuple(parts) == PARTS
    assert sum(parts.values()) == memory.peak_bytes
    assert parts["weights"] == weights
    assert parts["optimizer"] == 2 * weights + 4 * len(list(model.parameters())), "two moments and step counts"
    assert parts["inputs"] == 32 * 64 * 4
    assert 0 < parts["gradients"] <= weights
    assert parts["activations"] > 0


def test_gradients_are_told_from_activations() -> None:
    layer = nn.Linear(10, 10)
    with TensorMemory() as memory:
        memory.track(layer)
        layer(torch.ones(1, 10)).sum().backward()
        assert memory.live_bytes == 2 * 440
        torch.zeros(100_000)
    assert memory.peak_parts["gradients"] == 440
    assert memory.peak_parts["activations"] == 400_000


def test_following_does_not_change_what_it_follows() -> None:
    plain = _train(None)
    with TensorMemory() as memory:
        followed = _train(memory)
    for one, other in zip(plain.parameters(), followed.parameters(), strict=True):
        assert torch.equal(one, other)
    assert not any(parameter._post_accumulate_grad_hooks for parameter in followed.parameters())


def test_the_peak_agrees_with_torchs_own_profiler() -> None:
    """The profiler hears of each call of the C++ allocator, also of those inside kernels: an independent source."""
    model = nn.Sequential(nn.Linear(256, 1024), nn.GELU(), nn.Linear(1024, 8))
    batch = torch.randn(64, 256)

    def step() -> None:
        loss = model(batch).square().mean()
        loss.backward()
        model.zero_grad(set_to_none=True)

    step()
    gc.collect()
    with TensorMemory() as memory:
        memory.track(model, batch)
        step()
    before = sum(parameter.numel() * 4 for parameter in model.parameters()) + batch.numel() * 4
    with torch.profiler.profile(profile_memory=True) as profiler:
        step()
    live = peak = 0
    for event in _memory_events(profiler):
        live += event
        peak = max(peak, live)
    assert memory.peak_bytes - before == peak


def _memory_events(profiler: torch.profiler.profile) -> Iterator[int]:
    def walk(events: list) -> Iterator[tuple[int, int]]:
        for event in events:
            if event.name == "[memory]" or event.tag.name == "Allocation":
                yield event.start_time_ns, event.extra_fields.alloc_size
            yield from walk(event.children)

    tree = profiler.profiler.kineto_results.experimental_event_tree()
    return (size for _, size in sorted(walk(tree), key=lambda pair: pair[0]))


# Random programs: each step makes, derives, overwrites or forgets a tensor.
_STEPS = st.lists(
    st.tuples(st.sampled_from(["new", "view", "copy", "in_place", "forget", "resize"]), st.integers(0, 7)), max_size=40
)


def _run(program: list[tuple[str, int]], memory: TensorMemory) -> list[tuple[int, int]]:
    held: list[torch.Tensor] = []
    readings = []
    for what, number in program:
        target = held[number % len(held)] if held else None
        if what == "new" or target is None:
            held.append(torch.zeros(number + 1, 3))
        elif what == "view":
            held.append(target.view(-1)[: number + 1])
        elif what == "copy":
            held.append(target + 1)
        elif what == "in_place":
            target.mul_(2)
        elif what == "resize":
            held[number % len(held)] = target.clone().resize_(number + 1, 7)
        else:
            held.pop(number % len(held))
        target = None
        storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in held}
        assert memory.live_bytes == sum(storages.values()), "an independent count of what is held"
        assert memory.peak_bytes >= memory.live_bytes
        readings.append((memory.live_bytes, memory.peak_bytes))
    held.clear()
    assert memory.live_bytes == 0
    return readings


@settings(max_examples=60, deadline=None)
@given(_STEPS)
def test_random_programs(program: list[tuple[str, int]]) -> None:
    with TensorMemory(record_events=True) as real:
        readings = _run(program, real)
    with FakeTensorMode(), TensorMemory(record_events=True) as fake:
        assert _run(program, fake) == readings
    assert real.events == fake.events
    assert real.events is not None
    live = peak = 0
    for event in real.events:
        live += event.change
        peak = max(peak, live)
    assert (live, peak) == (0, real.peak_bytes), "the events say it all"
    assert sum(real.peak_parts.values()) == real.peak_bytes


@MODES
def test_what_backward_does_in_place_where_nobody_follows_is_followed_in_place(mode: type) -> None:
    """torch makes copies in these places where a dispatch mode is on, so that what is followed would be more than what is."""
    with mode():
        leaf = torch.zeros(1000, requires_grad=True)
        index = torch.zeros(10, dtype=torch.int64)

        def births(result: torch.Tensor) -> list[int]:
            with TensorMemory(record_events=True) as memory:
                result.backward()
                leaf.grad = None
            assert memory.events is not None
            return [event.nbytes for event in memory.events if event.kind == "alloc" and event.nbytes >= 4000]

        hidden = leaf * 2
        # of sin and cos one each (and cos or sin of the input), their sum in the first of them, of the product one
        assert births((hidden.sin() + hidden.cos()).sum()).count(4000) == 6
        assert births(leaf.gather(0, index).sum()) == [4000]
        assert births(leaf[index].sum()) == [4000]
        assert births(torch.nn.functional.silu(leaf * 2).sum()) == [4000, 4000], "of silu, and of the product"


@MODES
def test_a_gradient_that_others_hold_is_not_overwritten(mode: type) -> None:
    kept = []
    with mode():
        leaf = torch.ones(8, requires_grad=True)
        hidden = leaf * 1.0
        hidden.register_hook(lambda gradient: kept.append(gradient.clone()))
        first = hidden.sin()
        first.register_hook(kept.append)  # holds the gradient of the sum, which is handed on as well
        with TensorMemory():
            ((first + hidden) * 3.0).sum().backward()
    if mode is contextlib.nullcontext:
        assert leaf.grad is not None
        torch.testing.assert_close(kept[0], torch.full((8,), 3.0))
        torch.testing.assert_close(leaf.grad, 3.0 * (1 + torch.ones(8).cos()))
