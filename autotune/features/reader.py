"""Reading features: a read-only memory map of each file, and one copy from it into the batch.

A map's pages belong to the file: all trials share them, the system drops and rereads them as it likes, and they count as
no process's private memory. Rows are copied one by one, straight to where they stand in the batch; only padding is set to
zero. The system is advised of nothing: to be told of random access makes it read page by page, many times slower from a cold
disk. ``benchmarks/feature_reading.py`` measures this, and gathering by index, ``preadv`` and torch's own copies beside it.

Not protected against: a file that changes after it was verified, or whose disk fails. One that shrinks while it is mapped ends
the reading process with SIGBUS; nothing of this project ever shrinks or changes one.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from autotune.features.files import Folder
from autotune.features.layout import DTYPES, STAND_INS, Layout
from autotune.features.manifests import Manifest, touch
from autotune.features.wholeness import damaged_row, has_its_index, open_values
from sherl.features import Place

Rows = NDArray[np.int64]


class Reader:
    """Places of one part, open for reading; none of their files is evicted while it (or a copy in a forked child) lives.

    Use it as a context manager or call :meth:`close`. It may be read from several threads.
    """

    def __init__(self, part: str, opened: dict[Place, OpenFile]) -> None:
        self.part = part
        self._opened = opened

    @property
    def places(self) -> tuple[Place, ...]:
        """What can be read, in the order in which it was asked for."""
        return tuple(self._opened)

    def layout(self, place: tuple[str, int]) -> Layout:
        """Rows, shapes and lengths of a place.

        Raises:
            ValueError: the place is not open.
        """
        return self._of(place).layout

    def form(self, place: tuple[str, int]) -> tuple[tuple[int, ...], Any]:
        """Shape of the longest row, ``[tokens, width]`` or the fixed shape, and its type.

        Raises:
            ValueError: the place is not open.
        """
        layout = self.layout(place)
        return layout.batch_shape(1, layout.longest)[1:], layout.dtype

    def shape(self, place: tuple[str, int], rows: Rows) -> tuple[int, ...]:
        """Shape of a batch of these rows, as wide as its longest row.

        Raises:
            ValueError: the place is not open.
        """
        layout = self.layout(place)
        tokens = None if layout.lengths is None else int(layout.lengths[rows].max(initial=0))
        return layout.batch_shape(len(rows), tokens)

    def read(self, place: tuple[str, int], rows: Sequence[int] | Rows, out: Tensor) -> None:
        """Fill a batch: each row's values first, zeros behind them.

        rows: ``[batch]`` numbers of rows, in any order, also repeated. out: contiguous on the CPU, of the place's type,
        ``[batch, tokens, width]`` with room for the longest row, or ``[batch, *shape]``.

        Raises:
            ValueError: the place is not open, there is no such row, or ``out`` does not suit it.
        """
        self._of(place).read(np.asarray(rows, dtype=np.int64), out)

    def _of(self, place: tuple[str, int]) -> OpenFile:
        try:
            return self._opened[Place(*place)]
        except KeyError:
            open_ones = ", ".join(f"{stack} {n}" for stack, n in self._opened) or "none"
            raise ValueError(
                f"{tuple(place)} of part {self.part!r} is not open for reading; open are: {open_ones}."
            ) from None

    def close(self) -> None:
        """Let the files go; harmless a second time."""
        self._opened = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class OpenFile:
    """One mapped file of values."""

    def __init__(self, layout: Layout, content: mmap.mmap | bytes) -> None:
        """content: the whole file."""
        self.layout = layout
        self._begins = layout.begins()
        self._stand_in, kind = STAND_INS[layout.dtype]
        count = layout.value_bytes // layout.dtype.itemsize
        # views of the map, read-only as it is
        self._values = np.frombuffer(content, dtype=kind, count=count).reshape(layout.items, *layout.shape)

    def read(self, rows: Rows, out: Tensor) -> None:
        layout = self.layout
        if rows.size and not (rows.min() >= 0 and rows.max() < layout.rows):
            raise ValueError(f"Rows are 0 to {layout.rows - 1}; {rows.min()} to {rows.max()} were asked for.")
        tokens = out.shape[1] if layout.lengths is not None and out.ndim > 1 else None
        longest = None if layout.lengths is None else int(layout.lengths[rows].max(initial=0))
        fits = tuple(out.shape) == layout.batch_shape(len(rows), tokens) and (longest or 0) <= (tokens or longest or 0)
        if not fits or out.dtype != layout.dtype or not out.is_contiguous() or out.device.type != "cpu":
            raise ValueError(
                f"Rows are read into a contiguous {layout.dtype_name} tensor {list(layout.batch_shape(len(rows), longest))} "
                f"on the CPU, or one with more tokens; {out.dtype} {list(out.shape)} on {out.device} was given."
            )
        into = out.view(self._stand_in).numpy()
        if layout.lengths is None:
            for row, target in zip(rows.tolist(), into, strict=True):
                target[...] = self._values[row]
            return
        begins, ends = self._begins[rows].tolist(), self._begins[rows + 1].tolist()
        for begin, end, target in zip(begins, ends, into, strict=True):
            target[: end - begin] = self._values[begin:end]
            if end - begin < len(target):
                target[end - begin :] = 0


def open_reader(folder: Folder, part: str, places: Iterable[tuple[str, int]], *, verify: bool) -> Reader | None:
    """All of these places, or None where one of them is not whole; the folder's notes say which and why."""
    opened: dict[Place, OpenFile] = {}
    indices: dict[str, Rows] = {}
    for place in places:
        stem_known = Place(*place)
        manifest = folder.manifest(part, stem_known)
        if manifest is None:
            folder.note(f"{folder.path} holds no whole features of {part} {stem_known.stack} {stem_known.n}.")
            return None
        found = _open(folder, manifest, indices, verify=verify)
        if found is None:
            return None
        opened[stem_known] = found
    return Reader(part, opened)


