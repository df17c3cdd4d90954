"""What a figure was measured under: machine, versions, commit. Every result file holds it."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "transformers", "peft", "ray", "optuna", "mlflow", "numpy")


def conditions() -> dict[str, Any]:
    """Machine, versions and commit of this run."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "date": time.strftime("%Y-%m-%d"),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "python": platform.python_version(),
        "versions": versions,
        "commit": _commit(),
    }


def write_result(name: str, result: dict[str, Any], target: Path | None = None) -> Path:
    """Writes a result with its conditions as JSON, by default under ``benchmarks/results``."""
    file = target or RESULTS / f"{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"conditions": conditions(), **result}, indent=2) + "\n", encoding="utf-8")
    return file


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _commit() -> str:
    here = Path(__file__).parent
    if shutil.which("git") is None:
        return "unknown"
    ask = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=here, capture_output=True, text=True, check=False)
    changed = subprocess.run(["git", "status", "--porcelain"], cwd=here, capture_output=True, text=True, check=False)
    if ask.returncode != 0:
        return "unknown"
    return ask.stdout.strip() + (" with uncommitted changes" if changed.stdout.strip() else "")
