"""Rows of one source as they were read: named columns of cells, nothing interpreted yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Table:
    """Cells by column. A cell is a str (csv, tsv) or whatever json, parquet or the hub hold; None where it is absent.

    source: how messages name it (a path, a packaged set, a hub id).
    columns: column name -> cells, all of one length.
    lines: the line of the file that each row starts in; empty for sources without lines.
    identity: what tells this very content from another (a sha256 of a file's bytes).
    class_orders: column -> names of its classes in the source's own order, where it has one (the hub's class labels).
    """

    source: str
    columns: dict[str, list[Any]]
    lines: Sequence[int] = field(default=(), repr=False)
    identity: str = ""
    class_orders: dict[str, list[str]] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def place(self, row: int) -> str:
        """Where a row (0-based) stands, for messages: rows are counted from 1 without the header."""
        line = f" (line {self.lines[row]})" if len(self.lines) else ""
        return f"{self.source} row {row + 1}{line}"
