"""A study's run in an MLflow store and its trials' nested runs: found again, or made, each of them once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_MAX_RETRIES
from mlflow.exceptions import MlflowException

from autotune.tracking.location import DEFAULT_EXPERIMENT, Location

_PARENT_TAG = "mlflow.parentRunId"
# the sort of experiment, by which MLflow shows runs and their charts and not the pages of chat applications
_KIND_TAG = {"mlflow.experimentKind": "custom_model_development"}
_SOURCE_TAG = {"mlflow.source.name": "autotune"}


class StudyRuns:
    """The runs of one study in one store. Every method may raise whatever the store's client raises.

    study_id tells this study's runs from all others; run_id: the study's run where it is known already, which then says
    the study's id and its experiment. The holder of the study's delivery lock alone may have one.
    """

    def __init__(
        self,
        client: MlflowClient,
        location: Location,
        *,
        study_id: str,
        study_name: str,
        run_id: str | None,
        note: Callable[[str], None],
    ) -> None:
        self._client = client
        self._note = note
        run = self._known_run(run_id) if run_id else None
        self._outer = None if run else self._outer_run()
        self.study_id = (run.data.tags.get("study_id") if run else None) or study_id
        self.experiment_id = run.info.experiment_id if run else self._experiment(location)
        found = sorted(self._search("study"), key=lambda one: (one.info.start_time, one.info.run_id))
        run = self._one_of([run, *found] if run else found) or self._create_study(study_name)
        self.run_id: str = run.info.run_id
        self.trials = self._trials_found()

    def create_trial(self, number: int, *, name: str, start_ms: int, tags: Mapping[str, str]) -> Run:
        """A trial's run, nested in the study's. start_ms: when it started, in milliseconds since 1970."""
        tags = {**tags, **_SOURCE_TAG, _PARENT_TAG: self.run_id}
        with _asked_once():
            run = self._client.create_run(self.experiment_id, start_time=start_ms, tags=tags, run_name=name)
        self.trials[number] = run
        return run

    def read_trial(self, number: int) -> None:
        """Read a trial's run again after it was written to."""
        self.trials[number] = self._client.get_run(self.trials[number].info.run_id)

    def _trials_found(self) -> dict[int, Run]:
        """The trials' runs by number, each nested in the study's run, without what was made twice."""
        found: dict[int, list[Run]] = {}
        for run in self._search("trial"):
            found.setdefault(int(run.data.tags["trial_number"]), []).append(run)
        trials = {}
        for number, runs in found.items():
            # the one that is whole, else the one that was there first
            runs.sort(key=lambda run: ("digest" not in run.data.tags, run.info.start_time, run.info.run_id))
            if (run := self._one_of(runs)) is not None:
                trials[number] = run
                if run.data.tags.get(_PARENT_TAG) != self.run_id:  # that was one of two
                    self._client.set_tag(run.info.run_id, _PARENT_TAG, self.run_id)
        return trials

    def _one_of(self, runs: Sequence[Run]) -> Run | None:
        """The first run. Others of the same thing are deleted: a server may have made one though its answer did not come."""
        kept = {run.info.run_id for run in runs[:1]}
        for surplus in sorted({run.info.run_id for run in runs} - kept):
            try:
                self._client.delete_run(surplus)
            except MlflowException as error:
                if not 400 <= error.get_http_status_code() < 500:
                    raise
                self._note(
                    f"MLflow does not let this user delete the run {surplus}, a second one of the same ({error.error_code})."
                )
        return runs[0] if runs else None

    def _known_run(self, run_id: str) -> Run | None:
        run = self._active_run(run_id)
        if run is None:
            self._note(f"The study's MLflow run {run_id} is no longer there; a new one is made.")
        return run

    def _active_run(self, run_id: str) -> Run | None:
        try:
            run = self._client.get_run(run_id)
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            return None
        return run if run.info.lifecycle_stage == "active" else None

    def _experiment(self, location: Location) -> str:
        if experiment_id := os.environ.get("MLFLOW_EXPERIMENT_ID"):
            return experiment_id
        if self._outer is not None and not os.environ.get("MLFLOW_EXPERIMENT_NAME"):
            return str(self._outer.info.experiment_id)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or DEFAULT_EXPERIMENT
        found = self._client.get_experiment_by_name(name)
        if found is not None and found.lifecycle_stage != "active":  # deleted by somebody, and its name stays taken
            name = f"{name} {self.study_id[:8]}"
            found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(self._client.create_experiment(name, artifact_location=location.artifacts, tags=_KIND_TAG))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another study made it this moment
                    raise
                found = self._client.get_experiment_by_name(name)
        return str(found.experiment_id)

    def _search(self, kind: str) -> Iterator[Run]:
        condition, token = f"tags.study_id = '{self.study_id}' and tags.kind = '{kind}'", None
        while True:
            page = self._client.search_runs([self.experiment_id], condition, max_results=1000, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def _outer_run(self) -> Run | None:
        """The run that this process is a part of, by MLFLOW_RUN_ID: the study's run is nested in it."""
        run_id = os.environ.get("MLFLOW_RUN_ID", "").strip()
        if not run_id:
            return None
        run = self._active_run(run_id)
        if run is None:
            self._note(f"MLFLOW_RUN_ID={run_id} is no run of this store; the study's run stands by itself.")
        return run

    def _create_study(self, study_name: str) -> Run:
        tags = {"kind": "study", "study_id": self.study_id, **_SOURCE_TAG}
        if self._outer is not None:
            tags[_PARENT_TAG] = self._outer.info.run_id
        with _asked_once():
            return self._client.create_run(self.experiment_id, tags=tags, run_name=study_name)


@contextmanager
def _asked_once() -> Iterator[None]:
    """No second try by MLflow's HTTP client inside: each would make a run of its own where only the answer was late.

    Whether there is one already is looked up at the next connection, before anything is made.
    """
    name = MLFLOW_HTTP_REQUEST_MAX_RETRIES.name
    before = os.environ.get(name)
    os.environ[name] = "0"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
