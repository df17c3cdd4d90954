"""Results as JSON lines: each is written as it comes, and what is there is never done again."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from real_settings import CHOOSING_SEED, Case, RealBackbone, RealMethod

Row = dict[str, Any]


class RealRecord:
    """The lines of a file by their keys; of several with one key the last counts.

    A line that is cut off (the run was killed while it was written) is left out, and done again.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.rows: dict[str, Row] = {}
        self.unreadable = 0
        self.refused: dict[str, str] = {}
        """Pairs that were refused in this call, with the reason."""
        if not file.exists():
            return
        for line in file.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
                self.rows[row["key"]] = row
            except (json.JSONDecodeError, KeyError, TypeError):
                self.unreadable += 1

    def add(self, case: Case, row: Row) -> None:
        """Write a result; it is on the disk when this returns."""
        self._write(
            {
                "key": case.key,
                "backbone": case.backbone.name,
                "method": case.method.name,
                "learning_rate": case.learning_rate,
                "seed": case.seed,
                **row,
            }
        )

    def _write(self, row: Row) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("ab+") as stream:
            if stream.tell() > 0:
                stream.seek(-1, os.SEEK_END)
                if stream.read(1) != b"\n":
                    stream.write(b"\n")
            stream.write(json.dumps(row, allow_nan=False).encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
        self.rows[row["key"]] = row

    def refuse(self, case: Case, reason: str) -> None:
        """Write down that sherl refuses a pair. It is not tried again in this call; in the next it is, as a later version
        may take it."""
        self.refused[case.pair] = reason
        if self.refusal(case.backbone, case.method) != reason:
            self._write({"key": f"{case.pair}/refused", "status": "refused", "reason": reason})

    def refusal(self, backbone: RealBackbone, method: RealMethod) -> str | None:
        """Why a pair was refused the last time; None where it never was."""
        row = self.rows.get(f"{backbone.name}/{method.name}/refused")
        return None if row is None else str(row["reason"])

    def of(self, case: Case) -> Row | None:
        """The result of a case; None where it has not run."""
        return self.rows.get(case.key)

    def choosing(self, backbone: RealBackbone, method: RealMethod) -> list[Case]:
        """The cases that the learning rate is chosen from; none of a method that takes over another one's."""
        if method.rate_of is not None:
            return []
        return [Case(backbone, method, rate, CHOOSING_SEED) for rate in method.learning_rates]

    def chosen_rate(self, backbone: RealBackbone, method: RealMethod) -> float | None:
        """The learning rate of the best validation score, the smaller one of equals; None before all have run, or where
        every run diverged. Of a method that takes over another one's, that one's."""
        if method.rate_of is not None:
            return self.chosen_rate(backbone, method.rate_of)
        rows = [self.of(case) for case in self.choosing(backbone, method)]
        scored = [row for row in rows if row is not None and row["status"] == "complete"]
        if None in rows or not scored:
            return None
        best = max(scored, key=lambda row: (row["valid"], -row["learning_rate"]))
        return float(best["learning_rate"])

    def next_case(self, backbone: RealBackbone, method: RealMethod) -> Case | None:
        """What is to run next of a pair; None where nothing is left to do, or it was refused in this call."""
        if Case(backbone, method, method.learning_rates[0], CHOOSING_SEED).pair in self.refused:
            return None
        for case in self.choosing(backbone, method):
            if self.of(case) is None:
                return case
        rate = self.chosen_rate(backbone, method)
        if rate is None:
            return None
        for seed in method.seeds:
            case = Case(backbone, method, rate, seed)
            if self.of(case) is None:
                return case
        return None

    def scored(self, backbone: RealBackbone, method: RealMethod) -> list[Row]:
        """The results of the seeds at the chosen learning rate that are there."""
        rate = self.chosen_rate(backbone, method)
        if rate is None:
            return []
        found = [self.of(Case(backbone, method, rate, seed)) for seed in method.seeds]
        return [row for row in found if row is not None]
