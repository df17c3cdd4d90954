"""Writing messages into an MLflow store, each so that a second delivery changes nothing. Runs in the tracker's thread."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.store.db import utils as db_utils

from autotune.tracking import entries, page
from autotune.tracking.location import Location, require_reachable
from autotune.tracking.moved import bring_along
from autotune.tracking.runs import StudyRuns

_VIEW_TAG = "mlflow.sharedViewState."
_BATCH = 100  # MLflow takes this many params or tags at once, 1000 metrics, and 1000 of all together
_STUDY_STATUS = {"interrupted": "KILLED", "stopped": "KILLED", "failed": "FAILED"}


def was_rejected(error: Exception) -> bool:
    """Whether the store answered and refused this very message, so that sending it again is of no use."""
    if not isinstance(error, MlflowException):
        return isinstance(error, (KeyError, TypeError, ValueError))
    status: int = error.get_http_status_code()
    return 400 <= status < 500 and status not in (401, 403, 408, 429)


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
        self._note = note
        self._study_dir = study_dir
        require_reachable(location.uri)
        bring_along(location)
        # a wrong password or name would be tried 10 times, for nearly two minutes
        db_utils.MAX_RETRY_COUNT = 3
        self._client = MlflowClient(tracking_uri=location.uri)
        self._runs = StudyRuns(
            self._client, location, study_id=study_id, study_name=study_name, run_id=run_id, note=note
        )
        self.run_id = self._runs.run_id

    def deliver(self, key: str, message: Mapping[str, Any]) -> bool:
        """Write one message of the outbox. Returns whether all of it was there to be written."""
        handlers: dict[str, Callable[[Mapping[str, Any]], bool | None]] = {
            "study": self._study,
            "trial": self._trial,
            "front": self._front,
            "finished": self._finished,
        }
        return handlers[key.partition("-")[0]](message) is not False

    def _study(self, message: Mapping[str, Any]) -> None:
        self._client.update_run(self.run_id, status="RUNNING")
        known = self._client.get_run(self.run_id).data.params
        params = entries.flatten(message["settings"])
        fresh = {key: value for key, value in params.items() if key not in known}
        # a parameter cannot be changed in MLflow; a study that is resumed with, say, more trials says so in a tag
        changed = {f"now.{key}": value for key, value in params.items() if known.get(key, value) != value}
        self._write(self.run_id, params=fresh, tags=changed)

    def _trial(self, message: Mapping[str, Any]) -> None:
        record = entries.record_from_dict(message["record"])
        if record.outcome is None:
            return
        entry = entries.trial_entry(record, record.outcome, self._runs.study_id)
        run = self._runs.trials.get(record.number)
        if run is not None and run.data.tags.get("digest") == entry.tags["digest"]:
            return
        if run is None:
            start_ms = int(message["finished_ms"] - 1000 * entry.seconds)
            tags = {key: entry.tags[key] for key in ("kind", "study_id", "trial_number", "status", "label")}
            run = self._runs.create_trial(
                record.number, name=entry.name, start_ms=start_ms, tags={**tags, "on_front": "false"}
            )
        start_ms, run_id = run.info.start_time, run.info.run_id
        metrics = [Metric(row.name, row.value, start_ms + int(1000 * row.after_s), row.step) for row in entry.metrics]
        known = run.data.params
        params = {key: value for key, value in entry.params.items() if key not in known}
        tags = {key: value for key, value in entry.tags.items() if key != "digest"}
        self._write(run_id, params=params, tags=tags, metrics=metrics)
        self._client.set_terminated(run_id, entry.run_status, end_time=start_ms + int(1000 * entry.seconds))
        # the digest comes last: a run without it was cut off on the way and is written once more
        self._client.set_tag(run_id, "digest", entry.tags["digest"])
        self._runs.read_trial(record.number)

    def _front(self, message: Mapping[str, Any]) -> bool:
        table, selected = message["table"], message["selected"]
        present = []
        for name in message["paths"]:
            path = self._place_of(name)
            if path.is_file():
                self._client.log_artifact(self.run_id, str(path))
                present.append(path)
            else:
                self._note(f"{path} is no longer there and was not sent to MLflow.")
        columns = json.dumps(entries.table_columns(table), default=str)
        self._client.log_text(self.run_id, columns, "front_table.json")
        addresses = page.Addresses(experiment_id=self._runs.experiment_id, run_id=self.run_id, view=self._keep_view())
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
                self._note(f"{path} is no PNG and is not shown on the study's page.")
                continue
            name = f"page/{path.stem}.svg"
            self._client.log_text(self.run_id, wrapped, name)
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
        name = f"autotune-{self._runs.study_id[:12]}"
        try:
            self._client.set_experiment_tag(
                self._runs.experiment_id, _VIEW_TAG + name, page.table_view(self._runs.study_id)
            )
        except MlflowException as error:
            if not 400 <= error.get_http_status_code() < 500:
                raise
            self._note(f"MLflow does not let this user keep a view of the experiment's table ({error.error_code}).")
        return name

    def _mark_members(self, members: set[int]) -> None:
        for number, run in self._runs.trials.items():
            wanted = "true" if number in members else "false"
            if run.data.tags.get("on_front") != wanted:
                self._client.set_tag(run.info.run_id, "on_front", wanted)
                self._runs.read_trial(number)

    def _finished(self, message: Mapping[str, Any]) -> None:
        status = str(message["status"])
        self._client.set_tag(self.run_id, "status", entries.short_tag(status))
        self._client.set_terminated(self.run_id, _STUDY_STATUS.get(status, "FINISHED"))

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
            self._client.log_batch(
                run_id,
                metrics=metrics[8 * start : 8 * end],
                params=some_params[start:end],
                tags=some_tags[start:end],
            )
