"""The time axis of a study that was resumed: breaks in which nothing ran are left out."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from autotune.search.working_time import IDLE_SECONDS, seconds_until_ends

BEGIN = datetime(2026, 1, 5, 18, 0)


def span(start: float, end: float) -> tuple[datetime, datetime]:
    return BEGIN + timedelta(seconds=start), BEGIN + timedelta(seconds=end)


def test_without_a_break_it_is_the_time_since_the_begin() -> None:
    assert seconds_until_ends({}) == {}
    found = seconds_until_ends({0: span(0, 100), 1: span(50, 300), 2: span(300 + IDLE_SECONDS, 1000)})
    assert found == {0: 100, 1: 300, 2: 1000}


def test_the_night_between_a_run_and_its_resume_does_not_count() -> None:
    night = 12 * 3600
    spans = {0: span(0, 100), 1: span(20, 200), 2: span(night + 200, night + 300), 3: span(2 * night, 2 * night + 50)}
    assert seconds_until_ends(spans) == {0: 100, 1: 200, 2: 300, 3: 350}


@pytest.mark.parametrize("noticed", [12 * 3600 + 200, 12 * 3600 + 230])
def test_a_killed_trial_whose_end_was_noticed_by_the_resume_fills_no_gap(noticed: float) -> None:
    night = 12 * 3600
    spans = {0: span(0, 200), 1: span(100, noticed), 2: span(night + 200, night + 300)}
    found = seconds_until_ends(spans, interrupted={1})
    assert (found[0], found[2]) == (200, 300)
    assert 200 <= found[1] <= 230
