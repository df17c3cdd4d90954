"""Hidden states of a part's rows, computed once: the frozen backbone runs over them, and the wanted places are written.

It runs as trials run it, in evaluation mode and without gradients, over the part's evaluation plan, and stops in each batch behind
the last place that is wanted.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from autotune.features.layout import Layout
from autotune.features.scarcity import out_of_memory, release
from sherl.backbones import Backbone
from sherl.data.batching import evaluation_plan
from sherl.data.part import Part
from sherl.errors import DataError, SpecError
from sherl.evaluation import evaluating
from sherl.features import Place
from sherl.forms import TensorForm
from sherl.insertion import BlockCall, block_calls


class Writer(Protocol):
    """Takes hidden states in: what a store gives to whoever builds."""

    @property
    def places(self) -> Iterable[Place]:
        """What is still to be written."""
        ...

    def put(self, place: tuple[str, int], rows: Tensor, values: Tensor) -> None:
        """rows: int64 [batch], their numbers in the part. values: [batch, tokens, width] with each row's tokens first, or
        [batch, *shape]."""
        ...


@dataclass(frozen=True, kw_only=True)
class Built:
    """What building took. rows, tokens (positions of the padded batches; images count 1). forward_seconds: of the passes, up
    to the last wanted place, without what writing took. seconds: all of it, reading and writing too."""

    rows: int
    tokens: int
    forward_seconds: float
    seconds: float


def row_layouts(backbone: Backbone, part: Part, places: Iterable[tuple[str, int]]) -> dict[Place, Layout]:
    """How the rows of these places lie in a store, found by running one row through the backbone.

    Raises:
        DataError: the part has no rows.
        SpecError: there is no such place, or the backbone has a method on it or lacks blocks.
    """
    if len(part) == 0:
        raise DataError(f"The part {part.name!r} has no rows whose hidden states could be computed.")
    lengths = np.asarray(part.lengths, dtype=np.int64)
    found: dict[Place, Layout] = {}
    for place, form in place_forms(backbone, part.largest_batch(1), places).items():
        ragged = follows_tokens(backbone, place)
        shape = form.shape[2:] if ragged else form.shape[1:]
        found[place] = Layout(len(part), shape, getattr(torch, form.dtype), lengths if ragged else None)
    return found


def place_forms(
    backbone: Backbone, batch: dict[str, Tensor], places: Iterable[tuple[str, int]]
) -> dict[Place, TensorForm]:
    """Shapes and types of these places' hidden states of a batch, found by running it through the backbone, fake tensors too.

    Raises:
        SpecError: there is no such place, or the backbone has a method on it or lacks blocks.
    """
    found: dict[Place, TensorForm] = {}

    def on_state(place: Place, hidden: Tensor) -> None:
        found[place] = TensorForm.of(hidden)

    _pass(backbone, inputs_on(backbone.device, batch), _checked(backbone, places), on_state)
    return found


def follows_tokens(backbone: Backbone, place: tuple[str, int]) -> bool:
    """Whether a row of a place has as many positions as the text has tokens: of encoders and decoders that read ids. A decoder
    behind an encoder reads its start token, images and sounds are of one size."""
    name, _ = place
    kind = backbone.layout.kind
    reads_ids = kind in ("encoder", "decoder") or (
        kind == "encoder-decoder" and getattr(backbone.layout, "frames", None) is None
    )
    return reads_ids and name == next(iter(backbone.stacks))


def build(
    backbone: Backbone, part: Part, writer: Writer, *, batch_size: int, on_batch: Callable[[int], None] | None = None
) -> Built:
    """Compute what a writer still wants of a part, and write it.

    backbone: whole, with no method on it; it runs where it lies. batch_size: rows of a pass, halved whenever there is no memory for
    so many; what is computed does not depend on it beyond rounding. on_batch: called behind each batch with the number of rows that are done; what it raises ends the
    building.

    Raises:
        SpecError: there is no such place, or the backbone has a method on it or lacks blocks.
        DataError: a row's padding does not stand behind its tokens.
        MemoryError, RuntimeError: there is no memory for a single row.
    """
    began = time.perf_counter()
    wanted = _checked(backbone, writer.places)
    if not wanted:
        return Built(rows=0, tokens=0, forward_seconds=0.0, seconds=0.0)
    done, tokens, forward, writing = 0, 0, 0.0, 0.0
    lengths = np.asarray(part.lengths, dtype=np.int64)
    left, largest = deque(evaluation_plan(lengths, batch_size)), batch_size
    while left:
        rows = left.popleft()
        if len(rows) > largest:
            left.extendleft(reversed(np.array_split(rows, -(-len(rows) // largest))))
            continue
        batch, numbers = part.batch(rows), torch.from_numpy(rows)
        _check_padding(batch, torch.from_numpy(lengths[rows]))

        def write(place: Place, hidden: Tensor, numbers: Tensor = numbers) -> None:
            nonlocal writing
            on_host = hidden.cpu()  # a GPU is waited for here: that is the pass's time
            started = time.perf_counter()
            writer.put(place, numbers, on_host)
            writing += time.perf_counter() - started

        started = time.perf_counter()
        fitted = _pass_that_fits(backbone, batch, wanted, write)
        forward += time.perf_counter() - started
        if not fitted:
            largest = -(-len(rows) // 2)
            left.appendleft(rows)
            continue
        done += len(rows)
        tokens += int(batch["input_ids"].numel()) if "input_ids" in batch else len(rows)
        if on_batch is not None:
            on_batch(done)
    return Built(rows=done, tokens=tokens, forward_seconds=forward - writing, seconds=time.perf_counter() - began)


def _pass_that_fits(
    backbone: Backbone, batch: dict[str, Tensor], wanted: frozenset[Place], on_state: Callable[[Place, Tensor], None]
) -> bool:
    """One pass, or False where there is no memory for so many rows but may be for fewer; what was written of it by then is
    written again."""
    try:
        _pass(backbone, inputs_on(backbone.device, batch), wanted, on_state)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error) or len(batch["labels"]) == 1:
            raise
    else:
        return True
    release(backbone.device)
    return False


class _Enough(BaseException):
    """Ends a pass behind the last wanted place; no error, and nothing of a model's own code may catch it."""


