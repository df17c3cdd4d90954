"""What a process held over time, in few numbers however long it ran."""

from __future__ import annotations

LONGEST = 240
FIRST_STRETCH_S = 0.1


class Timeline:
    """The highest reading of each stretch of time, with the moment of that reading.

    Stretches are equally long. When ``longest`` of them are full their length doubles and neighbours become one, so a
    trial of days takes as little room as one of seconds, and the highest reading of all is always among those kept. To
    note a reading costs one comparison, or a pass over the stretches once they are full. One thread notes; any may read.
    """

    def __init__(self, longest: int = LONGEST, first_stretch_s: float = FIRST_STRETCH_S) -> None:
        if longest < 2 or first_stretch_s <= 0:
            raise ValueError(
                f"A timeline holds at least 2 pairs of stretches above 0 s; {longest} and {first_stretch_s} were given."
            )
        self._longest = longest
        self._stretch_s = first_stretch_s
        self._pairs: list[tuple[float, int]] = []

    def note(self, seconds: float, held: int) -> None:
        """A reading: bytes held at ``seconds`` since the start, which is no earlier than the one before."""
        if self._pairs and self._stretch(seconds) <= self._stretch(self._pairs[-1][0]):
            if held > self._pairs[-1][1]:
                self._pairs[-1] = (seconds, held)
        elif len(self._pairs) < self._longest:
            self._pairs.append((seconds, held))
        else:
            self._stretch_s *= 2
            self._pairs = self._merged()
            self.note(seconds, held)

    def pairs(self) -> tuple[tuple[float, int], ...]:
        """(seconds, bytes) in the order of time, ``longest`` at most."""
        return tuple(self._pairs)

    def _stretch(self, seconds: float) -> int:
        return int(seconds / self._stretch_s)

    def _merged(self) -> list[tuple[float, int]]:
        kept: list[tuple[float, int]] = []
        for pair in self._pairs:
            if not kept or self._stretch(kept[-1][0]) != self._stretch(pair[0]):
                kept.append(pair)
            elif pair[1] > kept[-1][1]:
                kept[-1] = pair
        return kept
