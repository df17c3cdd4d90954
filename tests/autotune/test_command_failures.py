"""What a person meets when a file cannot be written, a terminal cannot show a sign or a study's file is damaged: one line."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from autotune.cli import app as command
from autotune.cli.disk import refusal_words
from autotune.cli.display import Display
from autotune.errors import StudyError
from autotune.study import report_study
from autotune.study.folder import StudyFolder
from tests.autotune.test_compare import make_study


def run_command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int | str | None:
    monkeypatch.setattr(sys, "argv", ["autotune", *arguments])
    with pytest.raises(SystemExit) as ended:
        command.run_app()
    return ended.value.code


def test_an_output_that_cannot_be_written_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    studies = [str(make_study(tmp_path / name, [0.7])) for name in ("one", "other")]
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "x"
    assert run_command(monkeypatch, "report", "--compare", *studies, "--out", str(out)) == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert said[0].startswith(f"autotune: {out} could not be written: Not a directory. Give another path")


@pytest.mark.parametrize(
    ("number", "name", "words"),
    [
        (
            errno.EACCES,
            "/data/out/report.html",
            ("/data/out/report.html could not be written", "that you may write to"),
        ),
        (errno.EROFS, "/data/out/.0a1b2c3d.png", ("/data/out could not be written", "Read-only", "permissions")),
        (errno.ENOSPC, None, ("No space left", "autotune resume")),
        (errno.ENOSPC, 7, ("No space left", "A file could not be written")),
        (errno.ENOENT, "/gone", ("/gone could not be read", "No such file")),
        (errno.EISDIR, "/data", ("/data", "a folder lies where a file is needed")),
    ],
)
def test_every_refusal_says_which_file_why_and_what_to_do(
    number: int, name: str | int | None, words: tuple[str, ...]
) -> None:
    said = refusal_words(OSError(number, os.strerror(number), name))
    assert said is not None
    assert "\n" not in said
    assert all(word in said for word in words), said


@pytest.mark.parametrize(
    "error", [ConnectionRefusedError(errno.ECONNREFUSED, "refused"), OSError("of a library"), TimeoutError(), OSError(errno.EACCES, "a port")]
)  # fmt: skip
def test_what_is_no_file_is_not_called_one(error: OSError, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refusal_words(error) is None

    def fail() -> None:
        raise error

    monkeypatch.setattr(command, "app", fail)
    with pytest.raises(type(error)):
        command.run_app()


def test_a_full_disk_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(command, "app", fail)
    assert run_command(monkeypatch) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_a_closed_pipe_stays_quiet() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        ended = subprocess.run(
            [sys.executable, "-c", "from autotune.cli import main; main()", "--help"],
            stdout=writing, stderr=subprocess.PIPE, text=True, timeout=120, check=False,
        )  # fmt: skip
    finally:
        os.close(writing)
    assert ended.stderr == ""


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_sign_that_a_terminal_cannot_write_becomes_a_question_mark(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, name, io.TextIOWrapper(written, encoding="ascii", errors="strict", write_through=True))
    display = Display()
    display.note("Kritiken ± 日本")
    display.warning("Kritiken ± 日本")
    assert b"Kritiken ? ??" in written.getvalue()


def test_every_command_may_say_what_the_terminal_cannot_write(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii", errors="strict", write_through=True))
    monkeypatch.setattr(command, "app", lambda: sys.stdout.write("0.8120 ± 0.0060"))
    command.run_app()
    assert written.getvalue().strip() == b"0.8120 ? 0.0060"


@pytest.mark.parametrize(
    "damaged", [b"", b'{"rule": {"memory_', b"\xff\xfe\x00", b"[1]", b'{"rule": 3}', b'{"rule": {"colour": 1}}']
)
def test_a_damaged_selection_is_named(damaged: bytes, tmp_path: Path) -> None:
    folder = make_study(tmp_path / "one", [0.7])
    StudyFolder(folder).selection_file.write_bytes(damaged)
    with pytest.raises(StudyError, match=r"selection\.json is no selection.*autotune select"):
        report_study(folder)
