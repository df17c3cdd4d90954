"""Where what ``autotune train`` trains is read from: a study, an export, or a file that a person wrote."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autotune.errors import ConfigError, StudyError
from autotune.report import points_from
from autotune.space.yaml_file import Document
from autotune.study.folder import StudyFolder, find_folder
from autotune.study.reading import metric_of, read_only
from autotune.study.selecting import selected_now
from autotune.study.train_settings import Changes, TrainSettings, settle

_OF_STUDY = ("model", "data", "max_length", "memory_cap", "plugins")
_KEYS = ("method", "training", "seed", "model", "data", "max_length", "memory_cap", "metric", "plugins")
_OF_TASK = ("metric", "template", "target_length", "unit", "image", "image_size")
"""Settings of data that mean something for one task."""


def settings_from_study(study_dir: str | Path | None, trial: int | None, changes: Changes) -> TrainSettings:
    """A trial of a study: the one asked for, else the selected one.

    Raises:
        StudyError: there is no such study or trial, or nothing is selected.
        SelectionError: no member of the front meets the rule of the selection any more.
        ConfigError: a change is not allowed.
    """
    folder = find_folder(study_dir)
    with read_only(folder) as record:
        if trial is None:
            points = points_from(record.trials(), metric_name=metric_of(folder))
            trial = selected_now(folder, points)[0].point.number
        chosen = record.trial(trial)
    config = folder.settings()
    plain = {key: config.to_dict()[key] for key in _OF_STUDY}
    found = {"method": chosen.candidate.method, "training": chosen.candidate.training, "seed": chosen.seed, **plain}
    return settle(found, changes, number=trial, where=str(folder.path), came_from=f"trial {trial} of {config.name}")


def settings_from_file(path: Path, trial: int | None, changes: Changes) -> TrainSettings:
    """A file of settings, an export (its folder or export.json), or a study's front.json.

    A file of settings is YAML or JSON with ``method`` (its name, or a mapping with ``name``), ``training`` (learning_rate,
    batch_size, epochs, ...), ``model``, ``data`` (train, text, label, ...), ``memory_cap``, ``max_length``, ``metric``, ``seed``.

    Raises:
        ConfigError: the file cannot be read, or settings are missing, unknown or not allowed; all are named.
        StudyError: a front.json lies in no study.
    """
    path = path.expanduser()
    if path.is_dir() and StudyFolder(path).settings_file.is_file():
        return settings_from_study(path, trial, changes)
    file = path / "export.json" if path.is_dir() else path
    if not file.is_file():
        raise ConfigError(
            f"{path} is no file of settings{' and no export' if path.is_dir() else ''}: give a YAML or JSON file, the folder of "
            "an export, or a study with --from-study."
        )
    plain = _read(file)
    if "front" in plain:
        if not StudyFolder(file.parent.parent).settings_file.is_file():
            raise StudyError(
                f"{file} is a front whose study is not beside it: give the study with --from-study DIR and --trial NUMBER."
            )
        return settings_from_study(file.parent.parent, trial, changes)
    if trial is not None:
        raise ConfigError(f"--trial names a trial of a study, and {file} is none: leave it out, or give --from-study.")
    if plain.get("format") == "autotune-export":
        number, came_from = int(plain["trial"]), f"the export in {file.parent.name}"
        return settle(_of_export(plain, file, changes), changes, number=number, where=str(file), came_from=came_from)
    unknown = [
        f"{key}: unknown{_near(key)} Known are: {', '.join(_KEYS)}." for key in plain if key not in _KEYS
    ]  # fmt: skip
    if unknown:
        raise ConfigError(unknown, where=str(file))
    return settle(plain, changes, number=0, where=str(file), came_from=file.name)


def _read(file: Path) -> dict[str, Any]:
    try:
        if file.suffix == ".json":
            plain = json.loads(file.read_text(encoding="utf-8"))
        else:
            document = Document(file)
            if document.problems:
                raise ConfigError(document.problems, where=str(file))
            plain = document.values
    except (OSError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{file} cannot be read as settings: {error}.") from error
    if not isinstance(plain, dict):
        raise ConfigError(f"{file} must hold a mapping of settings, it holds a {type(plain).__name__}.")
    return plain


def _of_export(plain: Mapping[str, Any], file: Path, changes: Changes) -> dict[str, Any]:
    """Method and training of an export, with model, length and task from the checkpoint's own file beside it."""
    try:
        checkpoint = json.loads((file.parent / "sherl.json").read_text(encoding="utf-8"))
        task = checkpoint["task"]
        found = {
            "method": plain["candidate"]["method"],
            "training": plain["candidate"]["training"],
            "seed": plain["seed"],
            "model": checkpoint["backbone"]["source"],
            "max_length": None if task.get("image_size") else checkpoint["max_length"],
        }
        learnt = _learnt(task)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{file.parent} is no whole export ({error!r}): export the trial again.") from error
    settings = plain.get("settings") or {}
    if settings.get("unit") is not None:
        learnt["unit"] = settings["unit"]
    named = settings.get("data")
    said = {
        key: value for key, value in (named or {}).items() if value is not None and (key, value) != ("task", "auto")
    }
    data = {**learnt, **said}
    if changes.data.get("task", learnt["task"]) not in (
        "auto",
        learnt["task"],
    ):  # what was of the other task goes with it
        data = {key: value for key, value in data.items() if key not in _OF_TASK}
    if task.get("pair") and "text" in changes.data and "pair" not in changes.data:
        raise ConfigError(
            "The export answers for pairs of texts, and --text alone was given: name the column of the second text with --pair."
        )
    if named is None and "train" not in changes.data:  # its rows lay in files of a machine, which no export tells
        data = {}
    return {**found, "data": data or None, "memory_cap": settings.get("memory_cap")}


def _learnt(task: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of data that ask for a task (a dictionary as :meth:`sherl.spec.TaskSpec.to_dict` gives it) again."""
    size = task.get("image_size") or ()
    asked = {
        "task": "image-classification" if size else task["kind"],
        "metric": task["metric"],
        "template": task.get("template") or None,
        "target_length": task.get("target_length") or None,
        "image_size": size[0] if size and size[0] == size[1] else None,  # the backbone's own where it is no square
    }
    return {key: value for key, value in asked.items() if value is not None}


def _near(key: object) -> str:
    near = difflib.get_close_matches(str(key), _KEYS, n=1)
    return f"; did you mean {near[0]}?" if near else "."
