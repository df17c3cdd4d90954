"""What predictions remember of a study: traced figures, what trials taught the margin, what memory ended."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from pathlib import Path
from typing import Any

from autotune.files import append_line, json_lines
from autotune.memory.gpus import gpu_key
from autotune.memory.margin import MarginKind
from autotune.memory.trace import TraceResult

# What a kind's margin is a share of. Scores on another base, of older versions, say nothing.
_BASES: dict[MarginKind, str] = {"fast": "allocated", "tight": "allocated", "cuda": "reserved"}

_MOST_BYTES = 2**60
"""More than any device has: such a figure is damage."""
_MOST_SCORE = 1e6
"""A trial that used so many times its margin is damage too: of the least margin it is 64 TB."""


class PredictionStore:
    """Traces' figures, scores and breaches in memory, and in a file of JSON lines where a path is given.

    Args:
        path: the file, read at the start and appended to; lines that are damaged or of other code are passed over.
        context_bytes: of a CUDA context, with which predictions are made now.

    Raises:
        OSError: the file is there and cannot be read; of the methods: it cannot be written.
    """

    def __init__(self, path: Path | None, *, context_bytes: int) -> None:
        self._context_bytes = context_bytes
        self.traces: dict[str, TraceResult] = {}
        self.scores: dict[tuple[MarginKind, str], list[float]] = {}  # by kind and GPU
        self.breaches: dict[str, int] = {}  # of each shape, the most that a trial held which memory ended
        self._path = path
        if path is not None and path.exists():
            for line in json_lines(path):
                # a line of another form is no reason to stop; what it held is traced again
                with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
                    self._take(line)

    def add_trace(self, key: str, result: TraceResult) -> None:
        """Remember what was traced of a shape."""
        self.traces[key] = result
        figures = {name: value for name, value in dataclasses.asdict(result).items() if value is not None}
        self._append({"trace": key, **figures})

    def add_score(self, kind: MarginKind, device: str, value: float) -> None:
        """Remember how much of its margin a trial used (:func:`autotune.memory.margin.score`)."""
        self.scores.setdefault((kind, device), []).append(value)
        line = {"score": value, "kind": kind, "base": _BASES[kind], "device": device}
        self._append({**line, "context": self._context_bytes} if kind == "cuda" else line)

    def add_breach(self, key: str, held: int, predicted: int) -> None:
        """Remember what a trial of a shape held, in bytes, when memory ended it."""
        self.breaches[key] = held
        self._append({"breach": key, "held": held, "predicted": predicted})

    def _take(self, line: dict[str, Any]) -> None:
        if "trace" in line:
            parts = {str(part): _bytes(count) for part, count in line["parts"].items()}
            reserved = {name: _bytes(line[name]) for name in ("reserved", "reserved_expandable") if name in line}
            self.traces[str(line["trace"])] = TraceResult(allocated=_bytes(line["allocated"]), parts=parts, **reserved)
        elif "breach" in line:
            key = str(line["breach"])
            self.breaches[key] = max(_bytes(line["held"]), self.breaches.get(key, 0))
        elif "score" in line and self._tells(line):
            self.scores.setdefault((line["kind"], gpu_key(str(line.get("device", "")))), []).append(
                _score(line["score"])
            )

    def _tells(self, line: dict[str, Any]) -> bool:
        """Whether a score is of a known kind and on the base, and beside the context, that are reckoned with now."""
        kind = line["kind"]
        same_context = kind != "cuda" or line.get("context") == self._context_bytes
        return kind in _BASES and line.get("base", "allocated") == _BASES[kind] and same_context

    def _append(self, line: dict[str, Any]) -> None:
        if self._path is not None:
            append_line(self._path, json.dumps(line))


def _bytes(figure: Any) -> int:
    """A figure of a line, in bytes.

    Raises:
        ValueError: it is none that memory can have.
    """
    if not isinstance(figure, int) or not 0 <= figure < _MOST_BYTES:
        raise ValueError(f"{figure!r} is no number of bytes.")
    return figure


def _score(figure: Any) -> float:
    """A score of a line.

    Raises:
        ValueError: it is none that a trial can have.
    """
    if not isinstance(figure, int | float) or not abs(figure) < _MOST_SCORE:
        raise ValueError(f"{figure!r} is no score.")
    return float(figure)
