"""What importing loads: commands answer at once, and a place of Ray's starts, only where nothing heavy comes along."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "peft", "mlflow", "optuna")


@pytest.mark.parametrize(
    ("modules", "also"),
    [
        (
            ("autotune.config", "autotune.cli.app", "autotune.cli.run", "autotune.study", "autotune.trial.server"),
            ("ray", "pandas"),
        ),
        (("autotune.trial.process", "autotune.memory.meter", "autotune.memory.context"), ("ray", "pandas")),
        (("autotune.runner.place",), ()),  # what each of Ray's workers imports
    ],
    ids=["commands", "trial processes", "places"],
)
def test_nothing_heavy_is_imported(modules: tuple[str, ...], also: tuple[str, ...]) -> None:
    code = f"import sys, {', '.join(modules)}; print(*({ {*HEAVY, *also}!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
