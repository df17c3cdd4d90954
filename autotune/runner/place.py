"""A place where trials run one after another: a Ray actor that holds a fork server. It runs in Ray's worker processes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ray import tune

from autotune.errors import DeviceError, NoAnswerError
from autotune.outcome import Outcome, Status
from autotune.runner.fetching import Fetching, lie_here, node_here
from autotune.trial.fork_server import ForkServer, Lender
from autotune.trial.measuring import meter_for
from autotune.trial.process import TrialProcess
from autotune.trial.request import Finished, Message, TrialRequest, message_from_json, message_to_json

#: A step ends at the latest after this time, so that a request to stop waits no longer.
STEP_SECONDS = 0.5
REPORT = "autotune"


@dataclass(frozen=True)
class Errand:
    """What a place is to do. resources: asked of Ray. target, preload, path, lender: see TrialProcess and ForkServer. home: Ray's
    number of the driver's machine."""

    request: TrialRequest
    resources: Mapping[str, float]
    target: str
    preload: tuple[str, ...]
    path: tuple[str, ...]  # the driver's, so that a trial finds what the driver has found
    lender: Lender | None = None
    home: str = ""


class Place(tune.Trainable):
    """Runs a trial in a fresh process; a step ends with each of its events, or after half a second."""

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> tune.PlacementGroupFactory:
        """What Ray is asked for before the trial starts."""
        return tune.PlacementGroupFactory([dict(config["errand"].resources)])

    def setup(self, config: dict[str, Any]) -> None:
        """The first trial of this place."""
        self._server: ForkServer | None = None
        self._process: TrialProcess | None = None
        self._errand: Errand = config["errand"]
        self._stop: tuple[str, Status] | None = None
        self._fetching: Fetching | None = None
        self._asked: dict[str, str] = {}  # what this place has had brought, and why that failed
        self._warm()

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """The next trial of this place."""
        self._end("The place was given to another trial.")
        self._errand = new_config["errand"]
        self._stop = None
        self._warm()
        return True

    def request_stop(self, reason: str, status: str) -> None:
        """Lets the next step end the trial."""
        self._stop = (reason, Status(status))

    def step(self) -> dict[str, Any]:
        """Waits for the trial's next event; its outcome is an event as the others are, and nothing is raised."""
        try:
            return self._step()
        except DeviceError as error:
            self._close_server()
            reason = f"Trial {self._errand.request.number} could not start: {error}"
            status = Status.INTERRUPTED if isinstance(error, NoAnswerError) else Status.FAILED
            return report([Finished(Outcome(status=status, reason=reason))], None)

    def cleanup(self) -> None:
        """The place is given up."""
        self._end("The place was given up.")
        self._close_server()

    def _step(self) -> dict[str, Any]:
        if self._stop is not None and self._process is None:
            reason, status = self._stop
            return report([Finished(Outcome(status=status, reason=reason))], None)
        if self._process is None:
            assert self._server is not None
            request = self._errand.request
            if not self._server.ready_within(STEP_SECONDS):
                return report([], None)
            if request.features is not None:
                why = self._features(request.features)
                if why is None:
                    return report([], None)
                request = replace(request, features={**request.features, "not_stored": why})
            self._process = TrialProcess(request, self._server, meter_for(request), target=self._errand.target)
        if self._stop is not None:
            reason, status = self._stop
            messages: list[Message] = [Finished(self._process.stop(reason, status))]
        else:
            message = self._process.poll(STEP_SECONDS)
            messages = [] if message is None else [message]
        return report(messages, self._process.outcome_so_far(Status.INTERRUPTED, ""))

    def _features(self, shared: Mapping[str, Any]) -> str | None:
        """Has a machine of its own store hold what a trial reads, before it starts: as the driver's machine has it, byte for byte,
        so that a trial learns the same wherever it runs, and without a device's memory. None while that is at work, else why it is
        not there, "" where it is. Two places that want the same wait for one another, by the store's lock."""
        wanted = json.dumps([shared["root"], shared["folder"], shared["places"]])
        if lie_here(shared):
            return ""
        if wanted in self._asked:
            return self._asked[wanted]
        if self._errand.home in ("", node_here()):
            return ""  # the driver's own machine: it has gone meanwhile, and the trial says so
        if self._fetching is None:
            self._fetching = Fetching(shared, self._errand.home)
        answer = self._fetching.wait(STEP_SECONDS)
        if answer is None:
            return None
        self._fetching = None
        self._asked[wanted] = answer
        return answer

    def _warm(self) -> None:
        """A fork server, started in the background where none lives."""
        if self._server is not None and not self._server.is_alive():
            self._close_server()
        if self._server is None:
            request = self._errand.request
            backbone = request.backbone_source or None
            self._server = ForkServer(
                preload=self._errand.preload,
                backbone=backbone,
                driver=request.driver,
                path=self._errand.path,
                lender=self._errand.lender,
            )

    def _end(self, why: str) -> None:
        if self._fetching is not None:
            self._fetching.close()
            self._fetching = None
        if self._process is not None:
            self._process.stop(why, Status.INTERRUPTED)
            self._process = None

    def _close_server(self) -> None:
        self._process = None
        if self._server is not None:
            self._server.close()
            self._server = None


def report(messages: list[Message], so_far: Outcome | None) -> dict[str, Any]:
    """A step's result. One text, since Ray would take dictionaries and numbers for metrics of its own."""
    text = json.dumps(
        {
            "messages": [message_to_json(message) for message in messages],
            "so_far": so_far.to_dict() if so_far is not None else None,
        }
    )
    return {REPORT: text, "done": any(isinstance(message, Finished) for message in messages)}


def read_report(result: Mapping[str, Any]) -> tuple[list[Message], Outcome | None]:
    """What :func:`report` wrote; nothing for a result that Ray made up itself."""
    if REPORT not in result:
        return [], None
    plain = json.loads(result[REPORT])
    so_far = Outcome.from_dict(plain["so_far"]) if plain["so_far"] is not None else None
    return [message_from_json(text) for text in plain["messages"]], so_far
