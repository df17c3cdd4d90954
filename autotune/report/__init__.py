"""The front of a study as figures, tables and a selection."""

from __future__ import annotations

from autotune.report.front import Point, hypervolume, pareto_front, points_from
from autotune.report.select import Preference, Selection, select
from autotune.report.tables import ReportPaths, front_table, table_rows, write_report

__all__ = [
    "Point",
    "Preference",
    "ReportPaths",
    "Selection",
    "front_table",
    "hypervolume",
    "pareto_front",
    "points_from",
    "select",
    "table_rows",
    "write_report",
]
