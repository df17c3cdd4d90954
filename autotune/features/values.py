"""One file of values while it is written: room for it, its rows in any order, and at last its manifest."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from xxhash import xxh3_64_intdigest, xxh3_128_hexdigest

from autotune.features.files import Folder
from autotune.features.layout import Layout
from autotune.features.manifests import FORMAT, FORMAT_VERSION
from autotune.features.new_files import NewFile
from sherl.features import Place


class ValuesFile:
    """One file of values while it is written."""

    def __init__(self, folder: Folder, stem: str, layout: Layout) -> None:
        self.layout = layout
        self._folder = folder
        self._file = NewFile(folder, stem)
        self._begins = layout.begins()
        self._came = np.zeros(layout.rows, dtype=np.bool_)
        self._checksums = np.zeros(layout.rows, dtype="<u8")

    def take_room(self) -> None:
        """Raises:
        OSError: there is none.
        """
        self._file.take_room(self.layout.file_bytes)

    def put(self, rows: NDArray[np.int64], values: Tensor) -> None:
        layout = self.layout
        self._check(rows, values)
        if not rows.size:
            return
        # bytes of each row's items: [rows, tokens, bytes] or [rows, 1, bytes]
        items, size = 1 if layout.lengths is None else values.shape[1], layout.item_bytes
        raw = values.detach().cpu().contiguous().view(torch.uint8).numpy().reshape(len(rows), items, size)
        begins, ends = self._begins[rows].tolist(), self._begins[rows + 1].tolist()
        for row, own, begin, end in zip(rows.tolist(), raw, begins, ends, strict=True):
            kept = own[: end - begin].reshape(-1).data
            self._checksums[row] = xxh3_64_intdigest(kept)
            self._file.write(kept, begin * size)
        self._came[rows] = True

    def _check(self, rows: NDArray[np.int64], values: Tensor) -> None:
        layout = self.layout
        if rows.size and not (rows.min() >= 0 and rows.max() < layout.rows):
            raise ValueError(
                f"Rows of {self._file.stem} are 0 to {layout.rows - 1}; {rows.min()} to {rows.max()} were given."
            )
        tokens = None
        if layout.lengths is not None:
            tokens = max(values.shape[1] if values.ndim > 1 else 0, int(layout.lengths[rows].max(initial=0)))
        wanted = layout.batch_shape(len(rows), tokens)
        if tuple(values.shape) != wanted or values.dtype != layout.dtype:
            raise ValueError(
                f"Values of {self._file.stem} for these rows are {layout.dtype_name} {list(wanted)}; "
                f"{values.dtype} {list(values.shape)} were given."
            )

    def check_all_came(self, place: Place) -> None:
        if not self._came.all():
            missing = np.flatnonzero(~self._came)
            raise ValueError(
                f"{len(missing)} of {self.layout.rows} rows of {tuple(place)} were never written, row {missing[0]} for one."
            )

    def finish(self) -> None:
        """The values reach the disk, then the manifest appears; harmless a second time.

        Raises:
            OSError: the disk does not take them, or the file was removed.
        """
        if self._file.finished:
            return
        layout = self.layout
        index = self._checksums.tobytes()
        if layout.lengths is not None:
            index = layout.lengths.astype("<i8").tobytes() + index
        self._file.write(memoryview(index), layout.value_bytes)
        manifest = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "key_digest": self._folder.digest,
            "stem": self._file.stem,
            "rows": layout.rows,
            "shape": list(layout.shape),
            "dtype": layout.dtype_name,
            "ragged": layout.lengths is not None,
            "items": layout.items,
            "value_bytes": layout.value_bytes,
            "file_bytes": layout.file_bytes,
            "index_checksum": xxh3_128_hexdigest(index),
            "lengths_digest": lengths_digest(layout),
        }
        self._file.finish(manifest)

    def close(self, *, keep: bool) -> None:
        """As :meth:`autotune.features.new_files.NewFile.close`."""
        self._file.close(keep=keep)


def lengths_digest(layout: Layout) -> str:
    """Equal for layouts whose rows have equal lengths; empty where the shape is fixed."""
    return "" if layout.lengths is None else hashlib.sha256(layout.lengths.astype("<i8").tobytes()).hexdigest()[:32]
