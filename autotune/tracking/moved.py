"""A study's own store after its folder was moved or copied: MLflow keeps the places of files as they once were, in full."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from autotune.tracking.location import Location


def bring_along(location: Location) -> bool:
    """Where the study's own database names files of another folder, names this one. Returns whether it did.

    Other stores are left alone, and so is a database that MLflow has not made yet. What a person has put elsewhere stays.

    Raises:
        sqlite3.Error: the database cannot be read, or cannot be written where it must be.
    """
    file, here = location.own, location.artifacts
    if file is None or here is None or not file.exists():
        return False
    with closing(sqlite3.connect(file, timeout=10.0)) as database:
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not {"experiments", "runs"} <= tables:
            return False
        found = database.execute("SELECT DISTINCT artifact_location FROM experiments").fetchall()
        earlier = [place for (place,) in found if place and place != here and _was_a_studys(place)]
        with database:
            for place in earlier:
                database.execute(
                    "UPDATE experiments SET artifact_location = ? WHERE artifact_location = ?", (here, place)
                )
                start = f"{place}/"
                database.execute(
                    "UPDATE runs SET artifact_uri = ? || substr(artifact_uri, ?) WHERE substr(artifact_uri, 1, ?) = ?",
                    (f"{here}/", len(start) + 1, len(start), start),
                )
    return bool(earlier)


def holds_run(database: Path, run_id: str) -> bool:
    """Whether a database of MLflow's has this run, and nobody has deleted it; no database that can be read has none."""
    if not database.is_file():
        return False
    wanted = "SELECT 1 FROM runs WHERE run_uuid = ? AND lifecycle_stage = 'active'"
    try:
        with closing(sqlite3.connect(database, timeout=3.0)) as opened:
            return opened.execute(wanted, (run_id,)).fetchone() is not None
    except sqlite3.Error:
        return False


def _was_a_studys(place: str) -> bool:
    return place.startswith("file:///") and place.endswith("/mlartifacts")
