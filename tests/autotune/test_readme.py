"""Every command of the README runs as it stands there; only data and size are cut down, and installing is .ci/run's."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sherl.data_samples import two_class_rows, write_csv

from .small_study import ROOT, SPACE, environment, make_model
from .task_inputs import save_images_model, save_photos
from .warm import run_warm

README = (ROOT / "README.md").read_text(encoding="utf-8")
INSTALL = re.compile(r"pip install -e '\.\[(demo|test)\]' && (.+)")


READ_ELSEWHERE = {
    "deploying.md": "autotune/test_deploying_docs.py",
    "data.md": "autotune/test_data_options.py",
    "sherl.md": "sherl/test_docs.py",
    "methods.md": "autotune/test_doc_pages.py",
    "your_own_method.md": "autotune/test_doc_pages.py",
    "your_own_backbone.md": "autotune/test_doc_pages.py",
}
"""Pages whose examples go on from one another, or are settings alone, and the tests that run them."""


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[str]:
    return [line for block in blocks("bash") for line in block.strip().splitlines()]


def test_both_lines_that_install_are_run_by_the_check() -> None:
    lines = {match.group(1): match.group(2) for match in map(INSTALL.fullmatch, commands()) if match}
    assert lines == {"demo": "autotune run --memory-cap 8GB", "test": "pytest"}
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "main_job=$(readme_line demo)" in script
    assert "test_job=$(readme_line test)" in script


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with the files that the README's own-data commands name."""
    folder = tmp_path_factory.mktemp("readme")
    make_model(folder / "path" / "or" / "hub-id")
    for name, start in (("train.csv", 0), ("test.csv", 120)):
        write_csv(folder / name, two_class_rows(160)[start : start + 120], header=("review", "stars"))
    (folder / "space.yaml").write_text(SPACE)
    save_images_model(folder / "facebook" / "dinov2-small", "dinov2", size=8)
    save_photos(folder / "photos")
    return folder


@pytest.mark.slow
@pytest.mark.timeout(900)  # three studies and a plan, each in seconds where nothing else runs
def test_the_commands_run_one_after_another(place: Path) -> None:
    for command in commands():
        match = INSTALL.fullmatch(command)
        if match and match.group(1) == "test":
            continue
        words = shlex.split(match.group(2) if match else command)
        assert words[0] == "autotune"
        if words[1] == "run":
            words += ["--trials", "1", "--space", "space.yaml", "--confirm", "0"]
        if words[1:4] == ["run", "--memory-cap", "8GB"] and "--train" not in words:
            # the packaged data would be fetched; the packaged model is the README's
            words += ["--train", "train.csv", "--text", "review", "--label", "stars", "--max-length", "32"]
        if "--image-size" in words:
            words[words.index("--image-size") + 1] = "8"
        if "--min-metric" in words:  # what a run on toy data reaches says nothing
            words[words.index("--min-metric") + 1] = "0.1"
        done = run_warm(words[1:], cwd=place, environment=environment(), timeout=280)
        assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}\n{done.stderr}"


@pytest.mark.slow
def test_the_python_example_runs_on_what_the_commands_left(place: Path) -> None:
    assert (place / "model" / "sherl.json").exists(), "the commands above export a model"
    for block in blocks("python"):
        done = subprocess.run(
            [sys.executable, "-c", block],
            cwd=place,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "label" in done.stdout


def test_links_of_the_readme_and_the_docs_lead_somewhere() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), ROOT / "benchmarks" / "README.md"]
    for page in pages:
        for target, heading in re.findall(r"\]\((?!http)([^)#]*)(?:#([^)]*))?\)", page.read_text(encoding="utf-8")):
            file = page.parent / target if target else page
            assert file.exists(), f"{page.name} links to {target}, which is not there"
            assert not heading or heading in anchors(file), (
                f"{page.name} links to {target}#{heading}, which is not there"
            )


def anchors(page: Path) -> list[str]:
    """The headings of a page as links name them: in small letters, spaces as hyphens, without punctuation."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


def test_python_examples_of_the_docs_run() -> None:
    for page in sorted((ROOT / "docs").glob("*.md")):
        if page.name in READ_ELSEWHERE:
            assert page.name in (ROOT / "tests" / READ_ELSEWHERE[page.name]).read_text(encoding="utf-8")
            continue
        for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL):
            done = subprocess.run(
                [sys.executable, "-c", block],
                env={**os.environ},
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
            assert done.returncode == 0, f"{page.name}: {done.stderr}"
