"""Ray Tune's side of the desk: a searcher that asks it for trials, a callback that brings it the news."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from ray import tune
from ray.exceptions import RayActorError
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from autotune.outcome import Status
from autotune.runner.desk import Assignment, Desk
from autotune.runner.fetching import node_here
from autotune.runner.place import Errand, Place, read_report
from autotune.runner.session import RaySession, ray_environment
from autotune.runner.source import DONE
from autotune.trial.fork_server import Lender

#: How often it is looked whether Ray still lives.
CHECK_SECONDS = 1.0


def run(
    desk: Desk, session: RaySession, *, target: str, preload: tuple[str, ...], lender: Lender | None = None
) -> None:
    """Runs Ray Tune until the desk has no more trials; Ray runs already.

    Raises:
        RayGone: Ray has died. Exception: what Ray raises. What the desk's source raises is kept by the desk.
    """
    with ray_environment(session.places):
        tune.run(
            Place,
            name="study",
            storage_path=str(session.folder / "tune"),
            search_alg=_Asking(desk, target, preload, lender),
            num_samples=-1,  # the searcher says when it is over
            stop=_Ending(desk, session),
            callbacks=[_News(desk)],
            reuse_actors=True,
            max_failures=0,  # an outcome, and the next trial
            raise_on_failed_trial=False,
            trial_dirname_creator=lambda trial: str(trial.trial_id),
            trial_name_creator=lambda trial: str(trial.trial_id),
            verbose=0,
        )


class _Asking(Searcher):
    """Gives Ray Tune what the desk gives out."""

    def __init__(self, desk: Desk, target: str, preload: tuple[str, ...], lender: Lender | None) -> None:
        super().__init__()
        self._desk = desk
        self._target = target
        self._preload = preload
        self._lender = lender
        self._home = node_here()

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        given = self._desk.give(trial_id)
        if given is DONE:
            return str(Searcher.FINISHED)
        if not isinstance(given, Assignment):
            return None
        resources = self._desk.machine.resources(given.share)
        path = tuple(sys.path) if self._lender is None else self._lender.path
        return {"errand": Errand(given.request, resources, self._target, self._preload, path, self._lender, self._home)}

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: the callback hears more."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study's record is the truth, and Ray's snapshot is never read."""


class _News(tune.Callback):
    """Brings the desk what the places report."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def on_trial_start(self, *, trial: Any, **_: Any) -> None:
        actor = trial.temporary_state.ray_actor

        def stop(reason: str, status: Status) -> None:
            actor.request_stop.remote(reason, status.value)  # runs between two steps

        self._desk.started(trial.trial_id, stop)

    def on_trial_result(self, *, trial: Any, result: dict[str, Any], **_: Any) -> None:
        messages, so_far = read_report(result)
        self._desk.news(trial.trial_id, messages, so_far)

    def on_trial_error(self, *, trial: Any, **_: Any) -> None:
        error = trial.get_pickled_error()
        if error is None or isinstance(error, RayActorError):
            self._desk.lost(trial.trial_id, Status.INTERRUPTED, "the Ray worker that ran it died.")
        else:
            self._desk.lost(trial.trial_id, Status.FAILED, f"Ray could not run it: {error}")


class _Ending(Stopper):
    """Lets the desk look at the clock in each of Ray Tune's rounds, and ends whatever does not end by itself."""

    def __init__(self, desk: Desk, session: RaySession) -> None:
        self._desk = desk
        self._session = session
        self._checked = time.monotonic()

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        del trial_id, result  # a trial's own process says when it is over
        return False

    def stop_all(self) -> bool:
        if time.monotonic() - self._checked > CHECK_SECONDS:
            self._session.check()
            self._checked = time.monotonic()
        self._desk.tick()
        return self._desk.cut_off

    def __reduce__(self) -> tuple[type[tune.stopper.NoopStopper], tuple[()]]:
        return (tune.stopper.NoopStopper, ())  # for Ray's snapshot, which is never read
