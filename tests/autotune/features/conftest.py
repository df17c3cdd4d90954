"""An errand of a tiny model, and a way to do it without a process of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autotune.features.errand import Errand, Stored, Wanted
from autotune.features.worker import fill
from sherl.data import DataSpec, prepare
from sherl.features import Place
from tests.autotune.features.filled import LATE, Filling
from tests.autotune.small_study import make_inputs


@pytest.fixture(scope="session")
def errand(tmp_path_factory: pytest.TempPathFactory) -> Errand:
    """A tiny BERT, and 120 rows to read."""
    folder = tmp_path_factory.mktemp("filling")
    options = make_inputs(folder)
    spec = DataSpec(train=options["--train"], text="review", label="stars")
    prepare(spec, backbone_source=options["--model"], directory=folder / "prepared", max_length=32)
    return Errand(
        source=options["--model"],
        prepared=str(folder / "prepared"),
        root="",
        precision="fp32",
        device="cpu",
        threads=1,
        mode="on",
        wanted=(Wanted(places=(LATE,), passes=1e5),),
    )


@pytest.fixture
def filling(errand: Errand, tmp_path: Path) -> Filling:
    def run(*places: Place, **settings: Any) -> tuple[Stored, list[str]]:
        wanted = tuple(Wanted(places=(place,), passes=1e5) for place in places or (LATE,))
        notes: list[str] = []
        made = fill(
            replace(errand, root=str(tmp_path / "store"), wanted=wanted, **settings),
            lambda message: notes.extend([message["note"]] if "note" in message else []),
        )
        return made, notes

    return run
