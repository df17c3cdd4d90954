"""From a trial of a study to a folder that ``sherl.load`` reads."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.config import StudyConfig
from autotune.deploy import Registered, example_input, export, register, require_names
from autotune.errors import SelectionError, StudyError
from autotune.outcome import Status, TrialRecord
from autotune.plugins import load_plugins
from autotune.redaction import redact
from autotune.report import Point, points_from
from autotune.study.folder import StudyFolder, find_folder
from autotune.study.reading import outcome_of, read_only
from autotune.study.selecting import selected_now
from autotune.study.showing import send_waiting
from autotune.tracking.location import DEFAULT_EXPERIMENT, quiet_environment, quiet_loggers
from autotune.units import format_bytes
from sherl.data import PreparedData
from sherl.graph import Form
from sherl.spec import TaskSpec

if TYPE_CHECKING:
    from sherl import Predictor

CHAMPION = "champion"
"""The alias that a registered model gets unless another is given."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """Where an export lies, in words. registered: where it stands in the model registry, if it was to."""

    trial: int
    directory: Path
    files: tuple[str, ...]
    explanation: str
    registered: Registered | None = None

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dictionary."""
        registered = None if self.registered is None else asdict(self.registered)
        return {
            "trial": self.trial, "directory": str(self.directory), "files": list(self.files), "registered": registered
        }  # fmt: skip


def export_from_study(
    study_dir: str | Path | None,
    directory: Path,
    *,
    trial: int | None = None,
    register_as: str | None = None,
    alias: str = CHAMPION,
    merge: bool = False,
    graphs: Sequence[Form] = (),
    backbone: str | None = None,
    plugins: Sequence[str] = (),
    overwrite: bool = False,
) -> Exported:
    """Writes the selected trial, or the one asked for, as a folder that ``sherl.load`` reads.

    The selected one is what the kept rule picks among the trials and confirmations of now.
    backbone: where it lies now (a folder or a hub id), if not where the trial had it. plugins: modules to import first, as the
    study's own are. overwrite: also replace an earlier export that something was added to.
    merge: also the folder ``merged`` (:func:`sherl.merging.merge`). graphs: also these (:func:`sherl.graph.export_graph`).
    register_as: its name in MLflow's model registry, where it becomes the next version and gets the alias.

    Raises:
        StudyError: there is no such study or trial, nothing is selected, the trial kept no weights, or the registry could
            not take it.
        SelectionError: no member of the front meets the kept rule any more.
        ConfigError: the registry takes no such name or alias, a plugin cannot be imported, or ``backbone`` is not the one
            that the trial was trained on; nothing is written then.
        MergeError, GraphError: the model cannot be merged, or is no graph; nothing is written then.
    """
    if register_as is not None:
        require_names(register_as, alias)
    folder = find_folder(study_dir)
    config = folder.settings()
    modules = tuple(dict.fromkeys([*plugins, *config.plugins]))
    load_plugins(modules)
    data = PreparedData.open(folder.prepared)
    with read_only(folder) as record:
        points = points_from(record.trials(), metric_name=data.task.metric)
        choice = _choice(folder, points, trial)
        chosen = record.trial(choice.trial)
    outcome = outcome_of(chosen)
    if outcome.status is not Status.COMPLETE or outcome.checkpoint is None:
        raise StudyError(
            f"Trial {choice.trial} ended as {outcome.status} and kept no weights. `autotune report` lists those that did."
        )
    more = _More(merge=merge, graphs=tuple(graphs))
    written = export(
        chosen,
        study_settings=settings_of(config, data.task.metric),
        checkpoint_dir=folder.trial(choice.trial) / "checkpoint",
        target=directory,
        info={
            "data": data.summary,
            "meter": None if outcome.peak is None else outcome.peak.meter,
            "selection": choice.explanation,
        },
        overwrite=overwrite,
        further=more.write,
        backbone=backbone,
        tokenizer=data.tokenizer_folder,
    )
    told = (
        f"{choice.changed}Trial {choice.trial} ({chosen.candidate.label}) is in {written.directory}: {', '.join(written.files)}, "
        f"{format_bytes(written.size_bytes)}.\n"
        f"Try it: {predict_command(written.directory, data.task)}\nIn Python: sherl.load({str(written.directory)!r})"
    )
    told += "".join(f"\n{line}" for line in more.told)
    registered = None
    if register_as is not None:
        registered, where = _registered(folder, written.directory, chosen, register_as, alias, modules)
        told += f"\n{where}"
    return Exported(
        trial=choice.trial, directory=written.directory, files=written.files, explanation=told, registered=registered
    )