def _pass(
    backbone: Backbone, batch: dict[str, Tensor], wanted: frozenset[Place], on_state: Callable[[Place, Tensor], None]
) -> None:
    """One pass up to the last wanted place, in evaluation mode and without gradients."""
    spans = backbone.stacks
    last = max(spans[place.stack].start + place.n for place in wanted)
    behind = {place for place in wanted if place.n == len(spans[place.stack])}
    # of equal numbers the output of a stack's last block comes before the input of the next stack's first
    ending = max(wanted, key=lambda place: (spans[place.stack].start + place.n, place not in behind))

    def record(place: Place, hidden: Tensor) -> None:
        if place in wanted:
            on_state(place, hidden)
        if place == ending:
            raise _Enough

    def on_call(layer: int, call: BlockCall) -> None:
        name = next(name for name, span in spans.items() if layer in span)
        record(Place(name, layer - spans[name].start), call.hidden)

    def on_end(name: str) -> Callable[..., None]:
        def hook(_block: Any, _inputs: Any, output: Any) -> None:
            record(Place(name, len(spans[name])), output if isinstance(output, Tensor) else output[0])

        return hook

    seen = {layer: backbone.blocks[layer] for layer in range(min(last + 1, backbone.depth))}
    with torch.no_grad(), evaluating(backbone.model), ExitStack() as stack:
        stack.enter_context(block_calls(seen, on_call))
        for place in behind:
            block = backbone.blocks[spans[place.stack][-1]]
            stack.callback(block.register_forward_hook(on_end(place.stack)).remove)
        try:
            backbone.encode(batch)
        except _Enough:
            return


def _checked(backbone: Backbone, places: Iterable[tuple[str, int]]) -> frozenset[Place]:
    if backbone.method_name is not None or backbone.without is not None:
        what = "lacks blocks" if backbone.without is not None else f"has the method {backbone.method_name!r} on it"
        raise SpecError(
            f"Hidden states to be stored are of the pretrained model, and this backbone {what}: load it anew."
        )
    wanted = frozenset(Place(*place) for place in places)
    spans = backbone.stacks
    unknown = [place for place in wanted if place.stack not in spans or not 0 <= place.n <= len(spans[place.stack])]
    if unknown:
        known = ", ".join(f"{name} 0 to {len(span)}" for name, span in spans.items())
        raise SpecError(
            f"There are no hidden states {sorted(map(tuple, unknown))} in this backbone: known are {known}."
        )
    return wanted


def _check_padding(batch: dict[str, Tensor], lengths: Tensor) -> None:
    mask = batch.get("attention_mask")
    if mask is None or "input_ids" not in batch:
        return
    behind = torch.arange(mask.shape[1])[None] < lengths[:, None]
    if not torch.equal(mask.to(torch.bool), behind):
        raise DataError("Padding stands behind a row's tokens where hidden states are to be stored; here it does not.")


def inputs_on(device: torch.device, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """A batch without its labels, on this device."""
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items() if name != "labels"}
