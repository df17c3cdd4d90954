"""The test part is scored once, at the end, for members of the front; no choice ever reads the scores."""

from __future__ import annotations

from autotune.outcome import Outcome, Status
from autotune.search import StudyRecord
from autotune.study.listener import StudyListener
from autotune.study.source import TrialSettings, front_of
from autotune.trial.fork_server import ForkServer
from autotune.trial.measuring import meter_for
from autotune.trial.process import TrialProcess
from autotune.trial.request import Finished, TrialRequest
from autotune.units import count_words, format_duration


def score_front(record: StudyRecord, settings: TrialSettings, listener: StudyListener, server: ForkServer) -> None:
    """Scores each member of the front that has no score yet, each in a process of its own under the same cap, forked by ``server``.

    A member that cannot be scored is said aloud and stays on the front without a score; it is tried again on resume.
    """
    members = [member for member in front_of(record.trials(), settings.metric) if member.test_metrics is None]
    if not members:
        return
    listener.phase("test", f"scoring {count_words(len(members), 'member')} of the front once on the test part")
    for member in members:
        predicted = None if member.outcome is None else member.outcome.predicted
        request = settings.score(member.number, member.candidate, member.seed, predicted)
        outcome = run_alone(request, server)
        if outcome.status is Status.COMPLETE:
            record.set_test_metrics(member.number, outcome.metrics)
            score = outcome.metrics.get(settings.metric)
            shown = "is scored" if score is None else f"reaches {settings.metric} {score:.4f}"
            listener.note(f"trial {member.number} {shown} on the test part, in {format_duration(outcome.seconds)}")
        else:
            listener.warning(f"trial {member.number} could not be scored on the test part: {outcome.reason}")


def run_alone(request: TrialRequest, server: ForkServer) -> Outcome:
    """What became of one request, run here outside the runner, under the same cap and guard."""
    process = TrialProcess(request, server, meter_for(request))
    for event in process.events():
        if isinstance(event, Finished):
            return event.outcome
    raise AssertionError("events() ends with Finished")
