"""Batches prepared while the one before them is in use: read from the disk, and on a GPU copied there meanwhile."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

from sherl.forms import moved

T = TypeVar("T")


def read_ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items in the same order, each made in one background thread while the one before it is in use.

    Never more than one is made ahead. What making one raises is raised where it would have come. The thread ends with the
    iterator: at its end, at an error, or when it is abandoned (closed or no longer referred to).
    """
    end = object()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="read-ahead") as thread:
        coming = thread.submit(next, items, end)
        while (made := coming.result()) is not end:
            coming = thread.submit(next, items, end)
            yield made  # type: ignore[misc]  # the end is no T, and it is not given out


class SideStream:
    """Copies batches to a GPU beside the work that goes on there. Not for several threads.

    The GPU never holds more than the batch in use and the next one: the CPU may run many steps ahead of it, and each would hold its
    batch until the GPU has come to it.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch types it not
        self._given: torch.cuda.Event | None = None

    def bring(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The batch on the GPU; what the caller's stream is asked for from now on waits for the copy. Best from pinned memory, and
        when nobody refers to the batch before the last any more: its room is this one's."""
        if self._given is not None:
            self._given.synchronize()  # else the batch before the last is in use, and this one takes new room
        with torch.cuda.stream(self._stream):
            brought = {name: moved(tensor, self._device) for name, tensor in batch.items()}
            copied = self._stream.record_event()
        here = torch.cuda.current_stream(self._device)
        here.wait_event(copied)
        for tensor in brought.values():
            tensor.record_stream(here)  # else the allocator may give its memory to the next copy while it is in use
        self._given = here.record_event()
        return brought


@functools.cache
def side_stream(device: torch.device) -> SideStream:
    """The one of this process for a device: what the allocator has for one stream it never gives to another, so that each more would
    take the memory of its batches anew."""
    return SideStream(device)
