"""The report's files."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from autotune.outcome import Confirmation, InferenceFigures, MemoryFigures, Outcome, Status
from autotune.report import front_table, points_from, select, table_rows, write_report
from tests.autotune._records import trial

SETTINGS = {"name": "réviews", "metric": "accuracy", "memory_cap": 8_000_000_000, "model": "all-minilm-l6-v2"}
RECORDS = [
    trial(0, 0.80, 400_000_000, test_metrics={"accuracy": 0.78}),
    trial(1, 0.70, 200_000_000, method={"name": 'linear, probe\n"quoted" é'}),
    trial(2, 0.69, 300_000_000),
    trial(3, None, None, status=Status.FAILED, reason="boom, <b>\nline two"),
    trial(4, math.nan, 10, status=Status.DIVERGED),
]


def test_writes_every_file_and_nothing_else(tmp_path: Path) -> None:
    selection = select(points_from(RECORDS, metric_name="accuracy"))
    paths = write_report(tmp_path / "report", RECORDS, SETTINGS, selection=selection)
    assert set(paths.all()) == {path for path in (tmp_path / "report").rglob("*") if path.is_file()}
    assert all(path.stat().st_size > 0 for path in paths.all())
    with paths.front_csv.open(encoding="utf-8", newline="") as file:
        front = list(csv.DictReader(file))
    assert [row["number"] for row in front] == ["1", "0"]
    assert front[0]["label"].startswith("linear, probe")
    assert front[1]["test_accuracy"] == "0.78"
    with paths.trials_csv.open(encoding="utf-8", newline="") as file:
        trials = list(csv.DictReader(file))
    assert [row["status"] for row in trials] == ["complete", "complete", "complete", "failed", "diverged"]
    assert trials[3]["reason"] == "boom, <b>\nline two"
    assert trials[0]["param_batch_size"] == "32"
    assert trials[0]["allocated_bytes"] == "400000000"


def test_json_holds_the_configurations_and_the_selection(tmp_path: Path) -> None:
    selection = select(points_from(RECORDS, metric_name="accuracy"))
    paths = write_report(tmp_path, RECORDS, SETTINGS, selection=selection)

    def no_constants(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    plain = json.loads(paths.front_json.read_text(encoding="utf-8"), parse_constant=no_constants)
    assert plain["study"] == "réviews"
    assert plain["trials"] == {"complete": 3, "failed": 1, "diverged": 1}
    assert plain["selection"]["point"]["number"] == 0
    assert [member["number"] for member in plain["front"]] == [1, 0]
    assert plain["front"][1]["candidate"]["method"]["late_route"]["rank"] == 8
    assert plain["front"][1]["seed"] == 0
    assert plain["meters"] == ["process private bytes"]


@pytest.mark.parametrize(
    "records", [[], [replace(trial(0), outcome=None)], [trial(0, None, None, status=Status.FAILED)]]
)
def test_a_study_without_a_front_has_a_report_too(records: list, tmp_path: Path) -> None:  # type: ignore[type-arg]  # TrialRecords
    paths = write_report(tmp_path, records, {})
    assert json.loads(paths.front_json.read_text())["front"] == []
    assert all(path.is_file() for path in paths.all())


def test_a_later_report_replaces_an_earlier_one_and_a_failed_one_leaves_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_report(tmp_path, RECORDS[:1], SETTINGS)
    write_report(tmp_path, RECORDS, SETTINGS)
    before = (tmp_path / "front.png").read_bytes()
    assert len((tmp_path / "trials.csv").read_text().splitlines()) > 3

    files = {path for path in tmp_path.rglob("*") if path.is_file()}

    def full_disk(path: Path, *_: object, **__: object) -> None:
        path.write_bytes(b"half a picture")
        raise OSError("no space left")

    monkeypatch.setattr("autotune.report.writing.write_png", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_report(tmp_path, RECORDS, SETTINGS)
    assert (tmp_path / "front.png").read_bytes() == before
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == files


def test_rows_for_a_terminal() -> None:
    headings, rows = table_rows(points_from(RECORDS, metric_name="accuracy"))
    assert headings == [
        "trial", "configuration", "accuracy", "test accuracy", "tensor MB", "device MB", "trainable", "seconds", "status",
    ]  # fmt: skip
    assert rows[0] == [
        "0 *", RECORDS[0].candidate.label, "0.8000", "0.7800", "400.0", "1,000", "12,345", "12.5", "complete",
    ]  # fmt: skip
    assert rows[3][2:6] == ["–", "–", "–", "–"]
    assert {len(row) for row in rows} == {len(headings)}
    assert "test accuracy" not in table_rows(points_from(RECORDS[1:]))[0]
    assert table_rows([])[1] == []


def test_what_other_seeds_and_answering_gave_is_in_every_table(tmp_path: Path) -> None:
    ends = [
        *(Outcome(status=Status.COMPLETE, metric=metric) for metric in (0.79, 0.77)),
        Outcome(status=Status.DIVERGED),
    ]
    peak = MemoryFigures(allocated=10**8, device=3 * 10**8, meter="process private bytes")
    known = replace(
        RECORDS[0],
        confirmations=tuple(Confirmation(seed=seed, outcome=one) for seed, one in enumerate(ends, 1)),
        inference=InferenceFigures(
            peak=peak, latency_seconds=0.0123, rows_per_second=80.0, batch_rows=8, threads=2, device="cpu"
        ),
    )
    records = [known, *RECORDS[1:]]
    headings, rows = table_rows(points_from(records, metric_name="accuracy"))
    row, other = (dict(zip(headings, cells, strict=True)) for cells in rows[:2])
    assert row["other seeds"] == "0.7800 ± 0.0141 (2 of 3 seeds)"
    assert (row["one row ms"], row["answering MB"]) == ("12.30", "300")
    assert (other["other seeds"], other["one row ms"], other["answering MB"]) == ("–", "–", "–")
    paths = write_report(tmp_path, records, SETTINGS)
    (member,) = [one for one in json.loads(paths.front_json.read_text())["front"] if one["number"] == 0]
    assert member["confirmed"] == [0.79, 0.77]
    assert (member["confirmed_of"], member["inference"]["latency_seconds"]) == (3, 0.0123)
    with paths.front_csv.open(encoding="utf-8", newline="") as file:
        lines = {line["number"]: line for line in csv.DictReader(file)}
    assert float(lines["0"]["confirmed_mean"]) == pytest.approx(0.78)
    assert lines["1"]["confirmed_mean"] == ""
    assert lines["0"]["inference_latency_seconds"] == "0.0123"
    assert lines["0"]["inference_peak_device"] == "300000000"
    assert lines["1"]["inference_peak_device"] == ""
    (tracked,) = [one for one in front_table(points_from(records, metric_name="accuracy")) if one["number"] == 0]
    assert (tracked["confirmed_mean"], tracked["confirmed_seeds"]) == (pytest.approx(0.78), 2)
    assert (tracked["latency_ms"], tracked["answering_device_mb"]) == (pytest.approx(12.3), 300.0)


def test_table_for_the_tracker() -> None:
    rows = front_table(points_from(RECORDS, metric_name="accuracy"))
    assert [row["number"] for row in rows] == [1, 0]
    assert rows[1]["accuracy"] == 0.8
    assert rows[1]["peak_device_mb"] == 1000.0
    assert rows[1]["test_accuracy"] == 0.78
    json.dumps(rows, allow_nan=False)
