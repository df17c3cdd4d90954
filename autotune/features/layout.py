"""How the values of one place lie in its file: row after row, nothing between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

DTYPES: dict[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""What may be stored, by its name in the files."""

STAND_INS: dict[torch.dtype, tuple[torch.dtype, str]] = {
    torch.float32: (torch.int32, "<i4"),
    torch.bfloat16: (torch.int16, "<i2"),
    torch.float16: (torch.int16, "<i2"),
}
"""Types of the same width that torch and numpy both have: values are moved, never calculated with."""


@dataclass(frozen=True, eq=False)
class Layout:
    """The values of one place for all rows of a part.

    Made by :meth:`tokens` where rows have different numbers of tokens, by :meth:`fixed` where all have one shape.
    rows: how many. shape: of one row, for tokens without the token dimension, i.e. ``[width]``. lengths: int64 ``[rows]``,
    tokens of each row; None where the shape is fixed.
    """

    rows: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    lengths: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        if self.rows < 0 or not self.shape or min(self.shape) < 1:
            raise ValueError(
                f"Features need 0 or more rows of a shape whose sizes are at least 1; {self.rows} rows of "
                f"{list(self.shape)} were given."
            )
        if self.dtype not in STAND_INS:
            raise ValueError(f"Features are stored as {', '.join(DTYPES)}; {self.dtype} was given.")
        if self.lengths is not None and (len(self.lengths) != self.rows or self.lengths.min(initial=0) < 0):
            raise ValueError(f"Each of the {self.rows} rows needs its number of tokens, 0 or more.")

    @classmethod
    def tokens(cls, lengths: NDArray[Any] | list[int], width: int, dtype: torch.dtype) -> Layout:
        """Rows of ``[tokens, width]``, each with its own number of tokens.

        Raises:
            ValueError: a length is below 0, the width below 1, or the type is none of :data:`DTYPES`.
        """
        own = np.array(lengths, dtype=np.int64)
        own.setflags(write=False)
        return cls(len(own), (width,), dtype, own)

    @classmethod
    def fixed(cls, rows: int, shape: tuple[int, ...], dtype: torch.dtype) -> Layout:
        """Rows of one shape, e.g. ``[tokens, width]`` of images or ``[channels, height, width]`` of maps.

        Raises:
            ValueError: ``rows`` is below 0, a size below 1, or the type is none of :data:`DTYPES`.
        """
        return cls(rows, tuple(shape), dtype)

    @property
    def dtype_name(self) -> str:
        """The type as files name it."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def item_bytes(self) -> int:
        """Bytes of one token, or of one row of fixed shape."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    @property
    def items(self) -> int:
        """Tokens of all rows, or rows of fixed shape."""
        return self.rows if self.lengths is None else int(self.lengths.sum())

    @property
    def value_bytes(self) -> int:
        """Bytes of all values: what stands at the beginning of the file."""
        return self.items * self.item_bytes

    @property
    def index_bytes(self) -> int:
        """Bytes of what stands behind them: int64 lengths (of tokens only), uint64 checksums of rows."""
        return self.rows * (8 if self.lengths is None else 16)

    @property
    def file_bytes(self) -> int:
        """Size of the file."""
        return self.value_bytes + self.index_bytes

    @property
    def longest(self) -> int | None:
        """Tokens of the longest row; None where the shape is fixed."""
        return None if self.lengths is None else int(self.lengths.max(initial=0))

    def begins(self) -> NDArray[np.int64]:
        """int64 ``[rows + 1]``: the item at which each row begins, and at the end their number."""
        if self.lengths is None:
            return np.arange(self.rows + 1, dtype=np.int64)
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(self.lengths)])

    def batch_shape(self, rows: int, tokens: int | None) -> tuple[int, ...]:
        """Shape of a batch: ``[rows, tokens, width]``, or ``[rows, *shape]`` where the shape is fixed."""
        return (rows, *self.shape) if self.lengths is None else (rows, int(tokens or 0), *self.shape)

    def same_rows(self, other: Layout) -> bool:
        """Whether both describe the same values: rows, shape, type and every length."""
        if (self.rows, self.shape, self.dtype) != (other.rows, other.shape, other.dtype):
            return False
        if self.lengths is None or other.lengths is None:
            return self.lengths is other.lengths
        return bool(np.array_equal(self.lengths, other.lengths))
