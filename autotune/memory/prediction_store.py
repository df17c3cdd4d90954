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
from autotune.memory.pairs import BASES, Origin, Pair, checked_bytes
from autotune.memory.shared_pairs import SharedPairs
from autotune.memory.trace import TraceResult

_FIGURES = ("allocated", "reserved", "blocks")
_MOST_SCORE = 1e6
"""A trial that used so many times its margin is damage: of the least margin it is 64 TB."""


class PredictionStore:
    """Traces' figures, pairs and breaches in memory, and in a file of JSON lines where a path is given.

    Args:
        path: the file, read at the start and appended to; lines that are damaged or of other code are passed over.
        origin: what is predicted for now; pairs that do not teach it stay in the file and count for nothing.
        context_bytes: what a CUDA context takes, by what is known now.
        shared: pairs of this user's other studies, read at the start and added to.

    Raises:
        OSError: the file is there and cannot be read; of the methods: it cannot be written.
    """

    def __init__(
        self, path: Path | None, *, origin: Origin, context_bytes: int, shared: SharedPairs | None = None
    ) -> None:
        self._origin, self._context_bytes, self._shared = origin, context_bytes, shared
        self.traces: dict[str, TraceResult] = {}
        self.scores: dict[MarginKind, list[float]] = {}  # of the pairs that teach
        self.breaches: dict[str, int] = {}  # of each shape, the most that a trial held which memory ended
        self._counted: set[str] = set()  # names of pairs
        self._path = path
        if path is not None and path.exists():
            for line in json_lines(path):
                # a line of another form is no reason to stop; what it held is traced again
                with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
                    self._take(line)
        own = len(self._counted)
        for pair in shared.read() if shared is not None else ():
            self._count(pair)
        self.from_others = len(self._counted) - own  # pairs of other studies that teach this one

    def add_trace(self, key: str, result: TraceResult) -> None:
        """Remember what was traced of a shape."""
        self.traces[key] = result
        figures = {name: value for name, value in dataclasses.asdict(result).items() if value is not None}
        self._append({"trace": key, **figures})

    def add_pair(self, pair: Pair, *, share: bool) -> None:
        """Remember what a trial was predicted to hold and what it held. share: for later studies too."""
        self._count(pair)
        self._append(pair.to_line())
        if share and self._shared is not None:
            self._shared.add(pair)

    def add_breach(self, key: str, held: int, predicted: int) -> None:
        """Remember what a trial of a shape held, in bytes, when memory ended it."""
        self.breaches[key] = held
        self._append({"breach": key, "held": held, "predicted": predicted})

    def _take(self, line: dict[str, Any]) -> None:
        if "trace" in line:
            parts = {str(part): checked_bytes(count) for part, count in line["parts"].items()}
            figures = {name: checked_bytes(line[name]) for name in _FIGURES if name in line}
            self.traces[str(line["trace"])] = TraceResult(parts=parts, **figures)
        elif "breach" in line:
            key = str(line["breach"])
            self.breaches[key] = max(checked_bytes(line["held"]), self.breaches.get(key, 0))
        elif "pair" in line:
            self._count(Pair.from_line(line))
        elif "score" in line and self._tells(line):
            self.scores.setdefault(line["kind"], []).append(_score(line["score"]))

    def _count(self, pair: Pair) -> None:
        if pair.origin.teaches(self._origin) and pair.name not in self._counted:
            self._counted.add(pair.name)
            self.scores.setdefault(pair.kind, []).append(pair.score(self._context_bytes))

    def _tells(self, line: dict[str, Any]) -> bool:
        """Of a score as it was written before pairs were: whether it is of a known kind, and on the base, of the GPU and
        beside the context that are reckoned with now."""
        kind = line["kind"]
        same_gpu = gpu_key(str(line.get("device", ""))) == self._origin.gpu and (
            line.get("context") == self._context_bytes
        )
        return kind in BASES and line.get("base", "allocated") == BASES[kind] and (kind != "cuda" or same_gpu)

    def _append(self, line: dict[str, Any]) -> None:
        if self._path is not None:
            append_line(self._path, json.dumps(line))


def _score(figure: Any) -> float:
    """A score of a line.

    Raises:
        ValueError: it is none that a trial can have.
    """
    if not isinstance(figure, int | float) or not abs(figure) < _MOST_SCORE:
        raise ValueError(f"{figure!r} is no score.")
    return float(figure)
