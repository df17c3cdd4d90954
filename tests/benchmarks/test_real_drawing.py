"""The picture of the benchmark on real models, drawn from made-up results."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))  # scripts there import one another by their bare names
drawing = importlib.import_module("real_drawing")
figures = importlib.import_module("real_figures")
driver = importlib.import_module("real_methods")
records = importlib.import_module("real_record")
settings = importlib.import_module("real_settings")


def fill(file: Path, numbers: tuple[int, ...]) -> Any:
    """A record with every run of these figures."""
    record = records.RealRecord(file)
    methods = {bar.method.name: bar.method for number in numbers for bar in figures.FIGURES[number]}
    for place, method in enumerate(methods.values()):
        while (case := record.next_case(figures.BACKBONE, method)) is not None:
            row = {"status": "complete", "valid": 0.8, "tensors": 2e8 + 5e6 * place}
            if case.seed:
                row["test"] = 0.78 + 0.001 * place + 0.004 * case.seed
            record.add(case, row)
    return record


def test_what_has_no_results_is_left_out_and_said(tmp_path: Path) -> None:
    record = fill(tmp_path / "results.jsonl", (5,))
    said = drawing.told(record)
    assert "Fig. 5" not in " ".join(said)
    assert "Fig. 4 is left out: of its 6 settings 1 has all its seeds." in said, (
        "the standard one, which fig. 5 has too"
    )
    assert drawing.told(records.RealRecord(tmp_path / "none.jsonl")) == [
        f"Fig. {number} is left out: of its {count} settings none has all its seeds."
        for number, count in ((4, 6), (5, 7), (6, 10), (7, 21))
    ]
    paths = [tmp_path / "none.png"]
    drawing.draw(records.RealRecord(tmp_path / "none.jsonl"), paths)
    assert not paths[0].exists()


def test_mean_and_deviation_are_of_all_seeds(tmp_path: Path) -> None:
    record = fill(tmp_path / "results.jsonl", (5,))
    (first, *_) = drawing.scored(record, figures.FIGURES[5])
    assert first.mean == pytest.approx(78.8)
    assert first.deviation == pytest.approx(0.4)
    assert first.megabytes == pytest.approx(200)
    case = settings.Case(figures.BACKBONE, first.bar.method, first.bar.method.learning_rates[0], 3)
    del record.rows[case.key]
    assert first.bar not in [one.bar for one in drawing.scored(record, figures.FIGURES[5])], "a seed is still to run"


def test_pictures_are_written_and_the_same_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "real_methods.jsonl"
    fill(file, (7, 4, 5, 6))
    fill(file, (7,))  # those that wait for the main table's rate
    assert drawing.told(records.RealRecord(file)) == []
    monkeypatch.setattr(sys, "argv", ["real_methods.py", "--draw", "--results", str(file)])
    driver.main()
    drawn = [(tmp_path / f"real_figures.{ending}").read_bytes() for ending in ("png", "svg")]
    assert drawn[0].startswith(b"\x89PNG")
    driver.main()
    assert (tmp_path / "real_figures.svg").read_bytes() == drawn[1]
