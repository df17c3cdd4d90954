"""What ``autotune train`` trains, and how what was given is judged: all problems at once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from autotune.config import StudyConfig
from autotune.errors import ConfigError
from autotune.outcome import Candidate
from autotune.plugins import load_plugins
from sherl.data import DataSpec
from sherl.errors import SherlError
from sherl.methods import method_from_dict
from sherl.spec import TrainingConfig

_EXAMPLES = {
    "training": "{learning_rate: 1e-3, batch_size: 16, epochs: 4}",
    "data": "{train: rows.csv, text: review, label: stars}",
}
_MOST = 2**31 - 1
"""The highest seed, as of a study."""


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
    """What the command line sets instead; None and {} leave it as it is. data: settings of :class:`sherl.data.DataSpec`.
    whole: all training rows, not the study's."""

    memory_cap: str | None = None
    epochs: int | None = None
    seed: int | None = None
    model: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    whole: bool = True
    threads: int | None = None


def settle(plain: Mapping[str, Any], changes: Changes, *, number: int, where: str, came_from: str) -> TrainSettings:
    """Settings with the changes in them, all judged at once. Their plugins are imported first.

    plain: ``method``, ``training``, ``model``, ``data``, ``memory_cap``, ``max_length``, ``metric``, ``seed``, ``plugins``.

    Raises:
        ConfigError: settings are missing, of the wrong kind, not allowed, or say two things of one; all are named.
    """
    problems: list[str] = []
    method = _method(plain, problems)
    training = _mapping(plain, "training", problems)
    data = _mapping(plain, "data", problems)
    seed = _seed(plain, training or {}, changes, problems)
    if training is not None:
        training = _training(training, changes, problems)
    if data is not None:
        metric = _metric(plain, data, changes, problems)
        data = _data(plain, {**data, "metric": metric}, changes, problems)
        plain = {**plain, "metric": metric}
    cap = changes.memory_cap or plain.get("memory_cap")
    if cap is None:
        problems.append("memory_cap: missing; give --memory-cap, e.g. 8GB.")
    rest = {key: plain[key] for key in ("max_length", "metric", "plugins") if plain.get(key) is not None}
    settings = {"model": changes.model or plain.get("model"), "data": data or {}, "threads": changes.threads, **rest}
    try:
        config = StudyConfig.parse({**settings, "memory_cap": cap or 1}, where=where)
    except ConfigError as error:
        raise ConfigError([*problems, *error.problems], where=where) from error
    if problems:
        raise ConfigError(problems, where=where)
    candidate = Candidate(method=method, training=training or {}, params={})
    return TrainSettings(config=config, candidate=candidate, seed=seed, number=number, came_from=came_from)


def _method(plain: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
    """With all its settings; the plugins may register it."""
    plugins = plain.get("plugins")
    try:
        if isinstance(plugins, (list, tuple)) and all(isinstance(name, str) for name in plugins):
            load_plugins(plugins)
        return method_from_dict(plain.get("method")).to_dict()
    except ConfigError as error:
        problems += error.problems
    except SherlError as error:
        problems.append(f"method: {error}")
    return {}


def _mapping(plain: Mapping[str, Any], key: str, problems: list[str]) -> dict[str, Any] | None:
    """A setting that holds others; None where it is something else."""
    value = plain.get(key)
    if value is None or isinstance(value, Mapping):
        return dict(value or {})
    problems.append(f"{key}: it must hold a mapping of settings, {value!r} was given; e.g. {key}: {_EXAMPLES[key]}.")
    return None


def _seed(plain: Mapping[str, Any], training: Mapping[str, Any], changes: Changes, problems: list[str]) -> int:
    """The seed of the command line, of the settings or of those of the training; 0 where none of them says one."""
    named = {"--seed": changes.seed, "seed": plain.get("seed"), "training.seed": training.get("seed")}
    given = {name: value for name, value in named.items() if value is not None}
    wrong = [
        f"{name}: it must be a whole number from 0 to {_MOST}, {value!r} was given."
        for name, value in given.items()
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MOST
    ]
    if wrong:
        problems += wrong
        return 0
    if changes.seed is None and len(set(given.values())) > 1:
        problems.append(f"seed: {given['seed']} was given, and as training.seed {given['training.seed']}: give one.")
    return next(iter(given.values()), 0)


def _training(training: Mapping[str, Any], changes: Changes, problems: list[str]) -> dict[str, Any]:
    """Without the seed, which stands beside it."""
    settled = {key: value for key, value in training.items() if key != "seed"}
    if changes.epochs is not None:
        settled["epochs"] = changes.epochs
    wrong = [
        f"training.{key}: it must be a number, {value!r} was given."
        for key, value in settled.items()
        if key != "precision" and not (value is None or isinstance(value, (int, float)))
    ]
    problems += wrong
    try:
        if not wrong:
            TrainingConfig.from_dict(settled)
    except (SherlError, TypeError) as error:
        problems.append(f"training: {error}")
    return settled


def _metric(plain: Mapping[str, Any], data: Mapping[str, Any], changes: Changes, problems: list[str]) -> Any:
    """What is maximised: by the command line, by the settings or by those of the data; None is the task's own."""
    asked = changes.data.get("metric")
    named, inner = plain.get("metric"), data.get("metric")
    if asked is None and None not in (named, inner) and named != inner:
        problems.append(f"metric: {named!r} was given, and as data.metric {inner!r}: give one.")
    return next((name for name in (asked, named, inner) if name is not None), None)


def _data(plain: Mapping[str, Any], data: dict[str, Any], changes: Changes, problems: list[str]) -> dict[str, Any]:
    """With the changes in it."""
    if plain.get("data") is None and "train" not in changes.data:
        problems.append(
            "data: missing; say it with --train FILE (and --text, --label), or take a study with --from-study."
        )
    settled = {**data, **changes.data, **({"whole_train": True} if changes.whole else {})}
    try:
        DataSpec.from_dict(settled)
    except (SherlError, TypeError) as error:
        problems.append(f"data: {error}")
    return {key: value for key, value in settled.items() if key != "metric" or value is not None}


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
