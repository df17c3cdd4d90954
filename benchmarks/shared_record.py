"""What ``shared_features.py`` has measured so far: one JSON file, written anew behind each row, so that a call goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from conditions import conditions

Row: TypeAlias = dict[str, Any]
SECTIONS = ("study", "paired", "steps", "building")


class SharedRecord:
    """Rows by section and name; each has the commit, the date and the machine's load of its own."""

    def __init__(self, file: Path, *, taken_under: Callable[[], dict[str, Any]] = conditions) -> None:
        """Raises:
        SystemExit: the file is none of this benchmark's.
        """
        self.file = file
        self._conditions = taken_under
        self._rows: dict[str, dict[str, Row]] = {section: {} for section in SECTIONS}
        if file.exists():
            try:
                kept = json.loads(file.read_text(encoding="utf-8"))
                self._rows |= {section: dict(kept[section]) for section in SECTIONS}
            except (ValueError, KeyError, TypeError) as error:
                raise SystemExit(
                    f"{file} holds no results of this benchmark ({error!r}): move it away, or name another with --json."
                ) from error

    def rows(self, section: str) -> dict[str, Row]:
        """The rows of a section, by name, in the order in which they were measured."""
        return dict(self._rows[section])

    def get(self, section: str, name: str) -> Row | None:
        """One row; None where it has not been measured."""
        return self._rows[section].get(name)

    def put(self, section: str, name: str, row: Row) -> None:
        """Keep a row; one of the same name goes. The file is whole at any moment."""
        now = self._conditions()
        taken = {"date": now["date"], "commit": now["commit"], "load": round(os.getloadavg()[0], 1)}
        self._rows[section].pop(name, None)
        self._rows[section][name] = {**row, "taken": taken}
        self.file.parent.mkdir(parents=True, exist_ok=True)
        beside = self.file.with_suffix(f".{os.getpid()}.part")
        beside.write_text(json.dumps({"conditions": now, **self._rows}, indent=1) + "\n", encoding="utf-8")
        beside.replace(self.file)
