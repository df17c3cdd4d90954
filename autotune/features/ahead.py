"""Batches prepared while the one before them is in use: read from the disk, and on a GPU copied there meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
    """Copies batches to a GPU beside the work that goes on there. Made and entered by one thread, received by another."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch types it not

    def send(self, batch: dict[str, Tensor]) -> Callable[[], dict[str, Tensor]]:
        """Begin the copy of a batch in pinned memory; the answer waits for it, on the stream of whoever calls it."""
        with torch.cuda.stream(self._stream):
            sent = {name: moved(tensor, self._device) for name, tensor in batch.items()}
            copied = self._stream.record_event()

        def receive() -> dict[str, Tensor]:
            here = torch.cuda.current_stream(self._device)
            here.wait_event(copied)
            for tensor in sent.values():
                tensor.record_stream(here)  # else the allocator may give its memory to the next copy while it is in use
            return sent

        return receive
