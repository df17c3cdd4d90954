"""The driver's own store is filled: by a process of its own, heard, and ended when its time is over."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from autotune.features.errand import Errand, Stored
from autotune.memory.meter import Meter
from autotune.trial.filling import Filling
from autotune.units import format_duration

_POLL_SECONDS = 0.5


def run_worker(
    errand: Errand,
    on_message: Callable[[dict[str, Any]], None],
    *,
    cap: int,
    meter: Meter,
    seconds: float | None = None,
) -> Stored | str:
    """Let a process of its own do the errand, and end it over the cap and after ``seconds``; what it stored, or why it could
    not, in words."""
    until = None if seconds is None else time.monotonic() + seconds
    with Filling(errand, cap=cap, meter=meter) as filling:
        while filling.answer is None:
            for message in filling.poll(_POLL_SECONDS):
                on_message(message)
            if until is not None and seconds is not None and time.monotonic() > until:
                filling.close(
                    f"it took longer than {format_duration(seconds)}, which is half of what was left of the time budget"
                )
        answer = filling.answer
    return answer if isinstance(answer, str) else Stored.from_dict(answer)
