"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

StudyDir = Annotated[
    Path | None, typer.Option("--study-dir", help="The study's folder. By default the newest one under ./studies.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only what went wrong and the result.")]
Plugins = Annotated[
    list[str] | None,
    typer.Option(
        "--plugin", help="A Python module to import first, which registers methods, families, ... (repeatable)."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]


def load_plugins(plugins: list[str] | None) -> None:
    """Import what a person wants registered.

    Raises:
        ConfigError: a module cannot be imported.
    """
    from autotune import plugins as modules

    modules.load_plugins(plugins or ())


def absolute(source: str | None) -> str | None:
    """A file or folder by its whole path, since trials and `resume` may run elsewhere; names and hub ids as they are."""
    task, at, folder = (source or "").partition("@")
    if at and task.startswith("glue:"):
        return f"{task}@{absolute(folder)}"
    if source is None or not Path(source).expanduser().exists():
        return source
    return str(Path(source).expanduser().resolve())


def absolute_file(source: str) -> str:
    """A file by its whole path; anything else as it is, also where a folder happens to have this name."""
    path = Path(source).expanduser()
    return str(path.resolve()) if path.is_file() else source
