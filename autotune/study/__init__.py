"""A study from its settings to its result: prepare, plan, search, confirm, measure, test, report. The one part that knows every part."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autotune.study.comparing import compare_studies
    from autotune.study.exporting import export_from_study
    from autotune.study.fit_check import PlanSummary
    from autotune.study.run import confirm_study, resume_study, run_study
    from autotune.study.selecting import select_from_study
    from autotune.study.view import StudyResult, report_study

__all__ = [
    "PlanSummary",
    "StudyResult",
    "compare_studies",
    "confirm_study",
    "export_from_study",
    "report_study",
    "resume_study",
    "run_study",
    "select_from_study",
]

_HOMES = {
    "PlanSummary": "fit_check",
    "StudyResult": "view",
    "compare_studies": "comparing",
    "confirm_study": "run",
    "export_from_study": "exporting",
    "report_study": "view",
    "resume_study": "run",
    "run_study": "run",
    "select_from_study": "selecting",
}


def __getattr__(name: str) -> Any:
    """Loads a part when it is asked for: reading a study needs neither Ray nor torch's tracing."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