def _open(folder: Folder, manifest: Manifest, known: dict[str, Rows], *, verify: bool) -> OpenFile | None:
    """Map a file and hold it; ``known`` keeps lengths by their digest, since all places of a part mostly share them."""
    descriptor = open_values(manifest)
    if isinstance(descriptor, str):
        folder.note(f"{manifest.values} {descriptor}: it is passed over.")
        return None
    try:
        # the map keeps a copy of the descriptor, and with it the lock
        content = mmap.mmap(descriptor, 0, prot=mmap.PROT_READ) if manifest.file_bytes else b""
    except (OSError, ValueError) as error:
        folder.note(f"{manifest.values} cannot be mapped ({error}): it is passed over.")
        return None
    finally:
        os.close(descriptor)
    wrong, made = "has a damaged index", None
    with memoryview(content) as seen:
        if has_its_index(manifest, seen):
            try:
                made = OpenFile(_layout(manifest, bytes(seen[manifest.value_bytes :]), known), content)
            except (ValueError, KeyError) as error:
                wrong = f"has a manifest that does not suit it ({error})"
        row = damaged_row(manifest, seen) if made is not None and verify else None
    if row is not None:
        made, wrong = None, f"has a damaged row {row}: its checksum is not that of the values that were written"
    if made is None:
        del content
        if verify:
            folder.discard(manifest, wrong)
        else:
            folder.note(f"{manifest.values} {wrong}: it is passed over.")
        return None
    touch(manifest)
    return made


def _layout(manifest: Manifest, index: bytes, known: dict[str, Rows]) -> Layout:
    """Raises:
    ValueError, KeyError: the manifest and the file do not go together.
    """
    lengths = None
    if manifest.ragged:
        lengths = known.setdefault(
            manifest.lengths_digest, np.frombuffer(index, dtype="<i8", count=manifest.rows).astype(np.int64)
        )
    made = Layout(manifest.rows, manifest.shape, DTYPES[manifest.dtype], lengths)
    if (made.items, made.value_bytes, made.file_bytes) != (manifest.items, manifest.value_bytes, manifest.file_bytes):
        raise ValueError("its sizes contradict each other")
    return made
