"""The pages of the methods and of what one adds: their examples run, their tables are what the code says.

methods.md, your_own_method.md, your_own_backbone.md, and docs/methods/.
"""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from sherl.methods import METHODS, FullConfig, MethodConfig, method_from_dict
from sherl.model import build_model
from sherl.sharing import why_not
from sherl.summary import summarize
from tests.autotune.doc_pages import DOCS, blocks_of, run_page, write_module
from tests.sherl.tiny import CLASSIFICATION, tiny_backbone

ROOT = DOCS.parent
METHOD_PAGES = sorted((DOCS / "methods").glob("*.md"))
OWN_PAGES = (DOCS / "your_own_method.md", DOCS / "your_own_backbone.md")
OWN = [name for name in METHODS.names() if METHODS.get(name).__module__.startswith("sherl.")]
"""Without what other tests register."""


def table_under(page: Path, first: str) -> list[list[str]]:
    """The cells of the one table whose first column is headed so, without its head."""
    (table,) = re.findall(
        rf"^\| {first} \|.*\n\|[-|]+\|\n((?:\|.*\n)*)", page.read_text(encoding="utf-8"), re.MULTILINE
    )
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()]


def unquoted(cell: str) -> str:
    assert cell.startswith("`")
    assert cell.endswith("`")
    return cell.strip("`")


def defaults_of(config: type[MethodConfig]) -> dict[str, Any]:
    return {field.name: field.default for field in dataclasses.fields(config)}


def settings_of(page: Path) -> dict[str, Any]:
    """Settings and defaults as the page's table has them."""
    return {unquoted(row[0]): yaml.safe_load(unquoted(row[1])) for row in table_under(page, "setting")}


def test_every_method_has_a_page() -> None:
    assert [page.stem for page in METHOD_PAGES] == [name for name in OWN if name != "sherl"]


@pytest.mark.parametrize("page", [*METHOD_PAGES, DOCS / "sherl.md"], ids=lambda page: page.stem)
def test_a_page_says_what_a_method_keeps_and_when_to_take_it(page: Path) -> None:
    headings = re.findall(r"^## (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert headings.count("Its memory") == headings.count("When to take it") == 1


@pytest.mark.parametrize("page", METHOD_PAGES, ids=lambda page: page.stem)
def test_the_settings_on_a_page_are_those_of_the_config(page: Path) -> None:
    assert settings_of(page) == defaults_of(METHODS.get(page.stem))


def test_a_page_with_another_default_would_be_found(tmp_path: Path) -> None:
    page = tmp_path / "full.md"
    page.write_text((DOCS / "methods" / "full.md").read_text().replace("`false`", "`true`"))
    assert settings_of(page) != defaults_of(FullConfig)


@pytest.mark.parametrize("page", METHOD_PAGES, ids=lambda page: page.stem)
def test_a_method_s_page_runs(page: Path, tmp_path: Path) -> None:
    run_page(page, tmp_path)
    python, text, space = blocks_of(page)
    assert [python.language, text.language, space.language] == ["python", "text", "yaml"]
    assert METHODS.get(page.stem).__name__ in python.text
    assert text.text.startswith(f"{page.stem} on bert: ")
    assert list(yaml.safe_load(space.text)["methods"]) == [page.stem]
    assert 25 <= len(page.read_text(encoding="utf-8").splitlines()) <= 80


@pytest.mark.parametrize("page", METHOD_PAGES, ids=lambda page: page.stem)
def test_the_command_on_a_page_has_the_method_in_its_space(page: Path) -> None:
    (command,) = re.findall(r"`autotune run ([^`]*)`", page.read_text(encoding="utf-8"))
    words = command.split()
    options = dict(zip(words[::2], words[1::2], strict=True))
    space = yaml.safe_load((ROOT / "search_spaces" / f"{options.pop('--space', 'default')}.yaml").read_text())
    assert options == {"--method": page.stem}
    assert page.stem in space["methods"]


def test_the_index_says_what_the_code_does() -> None:
    rows = table_under(DOCS / "methods.md", "method")
    assert sorted(unquoted(row[0]) for row in rows) == OWN
    for name, _, gradients, _, stored, page in rows:
        method = method_from_dict(unquoted(name))
        backbone = tiny_backbone()
        assert stored == ("yes" if why_not(method, CLASSIFICATION, backbone) is None else "no"), name
        first = summarize(build_model(backbone, method, CLASSIFICATION, seed=0)).first_trainable_layer
        expected = {0: "through all blocks", backbone.depth: "through no block"}
        assert gradients.startswith(expected.get(first, "through the late blocks")), name
        assert (unquoted(name) in page) or name == "`sherl`"


def run_in_a_process_of_its_own(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)])},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done


@pytest.mark.slow
@pytest.mark.parametrize("page", OWN_PAGES, ids=lambda page: page.stem)
def test_a_page_that_registers_something_runs(page: Path, tmp_path: Path) -> None:
    run_in_a_process_of_its_own(["-m", "tests.autotune.doc_pages", str(page), str(tmp_path)], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "cells"),
    [("your_own_method", "bert-norms and not xlm"), ("your_own_backbone", "plain-bert-lora")],
)
def test_the_command_for_the_conformance_suite_finds_what_the_page_made(page: str, cells: str, tmp_path: Path) -> None:
    file = DOCS / f"{page}.md"
    for block in blocks_of(file):
        write_module(block, tmp_path)
    (command,) = re.findall(r"^    PYTHONPATH=\. pytest (-p \w+ \S+) -k \S+$", file.read_text(), re.MULTILINE)
    words = [*command.split(), "-k", cells, "-q", "-n0", "-p", "no:cacheprovider"]
    said = run_in_a_process_of_its_own(["-m", "pytest", *words], tmp_path).stdout
    assert re.search(r"^\d+ passed", said, re.MULTILINE), said
