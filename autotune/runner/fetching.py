"""Hidden states brought from the driver's machine to another, so that a trial reads there what the study has stored."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from autotune.errors import StoreError
from autotune.features.copying import Giver, Source, stems_of, take
from autotune.features.leftovers import names_in
from autotune.features.marks import MANIFEST, folder_names, parse

CHUNK_BYTES, AHEAD = 4 * 2**20, 4
"""Of a file at a time, and how many such are asked for before the first has come; Ray's smallest object store takes 75 MiB."""
PATIENCE_SECONDS = 60.0
"""How long nothing may come."""
LOOK_SECONDS = 0.5
END_SECONDS = 10.0


def lie_here(shared: Mapping[str, Any]) -> bool:
    """Whether all files that a trial reads are whole in this machine's store, by their names alone; the trial looks closer."""
    wanted = {(stem, MANIFEST) for stem in stems_of(shared["places"])}
    folders = (Path(shared["root"], name) for name in folder_names(shared["folder"]))
    return any(wanted <= {parse(name) for name in names_in(folder)} for folder in folders)


def node_here() -> str:
    """Ray's number of this machine; "" where Ray does not run."""
    return str(ray.get_runtime_context().get_node_id()) if ray.is_initialized() else ""


class Fetching:
    """What a trial reads, being brought here in a thread of its own.

    answer: None while that is at work; then why it is not here, "" where it is.
    """

    def __init__(self, shared: Mapping[str, Any], home: str) -> None:
        """home: Ray's number of the driver's machine."""
        self.answer: str | None = None
        self._shared, self._home = shared, home
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="fetching", daemon=True)
        self._thread.start()

    def wait(self, seconds: float) -> str | None:
        """The answer, waited for so long."""
        self._thread.join(seconds)
        return self.answer

    def close(self) -> None:
        """End it where it is still at work; what is not whole by then is removed."""
        self._ended.set()
        self._thread.join(END_SECONDS)

    def _work(self) -> None:
        shared, source = self._shared, _Home(self._shared, self._home, self._going_on)
        why = "the thread that brought it broke off"
        try:
            take(
                shared["root"],
                shared["key"],
                shared["places"],
                source.opened,
                budget=shared.get("budget"),
                going_on=self._going_on,
            )
            why = ""
        except (StoreError, OSError, RayError) as error:
            why = _said(error)
        finally:
            self.answer = why and f"what the study has stored could not be copied to this machine ({why})"
            source.close()

    def _going_on(self) -> None:
        if self._ended.is_set():
            raise StoreError("it was ended before it was done")


def _said(error: BaseException) -> str:
    """Of an error on the other side what it says there, without Ray's traceback."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    lines = str(cause).strip().splitlines()
    return lines[0] if lines else repr(cause)


class _Home(Source):
    """The driver's machine, from another: an actor that runs there and reads."""

    def __init__(self, shared: Mapping[str, Any], home: str, going_on: Callable[[], None]) -> None:
        self._shared, self._home_id, self._going_on = shared, home, going_on
        self._actor: Any = None

    def opened(self) -> Source:
        """With its actor started."""
        there = NodeAffinitySchedulingStrategy(self._home_id, soft=False)
        giving = ray.remote(_Giving).options(num_cpus=0, scheduling_strategy=there)
        self._actor = giving.remote(self._shared["root"], self._shared["key"], self._shared["places"])
        return self

    def manifests(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = self._got(self._actor.manifests.remote())
        return found

    def chunks(self, stem: str, size: int) -> Iterator[memoryview]:
        offsets, asked = iter(range(0, size, CHUNK_BYTES)), deque[Any]()
        for offset in offsets:
            asked.append(self._actor.read.remote(stem, offset, CHUNK_BYTES))
            if len(asked) == AHEAD:
                yield memoryview(self._got(asked.popleft()))
        while asked:
            yield memoryview(self._got(asked.popleft()))

    def _got(self, reference: Any) -> Any:
        waited = 0.0
        while not ray.wait([reference], timeout=LOOK_SECONDS)[0]:
            self._going_on()
            waited += LOOK_SECONDS
            if waited > PATIENCE_SECONDS:
                raise StoreError(f"nothing came from the driver's machine for {PATIENCE_SECONDS:.0f} s")
        return ray.get(reference)

    def close(self) -> None:
        """Nothing of it runs on."""
        if self._actor is not None:
            ray.kill(self._actor)


class _Giving:
    """A Ray actor where the files lie."""

    def __init__(self, root: str, key: Mapping[str, Any], places: Iterable[tuple[str, int]]) -> None:
        self._given = cache(lambda: Giver(root, key, places))  # in a call, which can raise; a constructor only dies

    def manifests(self) -> dict[str, dict[str, Any]]:
        return self._given().manifests()

    def read(self, stem: str, offset: int, size: int) -> NDArray[np.uint8]:
        """An array, since Ray does not copy it where it is received."""
        return np.frombuffer(self._given().read(stem, offset, size), dtype=np.uint8)
