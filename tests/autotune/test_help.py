"""What ``--help`` prints: short as an option too, and examples that can be copied as they stand."""

from __future__ import annotations

import re
import shlex

import pytest
import typer
from typer.testing import CliRunner

from autotune.cli.app import app

COMMANDS = sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]  # typer's group has them


@pytest.mark.parametrize("words", [[], *([name] for name in COMMANDS)], ids=" ".join)
def test_the_short_option_helps_too(words: list[str]) -> None:
    short, long = (CliRunner().invoke(app, [*words, option]) for option in ("-h", "--help"))
    assert short.exit_code == long.exit_code == 0
    assert short.output == long.output
    assert "Usage:" in long.output


@pytest.mark.parametrize("name", COMMANDS)
def test_an_example_is_one_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    shown = CliRunner().invoke(app, [name, "--help"]).output.split("Options:")[0]
    examples = re.findall(rf"^ *(?:Example: )?(autotune {name}\b.*)$", shown, flags=re.MULTILINE)
    assert examples
    for example in examples:
        words = shlex.split(example)  # a quote that is left open is an error
        assert not words[-1].startswith("--") or words[-1] in _FLAGS, example


_FLAGS = ("--json", "--merge", "--onnx", "--no-browser")
