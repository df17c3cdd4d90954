"""The settings of one study: what ``autotune run`` was asked for, frozen, validated, kept as JSON beside the record."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator
from pydantic_core.core_schema import ValidationInfo

from autotune.errors import ConfigError, UnitError
from autotune.files import write_text
from autotune.redaction import redact
from autotune.units import format_bytes, parse_bytes, parse_duration


def _bytes(value: Any) -> Any:
    """A size from text or number; a bool or a fraction is left for pydantic to refuse."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return value
    try:
        return parse_bytes(value)
    except UnitError as error:
        raise ValueError(str(error)) from error


def _seconds(value: Any) -> Any:
    if value is None or isinstance(value, bool) or not isinstance(value, str | int | float):
        return value
    try:
        return parse_duration(value)
    except UnitError as error:
        raise ValueError(str(error)) from error


def _budget(value: Any) -> Any:
    if isinstance(value, str) and value.strip().lower() == ALL_THAT_IS_FREE:
        return ALL_THAT_IS_FREE
    try:
        return _bytes(value)
    except ValueError as error:
        raise ValueError(f"{error} Or {ALL_THAT_IS_FREE!r}: what is free at the start less 5 %") from error


ALL_THAT_IS_FREE: Final = "all"
CONFIRM_SEEDS: Final = 3
"""Other seeds on which members of the front are trained unless a person says otherwise."""
Bytes = Annotated[int, BeforeValidator(_bytes), Field(strict=True, gt=0)]
Budget = Annotated[Literal["all"] | Annotated[int, Field(strict=True, gt=0)], BeforeValidator(_budget)]
Seconds = Annotated[float, BeforeValidator(_seconds), Field(strict=True, gt=0)]
Name = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(strict=True, ge=1)]


