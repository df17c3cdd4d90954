"""The process that fills a store, heard through a channel of its own; whatever goes wrong with it is an answer in words."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from autotune.features.errand import Errand, Stored
from autotune.memory import guard as guard_module
from autotune.memory.process import ProcessMeter
from autotune.study.filling import run_worker

STORED = {
    "key": {},
    "verdict": "all",
    "places": [["blocks", 1]],
    "bytes": 5,
    "seconds": 0.5,
    "reason": "as was asked for",
}


def errand(root: str) -> Errand:
    return Errand(
        source="nowhere",
        prepared="/nowhere",
        root=root,
        precision="fp32",
        device="cpu",
        threads=1,
        mode="on",
        wanted=(),
    )


def answer(tmp_path: Path, heard: list[dict[str, Any]] | None = None) -> Stored | str:
    said = [] if heard is None else heard
    return run_worker(errand(str(tmp_path)), said.append, cap=8 * 10**9, meter=ProcessMeter())


def interpreter(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> None:
    """What is started in Python's place."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(path))


def speaking(*lines: str, then: str = "exit 0") -> str:
    """A script that says these on the channel, whose number is its third argument."""
    said = "\n".join(lines)
    return f"read errand\ncat > /dev/fd/$3 <<'END'\n{said}\nEND\n{then}"


@pytest.mark.slow
def test_what_libraries_print_is_none_of_the_messages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real process, behind a line on its standard output and its standard error."""
    real = sys.executable
    interpreter(monkeypatch, tmp_path, f'echo "MKL WARNING"; echo "{{}}"; echo "warning" >&2\nexec {real} "$@"')
    assert "/nowhere" in str(answer(tmp_path))


def test_messages_come_and_the_last_is_the_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ({"note": "one"}, {"rows": [1, 2]}, {"stored": STORED})
    script = f"echo 1; echo '{{\"stored\": 5}}'; echo oops >&2; {speaking(*map(json.dumps, lines))}"
    interpreter(monkeypatch, tmp_path, script)
    heard: list[dict[str, Any]] = []
    assert answer(tmp_path, heard) == Stored.from_dict(STORED)
    assert heard == [{"note": "one"}, {"rows": [1, 2]}]


def test_why_it_failed_is_what_it_said_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interpreter(monkeypatch, tmp_path, f"echo later >&2; {speaking(json.dumps({'failed': 'no room'}), then='exit 1')}")
    assert answer(tmp_path) == "no room"


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (speaking('{"stored": {"ke', then="exit 3"), "the process that computes them ended with exit code 3"),
        ("echo only this >&2; exit 3", "only this"),  # without a look at its errand
        ("printf '\\377\\376' >&2; exit 3", "\ufffd\ufffd"),
        ("exec sh -c 'kill -9 $$'", "was ended by signal 9"),
        (speaking(json.dumps({"stored": STORED}), then="echo died at the end >&2; exit 4"), "died at the end"),
    ],
)
def test_an_end_without_an_answer_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, said: str
) -> None:
    interpreter(monkeypatch, tmp_path, script)
    got = answer(tmp_path)
    assert isinstance(got, str)
    assert said in got


def test_a_process_that_cannot_be_started_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "none"))
    assert "cannot be started ([Errno 2]" in str(answer(tmp_path))

    def refuse(*_: Any, **__: Any) -> None:
        raise ValueError("pass_fds not supported on Windows.")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    assert "cannot be started (pass_fds" in str(answer(tmp_path))


def test_a_full_disk_of_temporary_files_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    assert "No space left on device" in str(answer(tmp_path))


class RowsMeter(ProcessMeter):
    """A process holds 100 bytes, and as many more as it says in a file of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def device_bytes(self, pid: int) -> int | None:
        told = self._folder / f"told-{pid}"
        return 100 + int((told.exists() and told.read_text()) or 0)


def computing(folder: Path, fitting: int) -> str:
    """A script that says that it computes and holds 10 bytes a row; it stores where its rows fit, else it waits to be ended."""
    return f"""read errand
rows=$(echo "$errand" | sed 's/.*"rows": \\([0-9]*\\).*/\\1/')
echo '{{"computing": true}}' > /dev/fd/$3
echo $rows >> {folder}/tried
echo ${{rows}}0 > {folder}/told-$$
[ $rows -le {fitting} ] || exec sleep 60
cat > /dev/fd/$3 <<'END'
{json.dumps({"stored": STORED})}
END"""


def test_over_the_cap_it_begins_again_with_fewer_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interpreter(monkeypatch, tmp_path, computing(tmp_path, 2))
    heard: list[dict[str, Any]] = []
    got = run_worker(errand(str(tmp_path)), heard.append, cap=150, meter=RowsMeter(tmp_path))
    assert got == Stored.from_dict(STORED)
    assert (tmp_path / "tried").read_text().split() == ["32", "8", "2"]
    notes = [message["note"] for message in heard]
    assert ["8 rows at a time" in notes[0], "2 rows at a time" in notes[1], len(notes)] == [True, True, 2]
    assert all("over the cap" in note for note in notes)


def test_where_a_single_row_is_over_the_cap_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interpreter(monkeypatch, tmp_path, computing(tmp_path, 0))
    got = run_worker(errand(str(tmp_path)), lambda _: None, cap=105, meter=RowsMeter(tmp_path))
    assert "over the cap" in str(got)
    assert (tmp_path / "tried").read_text().split() == ["32", "8", "2", "1"]


def test_over_the_cap_before_it_computes_is_no_matter_of_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loading = f"echo started >> {tmp_path}/starts\necho 900 > {tmp_path}/told-$$\nexec sleep 60"
    interpreter(monkeypatch, tmp_path, loading)
    got = run_worker(errand(str(tmp_path)), lambda _: None, cap=150, meter=RowsMeter(tmp_path))
    assert "The process that computes them held" in str(got)
    assert (tmp_path / "starts").read_text().split() == ["started"]


class HangingMeter(ProcessMeter):
    def device_bytes(self, pid: int) -> int | None:
        time.sleep(3)
        return super().device_bytes(pid)


def test_a_meter_that_hangs_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard_module, "HANGING_SECONDS", 0.3)
    interpreter(monkeypatch, tmp_path, "exec sleep 60")
    got = run_worker(errand(str(tmp_path)), print, cap=8 * 10**9, meter=HangingMeter())
    assert "'process' has not answered" in str(got)
    assert "the process that computes them was ended" in str(got)


def test_where_no_thread_can_watch_it_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    interpreter(monkeypatch, tmp_path, "read errand; exit 0")
    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert "cannot be started (can't start new thread)" in str(answer(tmp_path))


def test_an_interrupt_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interpreter(monkeypatch, tmp_path, speaking(json.dumps({"note": "one"}), then="exec sleep 60"))

    def interrupted(_: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_worker(errand(str(tmp_path)), interrupted, cap=8 * 10**9, meter=ProcessMeter())


def test_no_descriptor_stays_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interpreter(monkeypatch, tmp_path, speaking(json.dumps({"stored": STORED})))
    before = sorted(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else []
    for _ in range(3):
        answer(tmp_path)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "none"))
    answer(tmp_path)
    assert (sorted(os.listdir("/proc/self/fd")) if before else []) == before