@dataclass(frozen=True)
class _Choice:
    """The trial to export; why it was selected, where it is the selected one; that this is another one than before."""

    trial: int
    explanation: str | None
    changed: str = ""


def _choice(folder: StudyFolder, points: Sequence[Point], asked: int | None) -> _Choice:
    """The trial that was asked for, else the selected one.

    Raises:
        StudyError: nothing is selected, or the file of the selection is damaged.
        SelectionError: no member of the front meets the kept rule any more.
    """
    if asked is None:
        selection, before = selected_now(folder, points)
        number = selection.point.number
        changed = (
            f"Trial {before} was selected; by the same rule it is now trial {number}.\n" if number != before else ""
        )
        return _Choice(number, selection.explanation, changed)
    try:
        current = selected_now(folder, points)[0]
    except (StudyError, SelectionError):  # then the card says nothing of a selection
        return _Choice(asked, None)
    return _Choice(asked, current.explanation if current.point.number == asked else None)


class _More:
    """What an export may hold beside the checkpoint; ``told`` says of each what it is and how near it comes."""

    def __init__(self, *, merge: bool, graphs: tuple[Form, ...]) -> None:
        self._merge, self._graphs = merge, graphs
        self.told: list[str] = []

    def write(self, build: Path) -> None:
        """Into an export's folder.

        Raises:
            MergeError, GraphError: it cannot be.
            StudyError: the model does not load here.
        """
        if not self._merge and not self._graphs:
            return
        from sherl.graph import FILES, export_graph
        from sherl.merging import MERGED_FOLDER, merge

        for form in self._graphs:
            report = export_graph(_loaded(build), build / FILES[form], form=form)
            self.told.append(
                f"{FILES[form]} takes {', '.join(report.inputs)}; on {report.rows} sample rows it differs from the model by "
                f"{report.largest_difference:.1e} at most."
            )
        if self._merge:
            merged = merge(_loaded(build), build / MERGED_FOLDER)  # last: it is not the method's model any more
            self.told.append(merged.explanation)


def _loaded(build: Path) -> Predictor:
    import sherl
    from sherl.errors import CheckpointError

    try:
        return sherl.load(build)
    except CheckpointError as error:
        raise StudyError(
            f"The model does not load here: {error} (--model says where the backbone lies now, --plugin what to import first.)"
        ) from error


def settings_of(config: StudyConfig, metric: str) -> dict[str, Any]:
    """What an export tells of its study: data by name where all of it has one that means the same on other machines."""
    plain: dict[str, Any] = {"name": config.name, "metric": metric, "memory_cap": config.memory_cap}
    if config.data.get("unit", "row") != "row":  # which no task says
        plain["unit"] = config.data["unit"]
    given = [config.data.get(part) for part in ("train", "valid", "test")]
    paths = [Path(source.partition("@")[2] or source) for source in given if source is not None]
    named = not any(path.is_absolute() or path.exists() for path in paths)
    return {**plain, "data": dict(config.data)} if named else plain


def _registered(
    folder: StudyFolder,
    directory: Path,
    record: TrialRecord,
    name: str,
    alias: str,
    plugins: tuple[str, ...],
) -> tuple[Registered, str]:
    """Registers an export with the study's store, or where MLFLOW_REGISTRY_URI says; also says how it is served."""
    quiet_environment()
    quiet_loggers()
    tracker = send_waiting(folder)  # the trial's run, where it is not there yet
    location, study_id = tracker.location, tracker.study_id
    registry_uri = os.environ.get("MLFLOW_REGISTRY_URI", "").strip() or None
    made = register(
        directory,
        record,
        name=name,
        alias=alias,
        tracking_uri=location.uri,
        registry_uri=registry_uri,
        experiment=(os.environ.get("MLFLOW_EXPERIMENT_NAME", DEFAULT_EXPERIMENT), location.artifacts),
        study_id=study_id,
        plugins=plugins,
    )
    shown = redact(registry_uri) if registry_uri else location.shown
    return made, (
        f"Registered as {name} version {made.version}, alias {alias}, in {shown} (from run {made.run_id}).\n"
        f"Serve it: MLFLOW_TRACKING_URI={shlex.quote(location.shown)} mlflow models serve -m {shlex.quote(made.uri)} "
        "--env-manager local --port 5001"
    )


def predict_command(directory: Path, task: TaskSpec) -> str:
    """What a person types to have an export answer."""
    example = example_input(task.to_dict())
    return shlex.join(["autotune", "predict", str(directory), *([example] if isinstance(example, str) else example)])