class StudyConfig(BaseModel):
    """The settings of one study.

    memory_cap: bytes that one trial may hold of its device; ``"8GB"`` and ``"8GiB"`` are read. gpu_budget: bytes that
    the trials on one GPU (without a GPU: on one machine) may hold together, at least the cap; ``"all"`` is what is free
    at the start less 5 %, None the cap. model: a name, folder or
    hub id that :func:`sherl.backbones.resolve_source` knows. data: the fields of :class:`sherl.data.DataSpec`, which
    judges their values. methods: those of the space to try, None for all. metric: None takes the task's own.
    max_length: tokens at which texts are cut; None takes 128, or the backbone's limit where that is less; not for images.
    space: the name of a file in ``search_spaces/`` or a path. time_budget: seconds. confirm: on how many other seeds
    each member of the front is trained at the end, 0 for none. threads: CPU threads of one trial
    and parallel: trials at once, None lets the runner decide. plugins: modules that trials import first.
    features: whether hidden states of frozen early blocks are computed once and stored: ``auto`` where it pays, ``on``,
    ``off``, or a folder to keep them in. features_budget: bytes that the store may hold; None: half of the disk's free room.

    Every way to make one (the constructor, :meth:`parse`, :meth:`load`) raises one :class:`ConfigError` that names all
    problems, each with the field, what was given and what is allowed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    FILE_NAME: ClassVar[str] = "study.json"

    memory_cap: Bytes
    gpu_budget: Budget | None = None
    model: Name
    data: dict[str, Any] = Field(default_factory=dict)
    methods: tuple[Name, ...] | None = None
    metric: Name | None = None
    precision: Literal["fp32", "bf16"] | None = None
    space: Name = "default"
    trials: Count = 16
    confirm: Annotated[int, Field(strict=True, ge=0)] = CONFIRM_SEEDS
    time_budget: Seconds | None = None
    seed: Annotated[int, Field(strict=True, ge=0, lt=2**31)] = 0
    study_dir: Name = "studies"
    name: Annotated[str, Field(min_length=1, pattern=r"^[^/\\.][^/\\]*$")] = "study"
    mlflow_uri: Name | None = None
    ray_address: Name | None = None
    max_length: Count | None = None
    threads: Count | None = None
    parallel: Count | None = None
    sampler: Name = "tpe"
    plugins: tuple[Name, ...] = ()
    features: Name = "auto"
    features_budget: Bytes | None = None

    def __init__(self, **settings: Any) -> None:
        try:
            super().__init__(**settings)
        except ValidationError as error:
            raise ConfigError(_problems(error, type(self))) from error

    @field_validator("study_dir", "model", "space", mode="before")
    @classmethod
    def _path_as_text(cls, value: Any) -> Any:
        return os.fspath(value) if isinstance(value, os.PathLike) else value

    @field_validator("gpu_budget")
    @classmethod
    def _budget_holds_a_trial(cls, value: int | Literal["all"] | None, info: ValidationInfo) -> Any:
        cap = info.data.get("memory_cap")
        if isinstance(value, int) and cap is not None and value < cap:
            raise ValueError(
                f"it is below the memory cap of {format_bytes(cap)}, and the trials of a GPU cannot hold less together than "
                "one of them may; allowed is the cap or more, or 'all'; lower the cap, or raise the budget"
            )
        return value

    @field_validator("methods", mode="before")
    @classmethod
    def _one_method_or_more(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("methods")
    @classmethod
    def _methods_named_once(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is not None and not value:
            raise ValueError("allowed is a list of at least one method, or nothing for all methods of the space")
        return None if value is None else tuple(dict.fromkeys(value))

    @field_validator("data")
    @classmethod
    def _data_is_plain(cls, value: dict[str, Any]) -> dict[str, Any]:
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"allowed are texts, numbers, true, false and null ({error})") from error
        return value

    @classmethod
    def parse(cls, settings: Mapping[str, Any], *, where: str | None = None) -> Self:
        """The settings of a mapping; ``where`` names their source in messages.

        Raises:
            ConfigError: one or more settings are unknown, missing or not allowed; all are named.
        """
        try:
            return cls(**{str(key): value for key, value in settings.items()})
        except ConfigError as error:
            raise ConfigError(error.problems, where=where) from error

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """The settings that :meth:`save` wrote; ``path`` is the file or the folder it lies in.

        Raises:
            ConfigError: the file is missing, is not JSON, or holds settings that are not allowed.
        """
        file = Path(path)
        if file.is_dir():
            file /= cls.FILE_NAME
        try:
            plain = json.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"The settings {file} cannot be read: {error.strerror or error}.") from error
        except ValueError as error:
            raise ConfigError(f"{file} is not the JSON that a study's settings are kept in: {error}.") from error
        if not isinstance(plain, dict):
            raise ConfigError(f"{file} must hold a JSON object of settings, it holds a {type(plain).__name__}.")
        return cls.parse(plain, where=str(file))

    def save(self, path: str | Path) -> Path:
        """Writes the settings as JSON, whole or not at all; returns the file. A folder takes ``study.json``.

        Where ``mlflow_uri`` holds a password, which a resumed study needs, the owner alone may read the file.
        """
        file = Path(path)
        if file.is_dir():
            file /= self.FILE_NAME
        file.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False, sort_keys=True) + "\n"
        write_text(file, text, private=self.mlflow_uri is not None and redact(self.mlflow_uri) != self.mlflow_uri)
        return file

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dictionary; :meth:`parse` reads it back to equal settings."""
        return self.model_dump(mode="json")

    def with_changes(self, **changes: Any) -> Self:
        """A copy with other values, validated like any other.

        Raises:
            ConfigError: a change is unknown or not allowed.
        """
        return type(self)(**{**self.to_dict(), **changes})


def _problems(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """One sentence for each problem: the field, what was given, what is allowed."""
    known = list(model.model_fields)
    problems = []
    for item in error.errors(include_url=False, include_context=True):
        path = [str(part) for part in item["loc"]]
        field = ".".join(path)
        if item["type"] == "extra_forbidden":
            near = difflib.get_close_matches(path[-1], known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            problems.append(f"{field}: unknown setting (given {item['input']!r}){hint} Known are: {', '.join(known)}.")
        elif item["type"] == "missing":
            problems.append(f"{field}: missing; it must be given.")
        else:
            rule = item["msg"].removeprefix("Value error, ").rstrip(".")
            problems.append(f"{field}: {item['input']!r} was given; {rule[:1].lower() + rule[1:]}.")
    return problems
