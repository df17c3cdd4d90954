"""An export in MLflow's model registry, as a pyfunc model with signature, input example and the code that it needs."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import autotune
from autotune.deploy.card import example_input
from autotune.errors import ConfigError, StudyError
from autotune.outcome import TrialRecord
from autotune.redaction import redact

_ALIAS = re.compile(r"[A-Za-z][\w-]*")
_VERSION = re.compile(r"v\d+")
_CODE_NEEDS = ("mlflow", "pandas", "pyyaml", "jaxtyping", "scikit-learn", "scipy", "xxhash")
_PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAAEElEQVR4nGNsYIAAJgaKGAAmCACQXTClHgAAAABJRU5ErkJggg=="
"""An image of 8 x 8 grey pixels as a PNG file in base64, for the example."""


@dataclass(frozen=True, kw_only=True)
class Registered:
    """Where a model stands in the registry. run_id: the run that it is said to come from."""

    name: str
    version: int
    alias: str
    run_id: str
    uri: str


def require_names(name: str, alias: str) -> None:
    """Look at both names before anything is made.

    Raises:
        ConfigError: the registry takes no such name or alias.
    """
    problems = []
    if not name.strip() or any(sign in name for sign in "/:") or len(name) > 200:
        problems.append(f"--register: a name of 1 to 200 characters without / and : is needed, {name!r} was given")
    if not _ALIAS.fullmatch(alias) or _VERSION.fullmatch(alias.lower()) or alias.lower() == "latest":
        problems.append(
            f"--alias: letters, digits, _ and - are allowed, beginning with a letter, but not 'latest' and v1, v2, ...; "
            f"{alias!r} was given"
        )
    if problems:
        raise ConfigError(problems, where="autotune export")


def register(
    directory: Path,
    record: TrialRecord,
    *,
    name: str,
    alias: str,
    tracking_uri: str,
    registry_uri: str | None,
    experiment: tuple[str, str | None],
    study_id: str,
    plugins: tuple[str, ...] = (),
) -> Registered:
    """Log an export as a model of its trial's run and register it as the next version of ``name``; the alias moves to it.

    Args:
        directory: what :func:`autotune.deploy.export` wrote.
        tracking_uri: the store of runs and files. registry_uri: that of registered models; None: the same.
        experiment: name, and folder of artifacts where no server decides about that; used where the trial has no run.
        study_id: the tag of the study's runs in that store, to find the trial's by.
        plugins: modules that are imported before the model is loaded.

    Raises:
        ConfigError: name or alias are not allowed.
        StudyError: MLflow could not do it; the export stays.
    """
    require_names(name, alias)
    import mlflow
    from mlflow.exceptions import MlflowException
    from mlflow.models import Model

    config = {"backbone": None, "device": None, "plugins": list(plugins)}
    _require_answers(directory, config)
    try:
        with _stores(tracking_uri, registry_uri):
            client = mlflow.MlflowClient()
            run_id = _run_of(client, record, study_id) or _new_run(client, record, name, experiment)
            mlflow.set_experiment(experiment_id=client.get_run(run_id).info.experiment_id)
            logged = Model.log(
                artifact_path=None,
                name=re.sub(r"""[/:.%"']+""", "-", name),
                flavor=mlflow.pyfunc,
                run_id=run_id,
                registered_model_name=name,
                await_registration_for=60,
                loader_module="autotune.deploy.served",
                data_path=str(directory),
                code_paths=_code(),
                pip_requirements=_requirements(directory),
                signature=_signature(directory),
                input_example=_example(directory),
                model_config=config,
                metadata={"trial": record.number, "seed": record.seed},
            )
            version = int(logged.registered_model_version)
            client.set_registered_model_alias(name, alias, str(version))
            client.update_model_version(name, str(version), description=_description(record))
            for key, value in (("trial", record.number), ("method", record.candidate.method["name"])):
                client.set_model_version_tag(name, str(version), key, str(value))
    except (MlflowException, OSError) as error:
        first = redact((str(error).strip().splitlines() or ["no message"])[0])
        raise StudyError(
            f"The export in {directory} is whole, but MLflow could not register it as {name!r}: {first} "
            "Look at MLFLOW_TRACKING_URI and MLFLOW_REGISTRY_URI, and give the command again."
        ) from error
    return Registered(name=name, version=version, alias=alias, run_id=run_id, uri=f"models:/{name}@{alias}")


def _require_answers(directory: Path, config: Mapping[str, Any]) -> None:
    """Answer the example as a server would: MLflow itself only logs that it could not."""
    from mlflow.exceptions import MlflowException

    from autotune.deploy.served import _load_pyfunc
    from sherl.errors import SherlError

    try:
        _load_pyfunc(str(directory), config).predict(_example(directory))
    except (SherlError, MlflowException, ImportError) as error:
        raise StudyError(
            f"The export in {directory} does not answer, so it is not registered: {error} Its files stay; export it again, or "
            "another trial."
        ) from error


