"""Writing messages into an MLflow store, each so that a second delivery changes nothing. Runs in the tracker's thread."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_MAX_RETRIES
from mlflow.exceptions import MlflowException
from mlflow.store.db import utils as db_utils

from autotune.tracking import entries, page
from autotune.tracking.location import DEFAULT_EXPERIMENT, Location, require_reachable
from autotune.tracking.moved import bring_along

_PARENT_TAG = "mlflow.parentRunId"
# the sort of experiment, by which MLflow shows runs and their charts and not the pages of chat applications
_KIND_TAG = {"mlflow.experimentKind": "custom_model_development"}
_VIEW_TAG = "mlflow.sharedViewState."
_BATCH = 100  # MLflow takes this many params or tags at once, 1000 metrics, and 1000 of all together
_STUDY_STATUS = {"interrupted": "KILLED", "stopped": "KILLED", "failed": "FAILED"}


def was_rejected(error: Exception) -> bool:
    """Whether the store answered and refused this very message, so that sending it again is of no use."""
    if not isinstance(error, MlflowException):
        return isinstance(error, (KeyError, TypeError, ValueError))
    status: int = error.get_http_status_code()
    return 400 <= status < 500 and status not in (401, 403, 408, 429)


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


class Delivery:
    """A connection to one store for one study. Every method may raise whatever the store's client raises.

    study_id tells this study's runs from all others; study_dir: the folder that a front's files lie in; run_id: the study's
    run where it is known already. The holder of the study's delivery lock alone may have one.
    """

    def __init__(
        self,
        location: Location,
        *,
        study_id: str,
        study_name: str,
        study_dir: Path,
        run_id: str | None,
        note: Callable[[str], None],
    ) -> None:
        self.note = note
        self._study_dir = study_dir
        require_reachable(location.uri)
        bring_along(location)
        # a wrong password or name would be tried 10 times, for nearly two minutes
        db_utils.MAX_RETRY_COUNT = 3
        self.client = MlflowClient(tracking_uri=location.uri)
        run = self._known_run(run_id) if run_id else None
        self._outer = None if run else self._outer_run()
        self.study_id = (run.data.tags.get("study_id") if run else None) or study_id
        self.experiment_id = run.info.experiment_id if run else self._experiment(location)
        found = sorted(self._runs("study"), key=lambda one: (one.info.start_time, one.info.run_id))
        run = self._one_of([run, *found] if run else found) or self._create_study(study_name)
        self.run_id: str = run.info.run_id
        self._trials = self._trials_found()

    def deliver(self, key: str, message: Mapping[str, Any]) -> bool:
        """Write one message of the outbox. Returns whether all of it was there to be written."""
        handlers: dict[str, Callable[[Mapping[str, Any]], bool | None]] = {
            "study": self._study,
            "trial": self._trial,
            "front": self._front,
            "finished": self._finished,
        }
        return handlers[key.partition("-")[0]](message) is not False

    def _trials_found(self) -> dict[int, Run]:
        """The trials' runs by number, each nested in the study's run, without what was made twice."""
        found: dict[int, list[Run]] = {}
        for run in self._runs("trial"):
            found.setdefault(int(run.data.tags["trial_number"]), []).append(run)
        trials = {}
        for number, runs in found.items():
            # the one that is whole, else the one that was there first
            runs.sort(key=lambda run: ("digest" not in run.data.tags, run.info.start_time, run.info.run_id))
            if (run := self._one_of(runs)) is not None:
                trials[number] = run
                if run.data.tags.get(_PARENT_TAG) != self.run_id:  # that was one of two
                    self.client.set_tag(run.info.run_id, _PARENT_TAG, self.run_id)
        return trials

    def _one_of(self, runs: Sequence[Run]) -> Run | None:
        """The first run. Others of the same thing are deleted: a server may have made one though its answer did not come."""
        kept = {run.info.run_id for run in runs[:1]}
        for surplus in sorted({run.info.run_id for run in runs} - kept):
            try:
                self.client.delete_run(surplus)
            except MlflowException as error:
                if not 400 <= error.get_http_status_code() < 500:
                    raise
                self.note(
                    f"MLflow does not let this user delete the run {surplus}, a second one of the same ({error.error_code})."
                )
        return runs[0] if runs else None

    def _known_run(self, run_id: str) -> Run | None:
        run = self._active_run(run_id)
        if run is None:
            self.note(f"The study's MLflow run {run_id} is no longer there; a new one is made.")
        return run

    def _active_run(self, run_id: str) -> Run | None:
        try:
            run = self.client.get_run(run_id)
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
        found = self.client.get_experiment_by_name(name)
        if found is not None and found.lifecycle_stage != "active":  # deleted by somebody, and its name stays taken
            name = f"{name} {self.study_id[:8]}"
            found = self.client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(self.client.create_experiment(name, artifact_location=location.artifacts, tags=_KIND_TAG))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another study made it this moment
                    raise
                found = self.client.get_experiment_by_name(name)
        return str(found.experiment_id)

    def _runs(self, kind: str) -> Iterator[Run]:
        condition, token = f"tags.study_id = '{self.study_id}' and tags.kind = '{kind}'", None
        while True:
            page = self.client.search_runs([self.experiment_id], condition, max_results=1000, page_token=token)
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
            self.note(f"MLFLOW_RUN_ID={run_id} is no run of this store; the study's run stands by itself.")
        return run

    def _create_study(self, study_name: str) -> Run:
        tags = {"kind": "study", "study_id": self.study_id, "mlflow.source.name": "autotune"}
        if self._outer is not None:
            tags[_PARENT_TAG] = self._outer.info.run_id
        with _asked_once():
            return self.client.create_run(self.experiment_id, tags=tags, run_name=study_name)

    def _study(self, message: Mapping[str, Any]) -> None:
        self.client.update_run(self.run_id, status="RUNNING")
        known = self.client.get_run(self.run_id).data.params
        params = entries.flatten(message["settings"])
        fresh = {key: value for key, value in params.items() if key not in known}
        # a parameter cannot be changed in MLflow; a study that is resumed with, say, more trials says so in a tag
        changed = {f"now.{key}": value for key, value in params.items() if known.get(key, value) != value}
        self._write(self.run_id, params=fresh, tags=changed)

    def _trial(self, message: Mapping[str, Any]) -> None:
        record = entries.record_from_dict(message["record"])
        if record.outcome is None:
            return
        entry = entries.trial_entry(record, record.outcome, self.study_id)
        run = self._trials.get(record.number)
        if run is not None and run.data.tags.get("digest") == entry.tags["digest"]:
            return
        if run is None:
            start_ms = int(message["finished_ms"] - 1000 * entry.seconds)
            tags = {key: entry.tags[key] for key in ("kind", "study_id", "trial_number", "status", "label")}
            tags |= {_PARENT_TAG: self.run_id, "mlflow.source.name": "autotune", "on_front": "false"}
            with _asked_once():
                run = self.client.create_run(self.experiment_id, start_time=start_ms, tags=tags, run_name=entry.name)
            self._trials[record.number] = run
        start_ms, run_id = run.info.start_time, run.info.run_id
        metrics = [Metric(row.name, row.value, start_ms + int(1000 * row.after_s), row.step) for row in entry.metrics]
        known = run.data.params
        params = {key: value for key, value in entry.params.items() if key not in known}
        tags = {key: value for key, value in entry.tags.items() if key != "digest"}
        self._write(run_id, params=params, tags=tags, metrics=metrics)
        self.client.set_terminated(run_id, entry.run_status, end_time=start_ms + int(1000 * entry.seconds))
        # the digest comes last: a run without it was cut off on the way and is written once more
        self.client.set_tag(run_id, "digest", entry.tags["digest"])
        self._trials[record.number] = self.client.get_run(run_id)

    def _front(self, message: Mapping[str, Any]) -> bool:
        table, selected = message["table"], message["selected"]
        present = []
        for name in message["paths"]:
            path = self._place_of(name)
            if path.is_file():
                self.client.log_artifact(self.run_id, str(path))
                present.append(path)
            else:
                self.note(f"{path} is no longer there and was not sent to MLflow.")
        columns = json.dumps(entries.table_columns(table), default=str)
        self.client.log_text(self.run_id, columns, "front_table.json")
        addresses = page.Addresses(experiment_id=self.experiment_id, run_id=self.run_id, view=self._keep_view())
        tags = {
            "mlflow.note.content": page.description(
                table, selected, self._figures(present, message.get("titles", {}), addresses), addresses
            ),
            "mlflow.loggedArtifacts": json.dumps([{"path": "front_table.json", "type": "table"}]),
        }
        if selected and isinstance(selected.get("point"), Mapping):
            point = selected["point"]
            tags["selected"] = entries.short_tag(f"trial {point.get('number')}, {point.get('label')}")
        self._write(self.run_id, tags=tags, metrics=[Metric("front_size", len(table), int(1000 * time.time()), 0)])
        self._mark_members({int(row["number"]) for row in table if "number" in row})
        return len(present) == len(message["paths"])

    def _place_of(self, name: str) -> Path:
        """Where a file of the report lies now. An earlier version kept its whole path, which a move makes untrue."""
        path = self._study_dir / name
        moved = self._study_dir.joinpath(*path.parts[-2:])  # report/front.png
        return moved if not path.exists() and moved.is_file() else path

    def _figures(
        self, paths: Sequence[Path], titles: Mapping[str, str], addresses: page.Addresses
    ) -> list[page.Figure]:
        """The report's PNGs, the front's first, each logged once more so that it fits the page's width."""
        pages = {path.stem: path.name for path in paths if path.suffix == ".html"}
        figures = []
        for path in sorted((path for path in paths if path.suffix == ".png"), key=lambda path: path.stem != "front"):
            wrapped = page.scalable(path.read_bytes())
            if wrapped is None:
                self.note(f"{path} is no PNG and is not shown on the study's page.")
                continue
            name = f"page/{path.stem}.svg"
            self.client.log_text(self.run_id, wrapped, name)
            version = hashlib.sha256(wrapped.encode()).hexdigest()[:8]
            figures.append(
                page.Figure(
                    title=titles.get(path.stem) or page.title_of(path.stem),
                    image=addresses.content(name, version),
                    larger=addresses.artifact(pages.get(path.stem, path.name)),
                )
            )
        return figures

    def _keep_view(self) -> str:
        """The name of the view of the table of runs that shows this study's trials."""
        name = f"autotune-{self.study_id[:12]}"
        try:
            self.client.set_experiment_tag(self.experiment_id, _VIEW_TAG + name, page.table_view(self.study_id))
        except MlflowException as error:
            if not 400 <= error.get_http_status_code() < 500:
                raise
            self.note(f"MLflow does not let this user keep a view of the experiment's table ({error.error_code}).")
        return name

    def _mark_members(self, members: set[int]) -> None:
        for number, run in self._trials.items():
            wanted = "true" if number in members else "false"
            if run.data.tags.get("on_front") != wanted:
                self.client.set_tag(run.info.run_id, "on_front", wanted)
                self._trials[number] = self.client.get_run(run.info.run_id)

    def _finished(self, message: Mapping[str, Any]) -> None:
        status = str(message["status"])
        self.client.set_tag(self.run_id, "status", entries.short_tag(status))
        self.client.set_terminated(self.run_id, _STUDY_STATUS.get(status, "FINISHED"))

    def _write(
        self,
        run_id: str,
        *,
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
        metrics: Sequence[Metric] = (),
    ) -> None:
        """Everything of a run in as few calls as MLflow's limits allow."""
        some_params = [Param(key, value) for key, value in (params or {}).items()]
        some_tags = [RunTag(key, value) for key, value in (tags or {}).items()]
        rounds = max(len(some_params), len(some_tags), -(-len(metrics) // 8))
        for start in range(0, rounds, _BATCH):
            end = start + _BATCH
            self.client.log_batch(
                run_id,
                metrics=metrics[8 * start : 8 * end],
                params=some_params[start:end],
                tags=some_tags[start:end],
            )
