"""What ``autotune train`` trains: read from a study, from an export, or from a file that a person wrote."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from autotune.config import StudyConfig
from autotune.errors import ConfigError, StudyError
from autotune.outcome import Candidate
from autotune.space.yaml_file import Document
from autotune.study.folder import StudyFolder, find_folder
from autotune.study.reading import read_only
from sherl.data import DataSpec
from sherl.errors import SherlError
from sherl.methods import method_from_dict
from sherl.spec import TrainingConfig

_OF_STUDY = ("model", "data", "max_length", "memory_cap", "metric", "plugins")
_KEYS = ("method", "training", "seed", *_OF_STUDY)


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """One configuration and what it is trained on.

    config: model, data, cap and the like; what is about a search in it is not read. number: the trial that it was in its
    study, else 0. came_from: in words, for the card.
    """

    config: StudyConfig
    candidate: Candidate
    seed: int
    number: int
    came_from: str

    def to_dict(self) -> dict[str, Any]:
        """What decides about the weights, JSON-able: two runs that agree in it end with the same ones."""
        config = self.config
        return {
            "method": self.candidate.method,
            "training": self.candidate.training,
            "seed": self.seed,
            "model": config.model,
            "data": config.data,
            "max_length": config.max_length,
            "metric": config.metric,
            "plugins": list(config.plugins),
        }


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What the command line sets instead; None and {} leave it as it is. whole: all training rows, not the study's."""

    memory_cap: str | None = None
    epochs: int | None = None
    seed: int | None = None
    model: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    whole: bool = True
    threads: int | None = None


def settings_from_study(study_dir: str | Path | None, trial: int | None, changes: Changes) -> TrainSettings:
    """A trial of a study: the one asked for, else the selected one.

    Raises:
        StudyError: there is no such study or trial, or nothing is selected.
        ConfigError: a change is not allowed.
    """
    folder = find_folder(study_dir)
    if trial is None:
        selection = folder.read_selection()
        if selection is None:
            raise StudyError("Nothing is selected yet: run `autotune select` first, or give --trial NUMBER.")
        trial = int(selection["point"]["number"])
    with read_only(folder) as record:
        chosen = record.trial(trial)
    config = folder.settings()
    plain = {key: config.to_dict()[key] for key in _OF_STUDY}
    found = {"method": chosen.candidate.method, "training": chosen.candidate.training, "seed": chosen.seed, **plain}
    return _settled(found, changes, number=trial, where=str(folder.path), came_from=f"trial {trial} of {config.name}")


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
        return _settled(_of_export(plain, file), changes, number=number, where=str(file), came_from=came_from)
    unknown = [
        f"{key}: unknown{_near(key)} Known are: {', '.join(_KEYS)}." for key in plain if key not in _KEYS
    ]  # fmt: skip
    if unknown:
        raise ConfigError(unknown, where=str(file))
    return _settled(plain, changes, number=0, where=str(file), came_from=file.name)


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


def _of_export(plain: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """Method and training of an export, with model and length from the checkpoint's own file beside it."""
    try:
        checkpoint = json.loads((file.parent / "sherl.json").read_text(encoding="utf-8"))
        task = checkpoint["task"]
        found = {
            "method": plain["candidate"]["method"],
            "training": plain["candidate"]["training"],
            "seed": plain["seed"],
            "model": checkpoint["backbone"]["source"],
            "max_length": None if task.get("image_size") else checkpoint["max_length"],
            "metric": task["metric"],
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{file.parent} is no whole export ({error!r}): export the trial again.") from error
    settings = plain.get("settings") or {}
    return {**found, **{key: settings[key] for key in ("data", "memory_cap") if settings.get(key) is not None}}


def _settled(plain: Mapping[str, Any], changes: Changes, *, number: int, where: str, came_from: str) -> TrainSettings:
    """Settings with the changes in them, all judged at once."""
    problems = []
    training = dict(plain.get("training") or {}) if isinstance(plain.get("training") or {}, Mapping) else {}
    seed = changes.seed if changes.seed is not None else plain.get("seed", 0)
    if changes.epochs is not None:
        training["epochs"] = changes.epochs
    method: dict[str, Any] = {}
    try:
        method = method_from_dict(plain.get("method")).to_dict()
    except SherlError as error:
        problems.append(f"method: {error}")
    try:
        TrainingConfig.from_dict({**training, "seed": seed})
    except (SherlError, TypeError) as error:
        problems.append(f"training: {error}")
    if plain.get("data") is None and not changes.data:
        problems.append(
            "data: missing; say it with --train FILE (and --text, --label), or take a study with --from-study."
        )
    data = {**dict(plain.get("data") or {}), **changes.data}
    data |= {"whole_train": True} if changes.whole else {}
    cap = changes.memory_cap or plain.get("memory_cap")
    if cap is None:
        problems.append("memory_cap: missing; give --memory-cap, e.g. 8GB.")
    try:
        DataSpec.from_dict(data)
    except (SherlError, TypeError) as error:
        problems.append(f"data: {error}")
    rest = {key: plain[key] for key in ("max_length", "metric", "plugins") if plain.get(key) is not None}
    settings = {"model": changes.model or plain.get("model"), "data": data, "threads": changes.threads, **rest}
    try:
        config = StudyConfig.parse({**settings, "memory_cap": cap or 1}, where=where)
    except ConfigError as error:
        raise ConfigError([*problems, *error.problems], where=where) from error
    if problems:
        raise ConfigError(problems, where=where)
    candidate = Candidate(method=method, training=training, params={})
    return TrainSettings(config=config, candidate=candidate, seed=int(seed), number=number, came_from=came_from)


def with_plan(settings: TrainSettings, plan: Mapping[str, Any]) -> TrainSettings:
    """The same with the memory plan that it was begun with."""
    return replace(settings, candidate=replace(settings.candidate, plan=dict(plan)))


def differences(kept: Mapping[str, Any], now: TrainSettings) -> list[str]:
    """What another run was begun with, in words; empty where it is the same run."""
    wanted = json.loads(json.dumps(now.to_dict()))
    return [
        f"{key} is {wanted[key]!r}, the run was begun with {kept.get(key)!r}"
        for key in wanted
        if kept.get(key) != wanted[key]
    ]


def _near(key: object) -> str:
    near = difflib.get_close_matches(str(key), _KEYS, n=1)
    return f"; did you mean {near[0]}?" if near else "."
