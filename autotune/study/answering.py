"""What answering takes is measured for members of the front: memory, the latency of one row, rows a second."""

from __future__ import annotations

from autotune.memory.device import DeviceInfo
from autotune.outcome import InferenceFigures, Outcome, Status, TrialRecord
from autotune.runner.shares import usable_cores
from autotune.search import StudyRecord
from autotune.study.listener import StudyListener
from autotune.study.scoring import run_alone
from autotune.study.source import TrialSettings, front_of
from autotune.trial.fork_server import ForkServer
from autotune.units import count_words, format_bytes, format_latency
from sherl.data import PreparedData
from sherl.spec import TrainingConfig
from sherl.training import evaluation_rows

MOST_ROWS = 32
"""Rows of a batch where every member's evaluation went through as many; what ``Predictor.predict`` takes by default."""


def measure_front(
    record: StudyRecord,
    settings: TrialSettings,
    listener: StudyListener,
    server: ForkServer,
    data: PreparedData,
    device: DeviceInfo,
) -> None:
    """Measures each member of the front that has no figures, or has some that do not compare with the others' (of another
    device, other threads, other batches), each in a process of its own under the same cap, forked by ``server``.

    A member that cannot be measured is said aloud and has no figures; it is tried again on resume.
    """
    front = front_of(record.trials(), settings.metric)
    if not front:
        return
    rows = min(MOST_ROWS, len(data.part("valid")), *(_rows_that_fit(member) for member in front))
    now = (rows, usable_cores(), device.name)
    members = [member for member in front if _measured_with(member) != now]
    if not members:
        return
    listener.phase(
        "measure",
        f"what answering takes, for {count_words(len(members), 'member')} of the front: one row alone, and "
        f"batches of {rows}",
    )
    for member in members:
        predicted = None if member.outcome is None else member.outcome.predicted
        outcome = run_alone(settings.measure(member.number, member.candidate, predicted, batch_rows=rows), server)
        figures = figures_of(outcome, device.name)
        if figures is None:
            reason = outcome.reason or f"it ended as {outcome.status} without figures"
            listener.warning(f"what answering takes could not be measured for trial {member.number}: {reason}")
            continue
        record.set_inference(member.number, figures)
        listener.note(
            f"trial {member.number} answers one row in {format_latency(figures.latency_seconds)}, "
            f"{figures.rows_per_second:.4g} rows a second, holding {format_bytes(figures.peak.device)} of the device"
        )


def figures_of(outcome: Outcome, device: str) -> InferenceFigures | None:
    """The figures of a trial of kind ``measure`` that ended well."""
    told = outcome.details.get("answering")
    if outcome.status is not Status.COMPLETE or outcome.peak is None or told is None:
        return None
    return InferenceFigures(peak=outcome.peak, device=device, **told)


def _rows_that_fit(member: TrialRecord) -> int:
    """Rows of the batches that its evaluations went through under the cap."""
    return evaluation_rows(TrainingConfig.from_dict(member.candidate.realised.training))


def _measured_with(member: TrialRecord) -> tuple[int, int, str] | None:
    known = member.inference
    return None if known is None else (known.batch_rows, known.threads, known.device)
