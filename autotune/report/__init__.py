"""The front of a study as figures, tables and a selection."""

from __future__ import annotations

from autotune.report.front import Point, hypervolume, pareto_front, points_from
from autotune.report.rule import Preference, Rule
from autotune.report.select import Alternative, Selection, select
from autotune.report.tables import ReportPaths, front_table, table_rows, write_report
from autotune.report.words import mean_words

__all__ = [
    "Alternative",
    "Point",
    "Preference",
    "ReportPaths",
    "Rule",
    "Selection",
    "front_table",
    "hypervolume",
    "mean_words",
    "pareto_front",
    "points_from",
    "select",
    "table_rows",
    "write_report",
]
