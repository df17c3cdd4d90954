"""A place where trials run one after another: a Ray actor that holds a fork server. It runs in Ray's worker processes."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune

from autotune.errors import DeviceError, NoAnswerError
from autotune.outcome import Outcome, Status
from autotune.trial.fork_server import ForkServer, Lender
from autotune.trial.measuring import meter_for
from autotune.trial.process import TrialProcess
from autotune.trial.request import Finished, Message, TrialRequest, message_from_json, message_to_json

#: A step ends at the latest after this time, so that a request to stop waits no longer.
STEP_SECONDS = 0.5
REPORT = "autotune"


@dataclass(frozen=True)
class Errand:
    """What a place is to do. resources: asked of Ray. target, preload, path, lender: see TrialProcess and ForkServer."""

    request: TrialRequest
    resources: Mapping[str, float]
    target: str
    preload: tuple[str, ...]
    path: tuple[str, ...]  # the driver's, so that a trial finds what the driver has found
    lender: Lender | None = None


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
        self._filling: subprocess.Popen[str] | None = None
        self._filled: set[str] = set()
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
            if not self._server.ready_within(STEP_SECONDS) or not self._has_features(request):
                return report([], None)
            self._process = TrialProcess(request, self._server, meter_for(request), target=self._errand.target)
        if self._stop is not None:
            reason, status = self._stop
            messages: list[Message] = [Finished(self._process.stop(reason, status))]
        else:
            message = self._process.poll(STEP_SECONDS)
            messages = [] if message is None else [message]
        return report(messages, self._process.outcome_so_far(Status.INTERRUPTED, ""))

    def _has_features(self, request: TrialRequest) -> bool:
        """On another machine than the driver's, a store of this machine is filled before the first trial that reads it, by a
        process of its own; False while that runs. Where it fails the trial computes everything itself, and says so."""
        shared = request.features
        # on a GPU that process would take memory that nobody has reckoned with
        if shared is None or request.device != "cpu" or shared["folder"] in self._filled:
            return True
        if self._filling is None:
            if Path(shared["root"], shared["folder"]).is_dir():
                self._filled.add(shared["folder"])
                return True
            self._filling = _filling(request, self._errand.path)
        try:
            self._filling.wait(STEP_SECONDS)
        except subprocess.TimeoutExpired:
            return False
        self._filling = None
        self._filled.add(shared["folder"])
        return True

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
        if self._filling is not None:
            self._filling.terminate()
            self._filling.wait()
            self._filling = None
        if self._process is not None:
            self._process.stop(why, Status.INTERRUPTED)
            self._process = None

    def _close_server(self) -> None:
        self._process = None
        if self._server is not None:
            self._server.close()
            self._server = None


def _filling(request: TrialRequest, path: Sequence[str]) -> subprocess.Popen[str]:
    """:mod:`autotune.features.worker` at work on what a trial reads. Importing that here would bring torch along."""
    shared = request.features or {}
    errand = {
        "source": request.backbone_source,
        "prepared": request.prepared_dir,
        "root": shared["root"],
        "precision": request.training.get("precision", "fp32"),
        "device": request.device,
        "threads": request.threads,
        "mode": "on",
        "wanted": [{"places": shared["places"], "passes": 1.0}],
        "plugins": [],
    }
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folder for folder in path if folder)}
    child = subprocess.Popen(
        [sys.executable, "-m", "autotune.features.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )
    assert child.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # its end will show that it failed
        child.stdin.write(json.dumps(errand) + "\n")
        child.stdin.close()
    return child


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
