"""Where search spaces lie: by name in ``search_spaces/`` beside the packages, or anywhere by path."""

from __future__ import annotations

from pathlib import Path

from autotune.errors import ConfigError
from sherl.registry import nearest

FOLDER = Path(__file__).resolve().parents[2] / "search_spaces"


def find(name_or_path: str | Path) -> Path:
    """The file of a search space.

    Raises:
        ConfigError: there is none; the message names the nearest and all known ones.
    """
    given = Path(name_or_path).expanduser()
    if given.is_file():
        return given
    by_name = FOLDER / f"{name_or_path}.yaml"
    if given.name == str(name_or_path) and by_name.is_file():
        return by_name
    if given.suffix in (".yaml", ".yml") or given.name != str(name_or_path):
        raise ConfigError(
            f"There is no search space file {str(name_or_path)!r}. Give the path of a YAML file, or a name: {_known()}."
        )
    raise ConfigError(
        f"There is no search space {str(name_or_path)!r} in {FOLDER}.{nearest(name_or_path, names())} Known are: {_known()}; or give the path of a YAML file."
    )


def names() -> tuple[str, ...]:
    """The names of the search spaces that come with the program."""
    return tuple(sorted(file.stem for file in FOLDER.glob("*.yaml")))


def _known() -> str:
    return ", ".join(names()) or f"none, {FOLDER} is missing"
