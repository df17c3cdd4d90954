"""The ``autotune`` command: its subcommands, and how an error becomes a message and an exit code."""

from __future__ import annotations

import inspect
import re
import sys
from typing import Annotated

import typer

from autotune import __version__
from autotune.cli import confirm, deploy, doctor, ending, plan, report, resume, run, select, train, ui
from autotune.cli.console import replace_unknown_signs
from autotune.cli.ctrl_c import note_interrupts
from autotune.cli.disk import refusal_words
from autotune.errors import (
    AutotuneError,
    ConfigError,
    InterruptedStudyError,
    NothingFitsError,
    SelectionError,
    StudyError,
    UnitError,
)

EXIT_CODES = {
    ConfigError: 2,
    UnitError: 2,
    StudyError: 3,
    NothingFitsError: ending.EXIT_NOTHING_FITS,
    SelectionError: 5,
    InterruptedStudyError: ending.EXIT_INTERRUPTED,
}

app = typer.Typer(
    name="autotune",
    help="Fine-tune a pretrained model under a memory cap and choose from the accuracy-memory front.",
    epilog="Exit codes: 0 done, 1 failed, 2 wrong settings or data, 3 study folder, 4 nothing fits the cap, "
    "5 no point meets the conditions, 130 interrupted (`autotune resume` goes on).",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _copyable(help_text: str) -> str:
    """A help text whose examples are not wrapped: each stays one line, as it is typed."""
    return re.sub(r"\n\n(?= *autotune )", "\n\n\b\n", inspect.cleandoc(help_text))


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"autotune {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Options of every command."""


for command, help_text in (
    (run.run, run.RUN_HELP),
    (resume.resume, resume.RESUME_HELP),
    (confirm.confirm, confirm.CONFIRM_HELP),
    (plan.plan, plan.PLAN_HELP),
    (report.report, report.REPORT_HELP),
    (select.select, select.select.__doc__ or ""),
    (ui.ui, ui.UI_HELP),
    (deploy.export, deploy.EXPORT_HELP),
    (train.train, train.TRAIN_HELP),
    (deploy.predict, deploy.predict.__doc__ or ""),
    (doctor.doctor, doctor.DOCTOR_HELP),
):
    app.command(help=_copyable(help_text))(command)


def exit_code(error: Exception) -> int:
    """The exit code that scripts can trust for an error of this project."""
    from sherl.errors import CheckpointError, DataError, SpecError, UnknownNameError, UnsupportedBackboneError

    for kind, code in EXIT_CODES.items():
        if isinstance(error, kind):
            return code
    wrong = CheckpointError | DataError | SpecError | UnknownNameError | UnsupportedBackboneError
    return 2 if isinstance(error, wrong) else ending.EXIT_FAILED


def run_app() -> None:
    """Run the command line; an error of this project, or a file that cannot be written, becomes a message on stderr and
    an exit code, not a traceback."""
    from sherl.errors import SherlError

    replace_unknown_signs()
    note_interrupts()
    try:
        app()
    except (AutotuneError, SherlError) as error:
        typer.echo(f"autotune: {error}", err=True)
        sys.exit(exit_code(error))
    except OSError as error:  # a pipe that was closed ends before, quietly
        said = refusal_words(error)
        if said is None:
            raise
        typer.echo(f"autotune: {said}", err=True)
        sys.exit(ending.EXIT_FAILED)
    except KeyboardInterrupt:
        typer.echo("autotune: interrupted. Nothing finished is lost: `autotune resume` goes on.", err=True)
        sys.exit(ending.EXIT_INTERRUPTED)
