"""The command line: arguments and printing only."""

from __future__ import annotations


def main() -> None:
    """Entry point of the ``autotune`` command."""
    from autotune.cli.app import run_app

    run_app()


__all__ = ["main"]
