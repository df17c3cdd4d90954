"""The blocks of a page of the documentation, and what comes of running them one behind the other.

As a program (``python -m tests.autotune.doc_pages PAGE FOLDER``) it runs a page in a process of its own: a python block that
begins with ``# name.py`` becomes that module in the folder, every yaml block must be a search space, and each ``text`` block
behind a python block must be what that block printed.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

DOCS = Path(__file__).resolve().parents[2] / "docs"
_BLOCK = re.compile(r"^```(python|text|yaml)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
_MODULE = re.compile(r"# (\w+\.py)\n")


class Block(NamedTuple):
    """language: python, text or yaml."""

    language: str
    text: str


def blocks_of(page: Path) -> list[Block]:
    """The page's blocks in their order."""
    return [Block(*match.groups()) for match in _BLOCK.finditer(page.read_text(encoding="utf-8"))]


def write_module(block: Block, folder: Path) -> bool:
    """Write a block that is a module into the folder; False of one that is none."""
    named = _MODULE.match(block.text) if block.language == "python" else None
    if named:
        (folder / named[1]).write_text(block.text, encoding="utf-8")
    return named is not None


def run_page(page: Path, folder: Path) -> None:
    """Run a page's blocks; modules and search spaces are written into the folder.

    Raises:
        AssertionError: a block printed something else than the page says.
        ConfigError: a yaml block is no search space.
    """
    from autotune.space import SearchSpace

    names: dict[str, Any] = {"__name__": "page"}
    said = ""
    for number, block in enumerate(blocks_of(page)):
        if block.language == "text":
            assert block.text == said, f"{page.name} shows\n{block.text}and this was printed:\n{said}"
        elif block.language == "yaml":
            file = folder / f"space_{number}.yaml"
            file.write_text(block.text, encoding="utf-8")
            space = SearchSpace.load(file, depth=6, width=384)
            assert not space.notes, space.notes
        elif not write_module(block, folder):
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(block.text, str(page), "exec"), names)
            said = printed.getvalue()


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[2])
    run_page(Path(sys.argv[1]), Path(sys.argv[2]))
