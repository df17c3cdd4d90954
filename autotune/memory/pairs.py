"""What finished trials teach the margin of those to come: pairs of what was predicted and what was measured.

A pair holds bytes, and its score (:func:`autotune.memory.margin.score`) is reckoned when it is read: beside what a CUDA context is
known to take today, which may be more or less than what was reckoned with when the trial ran. It teaches predictions of the
same :class:`Origin` alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self, get_args
from uuid import uuid4

from autotune.memory.margin import MarginKind, score

# What a kind's base is. Scores and pairs on another one, of older versions, say nothing.
BASES: dict[MarginKind, str] = {"fast": "allocated", "tight": "allocated", "cuda": "reserved"}

_MOST_BYTES = 2**60
"""More than any device has: such a figure is damage."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What decides how far a process stands above its prediction, beside its shape. No path, no data and no name of a person.

    torch: its major and minor version. gpu: the kind of GPU (:func:`autotune.memory.gpus.gpu_key`), "" for a CPU; driver:
    its major version. model: the architecture, as the model's configuration calls it (``bert``): a convolution's workspace
    says nothing of an attention's. threads: of a trial on a CPU, each of which has buffers of its own. "" and 0 are not known.
    """

    torch: str = ""
    gpu: str = ""
    driver: str = ""
    model: str = ""
    threads: int = 0

    def teaches(self, other: Origin) -> bool:
        """Whether what was measured here holds there: all is equal but what is not known there of driver and threads, as in a
        plan for a GPU that is elsewhere."""
        same = (self.torch, self.gpu, self.model) == (other.torch, other.gpu, other.model)
        return same and other.driver in ("", self.driver) and other.threads in (0, self.threads)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """kind: of the margin. base: bytes predicted, of tensors, on a GPU of the allocator's reserved. beyond: bytes that the
    process held above them; on a CPU above its baseline too, on a GPU with its CUDA context. assumed_context: bytes of that
    context where it was not measured, else None. name: drawn, so that a pair that stands in two files counts once."""

    kind: MarginKind
    base: int
    beyond: int
    origin: Origin
    assumed_context: int | None = None
    name: str = field(default_factory=lambda: uuid4().hex[:16])

    def score(self, context_bytes: int) -> float:
        """How much of its margin the trial used, given what a context takes by what is known today (of a CPU it plays no part)."""
        context = 0
        if self.kind == "cuda":
            context = context_bytes if self.assumed_context is None else self.assumed_context
        return score(self.kind, self.base, self.beyond - context)

    def to_line(self) -> dict[str, Any]:
        """A JSON-able dictionary, which :meth:`from_line` reads."""
        origin = self.origin
        return {
            "pair": self.name,
            "kind": self.kind,
            BASES[self.kind]: self.base,
            "beyond": self.beyond,
            **({} if self.assumed_context is None else {"assumed_context": self.assumed_context}),
            "torch": origin.torch,
            "gpu": origin.gpu,
            "driver": origin.driver,
            "model": origin.model,
            "threads": origin.threads,
        }

    @classmethod
    def from_line(cls, line: dict[str, Any]) -> Self:
        """Reads :meth:`to_line`.

        Raises:
            ValueError, KeyError, TypeError: the line is of another form, or damaged.
        """
        kind = line["kind"]
        if kind not in get_args(MarginKind):
            raise ValueError(f"{kind!r} is no kind of margin.")
        assumed = line.get("assumed_context")
        return cls(
            kind=kind,
            base=checked_bytes(line[BASES[kind]]),
            beyond=checked_bytes(line["beyond"], least=-_MOST_BYTES),
            assumed_context=None if assumed is None else checked_bytes(assumed),
            origin=Origin(
                torch=str(line["torch"]),
                gpu=str(line["gpu"]),
                driver=str(line["driver"]),
                model=str(line["model"]),
                threads=int(line["threads"]),
            ),
            name=str(line["pair"]),
        )


def checked_bytes(figure: Any, *, least: int = 0) -> int:
    """A figure of a line that was read, in bytes.

    Raises:
        ValueError: it is none that memory can have.
    """
    if not isinstance(figure, int) or not least <= figure < _MOST_BYTES:
        raise ValueError(f"{figure!r} is no number of bytes.")
    return figure
