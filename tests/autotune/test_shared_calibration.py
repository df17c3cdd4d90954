"""What one study's trials taught of memory reaches the next study of the same user, and it says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from autotune.memory.shared_pairs import SharedPairs
from tests.autotune.small_study import autotune, make_inputs


def test_the_next_study_begins_with_what_the_last_one_taught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = SharedPairs(tmp_path / "pairs.jsonl")
    monkeypatch.setenv("AUTOTUNE_PAIRS", str(shared.path))
    options = {**make_inputs(tmp_path), "--memory-cap": "2GB", "--trials": "2"}
    said = "margins of memory begin with what"
    first = autotune("run", options={**options, "--study-dir": str(tmp_path / "first")})
    assert said not in first.stdout + first.stderr
    pairs = list(shared.read())
    assert len(pairs) == 2
    assert {(pair.origin.model, pair.origin.gpu) for pair in pairs} == {("bert", "")}
    assert all(pair.base > 0 and pair.origin.threads > 0 for pair in pairs)
    planned = autotune(
        "plan",
        options={"--model": options["--model"], "--device": "cpu", "--max-length": "16", "--method": "linear_probe"},
    )
    assert "margins follow 2 trials of bert before" in " ".join(planned.stderr.split())
    second = autotune("run", options={**options, "--study-dir": str(tmp_path / "second")})
    assert f"{said} 2 trials of other studies taught" in " ".join(second.stdout.split())
    assert len(list(shared.read())) == 4
    kept = shared.path.read_text()
    for private in (str(tmp_path), "review", "stars", "second"):
        assert private not in kept
    on = autotune("resume", "--study-dir", tmp_path / "first", options={"--trials": "3"})
    assert f"{said} 2 trials" in " ".join(on.stdout.split()), "its own two are no others'"
