"""The front of a study as figures, tables and a selection."""

from __future__ import annotations

from autotune.report.compare import Compared, Comparison, compare
from autotune.report.comparison_files import ComparisonPaths, write_comparison
from autotune.report.front import Point, hypervolume, pareto_front, points_from
from autotune.report.rule import Preference, Rule
from autotune.report.select import Alternative, Selection, select
from autotune.report.tables import front_table, table_rows
from autotune.report.terminal import can_encode, plot_front
from autotune.report.words import mean_words
from autotune.report.writing import Figure, ReportPaths, write_report

__all__ = [
    "Alternative",
    "Compared",
    "Comparison",
    "ComparisonPaths",
    "Figure",
    "Point",
    "Preference",
    "ReportPaths",
    "Rule",
    "Selection",
    "can_encode",
    "compare",
    "front_table",
    "hypervolume",
    "mean_words",
    "pareto_front",
    "plot_front",
    "points_from",
    "select",
    "table_rows",
    "write_comparison",
    "write_report",
]
