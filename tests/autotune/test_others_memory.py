"""What becomes of a trial that had too little memory because others hold it: nothing is learnt, and the message says whose it was."""

from __future__ import annotations

import pytest

from autotune.outcome import Candidate, Outcome, Status
from autotune.search import StudyRecord
from autotune.study.source import TrialSettings
from autotune.trial.verdict import ANOTHER_TENANT
from tests.autotune.search_samples import PEAK, candidate
from tests.autotune.test_confirm import settings
from tests.autotune.test_unread_features import Fits, ended

__all__ = ["settings"]  # a fixture


@pytest.mark.parametrize(
    ("others", "taught", "words"),
    [
        (True, [], "trial 0 found too little memory beside other processes (out_of_memory); it is tried once more"),
        (False, ["breach"], "trial 0 needed more memory than the "),
    ],
)
def test_whose_memory_it_was_is_said_and_only_its_own_teaches(
    record: StudyRecord,
    settings: TrialSettings,
    monkeypatch: pytest.MonkeyPatch,
    others: bool,
    taught: list[str],
    words: str,
) -> None:
    def cheaper(_self: Fits, _asked: Candidate) -> Candidate:
        return candidate(batch_size=2)

    monkeypatch.setattr(Fits, "cheaper", cheaper)
    details = {ANOTHER_TENANT: True} if others else {}
    outcome = Outcome(status=Status.OUT_OF_MEMORY, peak=PEAK, reason="no room", details=details)
    kept, learnt, heard = ended(record, settings, outcome)
    assert kept.status is Status.OUT_OF_MEMORY
    assert learnt == taught
    (note,) = heard.of("note")
    assert note[0].startswith(words)
