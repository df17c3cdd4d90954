"""What a study remembers of MLflow between its commands: its name there, its run in each store, the front shown last."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

from autotune.files import write_text
from autotune.tracking.location import OWN, Location
from autotune.tracking.lock import DeliveryLock
from autotune.tracking.moved import holds_run

FILE_NAME, LOCK_NAME = "state.json", "deliver.lock"


@dataclass(frozen=True, kw_only=True)
class State:
    """study_id: what tells this study's runs from all others. runs: the study's run by store's key. stores: their
    addresses without passwords. fronts: digests of the fronts delivered last, whole, with all files."""

    study_id: str
    runs: dict[str, str] = field(default_factory=dict)
    stores: dict[str, str] = field(default_factory=dict)
    fronts: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path, location: Location) -> Self | None:
        """None where there is none or it cannot be read. What an earlier version kept is brought up to date."""
        try:
            plain = json.loads((folder / FILE_NAME).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        if not isinstance(plain, dict) or not isinstance(plain.get("study_id"), str):
            return None
        state = cls(
            study_id=plain["study_id"],
            **{name: _texts(plain.get(name)) for name in ("runs", "stores", "fronts")},
        )
        return state._renamed(location, plain.get("front"))

    @classmethod
    def open(cls, folder: Path, location: Location) -> Self:
        """The state in the folder; a new one where there is none or it cannot be read."""
        state = cls.read(folder, location)
        if state is not None:
            return state
        made = cls(study_id=uuid4().hex)
        try:
            with DeliveryLock(folder / LOCK_NAME, made.study_id).held(timeout_s=5.0):
                # another command may have made one this moment
                state = cls.read(folder, location)
                if state is None:
                    made.write(folder)
        except OSError:
            return cls.read(folder, location) or made  # said aloud as soon as there is something to remember
        return state or made

    def write(self, folder: Path) -> None:
        """For the holder of the delivery lock alone.

        Raises:
            OSError: it cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        plain = {"study_id": self.study_id, "runs": self.runs, "stores": self.stores, "fronts": self.fronts}
        write_text(folder / FILE_NAME, json.dumps(plain))

    def with_run(self, location: Location, run_id: str) -> Self:
        """The study's run in this store."""
        return replace(
            self,
            runs={**self.runs, location.key: run_id},
            stores={**self.stores, location.key: location.shown},
        )

    def with_front(
        self, location: Location, table: Sequence[Mapping[str, Any]], selected: Mapping[str, Any] | None
    ) -> Self:
        """The front that this store shows, with what is selected of it."""
        return replace(self, fronts={**self.fronts, location.key: _digest(table, selected)})

    def shows_front(
        self, location: Location, table: Sequence[Mapping[str, Any]], selected: Mapping[str, Any] | None
    ) -> bool:
        """Whether this store shows this front and this selection."""
        return self.fronts.get(location.key) == _digest(table, selected)

    def elsewhere(self, location: Location, own: Path) -> list[str]:
        """Other stores that the study's runs went to, passwords blotted out. own: where the study's own lies now."""
        shown = {
            key: f"sqlite:///{own}" if key == OWN else self.stores.get(key, key)
            for key in self.runs
            if key != location.key
        }
        return sorted(shown.values())

    def _renamed(self, location: Location, front: Any) -> Self:
        """With the store's present key, where an earlier version called it by its whole address, as it then was."""
        if location.key in self.runs:
            return self
        earlier = location.former_key if location.former_key in self.runs else None
        if earlier is None and location.own is not None:  # the study was moved since
            earlier = next((key for key, run_id in self.runs.items() if holds_run(location.own, run_id)), None)
        if earlier is None:
            return self
        runs, stores = dict(self.runs), dict(self.stores)
        runs[location.key] = runs.pop(earlier)
        stores.pop(earlier, None)
        stores[location.key] = location.shown
        fronts = {**self.fronts, location.key: front} if isinstance(front, str) else self.fronts
        return replace(self, runs=runs, stores=stores, fronts=fronts)


def _texts(value: Any) -> dict[str, str]:
    return {key: one for key, one in value.items() if isinstance(one, str)} if isinstance(value, dict) else {}


def _digest(table: Sequence[Mapping[str, Any]], selected: Mapping[str, Any] | None) -> str:
    plain = json.dumps([[dict(row) for row in table], dict(selected or {})], sort_keys=True, default=str)
    return hashlib.sha256(plain.encode()).hexdigest()[:16]
