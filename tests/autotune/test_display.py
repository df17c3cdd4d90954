"""What a person sees of a front and of its confirmation."""

from __future__ import annotations

import sys
from dataclasses import replace
from io import StringIO
from typing import NoReturn

import pytest
from rich.console import Console

from autotune.cli.display import Display
from autotune.cli.ending import drive
from autotune.cli.front_table import front_table
from autotune.cli.live_display import LiveDisplay
from autotune.outcome import (
    Confirmation,
    EpochReport,
    InferenceFigures,
    MemoryFigures,
    Outcome,
    Status,
    TrialRecord,
)
from tests.autotune._records import trial

PEAK = MemoryFigures(allocated=10**8, device=3 * 10**8, meter="process private bytes")
INFERENCE = InferenceFigures(
    peak=PEAK, latency_seconds=0.0123, rows_per_second=80.0, batch_rows=8, threads=2, device="cpu"
)


def confirmed(number: int, *metrics: float, bad: int = 0) -> TrialRecord:
    ends = [Outcome(status=Status.COMPLETE, metric=metric, peak=PEAK, seconds=4.0) for metric in metrics]
    ends += [Outcome(status=Status.DIVERGED, reason="the loss is nan")] * bad
    others = tuple(Confirmation(seed=seed, outcome=one) for seed, one in enumerate(ends, 1))
    return replace(trial(number, 0.80 + number / 100, 10**8 * (number + 1)), confirmations=others, inference=INFERENCE)


def drawn(front: list[TrialRecord], *, width: int = 80) -> str:
    console = Console(width=width, record=True, file=StringIO())
    console.print(front_table(front, "accuracy", 1))
    return console.export_text()


def test_a_front_that_nothing_confirmed_has_the_columns_of_the_search() -> None:
    shown = drawn([trial(0), trial(1, 0.9, 10**9)])
    assert "trainable" in shown
    assert "seeds" not in shown


@pytest.mark.parametrize("width", [80, 140])
def test_the_mean_its_spread_and_what_answering_takes_are_shown(width: int) -> None:
    members = [confirmed(0, 0.79, 0.81), confirmed(1, 0.85, bad=2), trial(2, 0.9, 10**9)]
    shown = drawn(members, width=width)
    for words in ("0.8000 ±", "0.0141", "(2 seeds)", "(1 of 3", "seeds)", "none yet", "12.3 ms", "300.00 MB", "1 <"):
        assert words in shown, shown
    assert "…" not in shown, "nothing is cut off"


def test_lines_tell_how_a_confirmation_goes(capsys: pytest.CaptureFixture[str]) -> None:
    display = Display()
    member = trial(3, 0.8)
    display.confirmation_begins(done=2, total=6, metric_name="accuracy", deadline=None)
    display.confirmation_started(member, 7)
    report = EpochReport(epoch=1, train_loss=0.5, metrics={"accuracy": 0.7}, seconds=1.0)
    display.confirmation_epoch(member, 7, report)
    good = Outcome(status=Status.COMPLETE, metric=0.78, peak=PEAK, seconds=4.0)
    display.confirmation_finished(member, Confirmation(seed=7, outcome=good))
    lost = Outcome(status=Status.INTERRUPTED, reason="you interrupted the study")
    display.confirmation_finished(member, Confirmation(seed=8, outcome=lost))
    said = capsys.readouterr().out
    assert "2 of 6 trainings ended earlier, no time budget" in said
    assert "trial 3 on seed 7 epoch 1: loss 0.5000, accuracy 0.7000" in said
    assert "trial 3 on seed 7 ended [3/6]: complete, accuracy 0.7800" in said
    assert "(was 0.8000)" in said
    assert "trial 3 on seed 8 ended [3/6]: interrupted" in said, "it will be trained again"
    quiet = Display(quiet=True)
    quiet.confirmation_begins(done=0, total=6, metric_name="accuracy", deadline=None)
    quiet.confirmation_started(member, 7)
    assert capsys.readouterr().out == ""


def test_a_configuration_that_is_tried_once_more_counts_once(capsys: pytest.CaptureFixture[str]) -> None:
    display = Display()
    display.search_begins(done=0, total=1, metric_name="accuracy", cap=10**9, deadline=None)
    over = replace(trial(0), outcome=Outcome(status=Status.OVER_CAP, reason="too much"))
    cheaper = replace(over.candidate, plan={"activation_checkpointing": True})
    display.finished(over, [])
    display.finished(replace(trial(1), candidate=cheaper), [])
    shown = capsys.readouterr().out
    assert "search: 1 trial, each under" in shown
    assert shown.count("ended [1/1]") == 2


def test_the_live_display_follows_several_seeds_of_one_trial() -> None:
    display = LiveDisplay()
    display.console = Console(width=100, record=True, file=StringIO())
    member = trial(3, 0.8)
    display.confirmation_begins(done=0, total=4, metric_name="accuracy", deadline=None)
    for seed in (7, 8):
        display.confirmation_started(member, seed)
    report = EpochReport(epoch=2, train_loss=0.5, metrics={}, seconds=1.0)
    display.confirmation_epoch(member, 8, report)
    display.confirmation_finished(
        member, Confirmation(seed=7, outcome=Outcome(status=Status.COMPLETE, metric=0.7, peak=PEAK))
    )
    display.console.print(display._render())
    shown = display.console.export_text()
    assert "1/4 confirmations ended" in shown
    assert "trial 3 on seed 8" in shown
    assert "epoch 2: loss 0.5000" in shown
    assert "▶ trial 3 on seed 7" not in shown


