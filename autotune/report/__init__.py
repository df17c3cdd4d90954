"""The front of a study as figures, tables and a selection."""

from __future__ import annotations

from autotune.report.front import Point, hypervolume, pareto_front, points_from
from autotune.report.select import Preference, Selection, select
from autotune.report.tables import front_table, table_rows
from autotune.report.writing import Figure, ReportPaths, write_report

__all__ = [
    "Figure",
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