@contextmanager
def _stores(tracking_uri: str, registry_uri: str | None) -> Iterator[None]:
    """MLflow's functions write to these stores inside; behind it they find theirs as before, one that nobody set as well."""
    import mlflow

    names = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")
    variables = {name: os.environ.get(name) for name in names}
    before = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    mlflow.set_tracking_uri(tracking_uri)
    mlflow.set_registry_uri(registry_uri or tracking_uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(None)  # setting one also writes its variable, unsetting that of the registry leaves it
        mlflow.set_registry_uri(None)
        for name, value in variables.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        if mlflow.get_tracking_uri() != before[0]:  # it was set, and its variable was changed since
            mlflow.set_tracking_uri(before[0])
        if mlflow.get_registry_uri() != before[1]:
            mlflow.set_registry_uri(before[1])


def _run_of(client: Any, record: TrialRecord, study_id: str) -> str | None:
    """The trial's run, in whichever experiment; None where the store has none."""
    places = [one.experiment_id for one in client.search_experiments()]
    number = record.number
    wanted = f"tags.study_id = '{study_id}' and tags.kind = 'trial' and tags.trial_number = '{number}'"
    found = client.search_runs(places, wanted, max_results=1)
    return str(found[0].info.run_id) if found else None


def _new_run(client: Any, record: TrialRecord, name: str, experiment: tuple[str, str | None]) -> str:
    """A run for a model whose training the store knows nothing of."""
    called, artifacts = experiment
    known = client.get_experiment_by_name(called)
    place = known.experiment_id if known is not None else client.create_experiment(called, artifact_location=artifacts)
    tags = {"kind": "registration", "trial_number": str(record.number), "mlflow.source.name": "autotune"}
    run = client.create_run(place, run_name=f"{name} (trial {record.number})", tags=tags)
    client.set_terminated(run.info.run_id)
    return str(run.info.run_id)


def _task(directory: Path) -> Mapping[str, Any]:
    task: dict[str, Any] = json.loads((directory / "sherl.json").read_text(encoding="utf-8"))["task"]
    return task


def _example(directory: Path) -> list[Any]:
    """Rows that the model can answer."""
    task = _task(directory)
    if task.get("image_size"):
        return [_PIXEL]
    example = example_input(task)
    return [list(example)] if isinstance(example, tuple) else [example, "Another one."]


def _signature(directory: Path) -> Any:
    """Columns without names, so that a DataFrame may call them anything and lists need none.

    Inputs are of any type: to a text MLflow would turn null into "None" and a number into its digits, and answer that.
    """
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import AnyType, Array, Map

    task = _task(directory)
    text, number = DataType.string, DataType.double
    answers: dict[str, list[ColSpec]] = {
        "classification": [ColSpec(text, "label"), ColSpec(Map(number), "scores")],
        "regression": [ColSpec(number, "value")],
        "token-classification": [ColSpec(Array(text), "words"), ColSpec(Array(text), "tags")],
        "language-modelling": [
            ColSpec(number, "nll"), ColSpec(number, "perplexity"), ColSpec(DataType.long, "tokens")
        ],
        "text-to-text": [ColSpec(text, "text"), ColSpec(text, "label", False), ColSpec(number, "value", False)],
    }  # fmt: skip
    outputs = answers.get(task["kind"])
    return ModelSignature(
        inputs=Schema([ColSpec(AnyType()) for _ in range(2 if task.get("pair") else 1)]),
        outputs=None if outputs is None else Schema(outputs),
        params=ParamSchema([ParamSpec("batch_size", DataType.integer, 32)]),
    )


def _code() -> list[str]:
    """The two packages, which no index has."""
    import sherl

    return [str(Path(module.__file__ or "").parent) for module in (autotune, sherl)]


def _requirements(directory: Path) -> list[str]:
    lines = (directory / "requirements.txt").read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if line.strip() and not line.startswith("#")]
    for package in _CODE_NEEDS:
        try:
            kept.append(f"{package}=={metadata.version(package).partition('+')[0]}")
        except metadata.PackageNotFoundError:
            kept.append(package)
    return kept


def _description(record: TrialRecord) -> str:
    outcome = record.outcome
    metric = "" if outcome is None or outcome.metric is None else f"; validation {outcome.metric:.4f}"
    tests = "".join(f"; test {name} {value:.4f}" for name, value in (record.test_metrics or {}).items())
    return f"Trial {record.number}: {record.candidate.label}{metric}{tests}"
