"""Runs single trials, each in a fresh process as a study does, outside a study."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from autotune.outcome import Outcome, Status
from autotune.trial.ancestry import Ancestor
from autotune.trial.fork_server import ForkServer
from autotune.trial.measuring import meter_for
from autotune.trial.process import TrialProcess
from autotune.trial.request import Finished, TrialRequest

NO_CAP = 2**62


def run_trial(
    server: ForkServer,
    *,
    prepared: Path,
    output: Path,
    method: dict[str, Any],
    training: dict[str, Any],
    model: str,
    threads: int,
    number: int = 0,
    features: dict[str, Any] | None = None,
) -> Outcome:
    """One training run; ends the program where it does not complete, since a table with holes is no figure.

    features: what it reads from a store, as ``SharedFeatures.to_dict`` gives it.
    """
    request = TrialRequest(
        number=number,
        backbone_source=model,
        prepared_dir=str(prepared),
        output_dir=str(output),
        memory_cap=NO_CAP,
        method=method,
        training=training,
        threads=threads,
        driver=Ancestor.of(),
        features=features,
    )
    for event in TrialProcess(request, server, meter_for(request)).events():
        if isinstance(event, Finished):
            if event.outcome.status is not Status.COMPLETE:
                sys.exit(f"{method} with {training} ended as {event.outcome.status}: {event.outcome.reason}")
            return event.outcome
    raise AssertionError("a trial's events end with Finished")