def test_the_live_display_shows_how_far_a_step_is_until_it_is_done() -> None:
    display = LiveDisplay()
    display.console = Console(width=100, record=True, file=StringIO())

    def shown() -> str:
        display.console.print(display._render())
        return display.console.export_text()

    display.phase("prepare", "rows.csv")
    display.progress("rows tokenised", 4096, 9000)
    words = shown()
    assert "4,096/9,000 rows tokenised" in words
    assert 13 <= words.count("━") <= 30, "a bar"
    display.progress("rows tokenised", 9000, 9000)
    assert "rows tokenised" not in shown()
    display.progress("configurations predicted", 1, 9)
    display.phase("search", "9 trials")
    assert "predicted" not in shown(), "a phase that begins ends the step before it"


def test_lines_tell_how_far_a_long_step_is(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("autotune.cli.display.time.monotonic", lambda: clock[0])
    display = Display()
    for second in range(26):
        clock[0] = float(second)
        display.progress("images read", second * 100, 2600)
    lines = [line.split("] ")[1] for line in capsys.readouterr().out.splitlines()]
    assert lines == ["1,000 of 2,600 images read", "2,000 of 2,600 images read"]
    quiet = Display(quiet=True)
    clock[0] = 100.0
    quiet.progress("images read", 1, 2)
    assert capsys.readouterr().out == ""


def test_lines_tell_how_far_a_long_epoch_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr("autotune.cli.display.time.monotonic", lambda: clock[0])
    display = Display()
    for second in range(0, 150, 5):
        clock[0] = float(second)
        display.steps(3, 2, second * 10, 12_000)
        if second >= 20:
            display.confirmation_steps(trial(4), 1, 1, second, 200)
    lines = [line.split("] ")[1] for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "trial 3 epoch 2: 600 of 12,000 steps",
        "trial 4 on seed 1 epoch 1: 80 of 200 steps",
        "trial 3 epoch 2: 1,200 of 12,000 steps",
        "trial 4 on seed 1 epoch 1: 140 of 200 steps",
    ], "each training once a minute"


def test_a_running_training_shows_how_far_its_epoch_is() -> None:
    display = LiveDisplay()
    display.console = Console(width=100, record=True, file=StringIO())
    display.search_begins(done=0, total=4, metric_name="accuracy", cap=10**9, deadline=None)
    display.started(0, trial(0).candidate, PEAK)
    display.steps(0, 1, 40, 125)
    display.steps(7, 1, 41, 125)  # of one that has ended
    display.confirmation_started(trial(1), 2)
    display.confirmation_steps(trial(1), 2, 3, 7, 9)
    display.console.print(display._render())
    shown = display.console.export_text()
    assert "epoch 1: 40 of 125 steps" in shown
    assert "epoch 3: 7 of 9 steps" in shown
    assert "41 of 125" not in shown


def test_a_long_front_shows_its_best_and_says_how_many_more_there_are() -> None:
    display = LiveDisplay()
    display.console = Console(width=100, record=True, file=StringIO())
    front = [trial(number, 0.5 + number / 100, 10**8 * (number + 1)) for number in range(11)]
    display.search_begins(done=0, total=20, metric_name="accuracy", cap=10**9, deadline=None)
    display.finished(front[-1], front)
    display.console.print(display._render())
    shown = display.console.export_text()
    assert "0.6000" in shown, "the best"
    assert "0.5300" in shown
    assert "0.5200" not in shown
    assert "and 3 more of lower metric" in shown
    display.finished(front[-1], front[:8])
    display.console.print(display._render())
    assert "more of lower" not in display.console.export_text()


@pytest.mark.parametrize(
    ("terminal", "quiet", "as_json", "live"),
    [(True, False, False, True), (True, True, False, False), (True, False, True, False), (False, False, False, False)],
    ids=["terminal", "quiet", "json", "pipe"],
)
def test_a_study_is_shown_live_in_a_terminal_alone(
    terminal: bool, quiet: bool, as_json: bool, live: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    seen: list[Display] = []

    def work(display: Display) -> NoReturn:
        seen.append(display)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        drive(work, quiet=quiet, as_json=as_json)
    assert [(isinstance(one, LiveDisplay), one.quiet) for one in seen] == [(live, quiet or as_json)]


def test_a_time_budget_that_is_used_up_is_no_negative_time(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autotune.cli.display.time.monotonic", lambda: 100.0)
    display = Display()
    display.search_begins(done=0, total=4, metric_name="accuracy", cap=10**9, deadline=60.0)
    display.confirmation_begins(done=0, total=4, metric_name="accuracy", deadline=160.0)
    search, confirm = capsys.readouterr().out.splitlines()
    assert search.endswith("maximising accuracy, the time budget is used up")
    assert confirm.endswith("1 min 00 s left")


def test_a_survey_that_its_time_ended_shows_no_bar_in_the_search() -> None:
    display = LiveDisplay()
    display.console = Console(width=60, record=True, file=StringIO())
    display.progress("configurations predicted", 17, 348)
    display.search_begins(done=4, total=4, metric_name="accuracy", cap=10**9, deadline=None)
    display.console.export_text()
    display.console.print(display._render())
    shown = display.console.export_text()
    assert "configurations predicted" not in shown
    assert shown.count("━") == 10, "a narrow terminal has a short bar"
