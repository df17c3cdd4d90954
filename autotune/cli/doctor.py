"""``autotune doctor``: its arguments and its print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from autotune.cli.options import Json

DOCTOR_HELP = """Say what this machine has, what of it would hold a study back, and what to do about it.

GPUs, driver, torch and its allocator, what NVML shows here, free memory, Ray, MLflow's store, disk. Takes seconds, changes nothing.
Exit code 0: a study can run; 1: something would prevent it.

Example: autotune doctor --json
"""
_MARKS = {"ok": "ok  ", "warn": "WARN", "fail": "FAIL"}


def doctor(
    study_dir: Annotated[
        Path | None, typer.Option("--study-dir", help="Where a study is to be written; default: ./studies.")
    ] = None,
    mlflow_uri: Annotated[str | None, typer.Option("--mlflow-uri", help="As for `autotune run`.")] = None,
    ray_address: Annotated[str | None, typer.Option("--ray-address", help="As for `autotune run`.")] = None,
    as_json: Json = False,
) -> None:
    """See :data:`DOCTOR_HELP`."""
    from autotune.study.doctor import diagnose
    from autotune.study.folder import STUDIES

    diagnosis = diagnose(study_dir=study_dir or STUDIES, mlflow_uri=mlflow_uri, ray_address=ray_address)
    if as_json:
        typer.echo(json.dumps(diagnosis.to_dict(), indent=2))
    else:
        for check in diagnosis.checks:
            typer.echo(f"{_MARKS[check.state]}  {check.name:<9} {check.found}")
            if check.remedy:
                typer.echo(f"                -> {check.remedy}")
        typer.echo("A study can run here." if diagnosis.can_run else "A study cannot run here: see FAIL above.")
    if not diagnosis.can_run:
        raise typer.Exit(1)
