"""What is tried next: it fits, it is new, and the search never stalls."""

from __future__ import annotations

import random
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest

from autotune.errors import ConfigError, NothingFitsError, StudyError
from autotune.outcome import Candidate, MemoryFigures, Outcome, Refusal, Status
from autotune.search import SAMPLERS, Proposed, Proposer, StudyRecord
from autotune.search.proposer import DRAWS, MOST_STARTS
from autotune.space import SearchSpace, shape_key

Fits = Callable[[Candidate], Refusal | None]

DISCRETE = """
training: {batch_size: {choice: [8, 16]}, epochs: {choice: [1, 2]}}
methods:
  full: {learning_rate: {choice: [1e-4, 1e-5]}}
  bitfit: {learning_rate: 1e-3}
"""


@pytest.fixture
def record(tmp_path: Path) -> Iterator[StudyRecord]:
    with StudyRecord.create(tmp_path / "study.db", "demo", settings={}) as made:
        yield made


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return SearchSpace.load("default", depth=6, width=384, check=dict)


def of_text(folder: Path, text: str) -> SearchSpace:
    file = folder / "space.yaml"
    file.write_text(text)
    return SearchSpace.load(file, depth=6, width=384, check=dict)


def everything_fits(candidate: Candidate) -> None:
    del candidate


def share_fits(percent: float, salt: int = 0) -> Fits:
    """A fixed share of all shapes fits, spread over the space without a pattern that a sampler could learn."""

    def fits(candidate: Candidate) -> Refusal | None:
        hashed = zlib.crc32(f"{salt}{shape_key(candidate)}".encode())
        if hashed % 10_000 < percent * 100:
            return None
        return Refusal(
            reason="over the cap.", predicted=MemoryFigures(allocated=1, device=10**9 + hashed, meter="prediction")
        )

    return fits


def outcome_of(candidate: Candidate) -> Outcome:
    """A made-up result that depends on the configuration only."""
    chance = random.Random(repr(sorted(candidate.params.items())))
    peak = MemoryFigures(allocated=chance.randrange(1, 10**9), device=10**9, meter="test")
    return Outcome(status=Status.COMPLETE, metric=chance.random(), peak=peak)


def run(proposer: Proposer) -> list[Proposed]:
    """Runs all trials, one after the other."""
    started = []
    while (proposed := proposer.next()) is not None:
        started.append(proposed)
        proposer.record.finish(proposed.number, outcome_of(proposed.candidate))
    return started


def test_all_trials_are_started_differ_and_stand_in_the_record(record: StudyRecord, space: SearchSpace) -> None:
    proposer = Proposer(record, space, everything_fits, total=16, seed=0)
    assert proposer.remaining == 16
    started = run(proposer)
    assert [proposed.number for proposed in started] == list(range(16))
    assert len({str(proposed.candidate.params) for proposed in started}) == 16
    assert [(row.candidate, row.seed) for row in record.trials()] == [(one.candidate, one.seed) for one in started]
    assert proposer.remaining == 0
    assert record.refusals() == []


def test_the_first_trials_see_every_method_in_the_order_of_the_space(record: StudyRecord, space: SearchSpace) -> None:
    started = run(Proposer(record, space, everything_fits, total=16, seed=1))
    names = [proposed.candidate.method["name"] for proposed in started]
    assert tuple(names[:5]) == space.methods
    assert Counter(names[:8])["sherl"] >= 2, "what is left of the first ones goes where there is most to see"


def test_a_study_of_few_trials_takes_the_first_methods(record: StudyRecord, space: SearchSpace) -> None:
    started = run(Proposer(record, space, everything_fits, total=2, seed=0))
    assert [proposed.candidate.method["name"] for proposed in started] == ["sherl", "lora"]


def test_the_samplers_see_every_parameter_that_was_drawn(
    record: StudyRecord, space: SearchSpace, tmp_path: Path
) -> None:
    started = run(Proposer(record, space, everything_fits, total=6, seed=0))
    trials = optuna.load_study(study_name="demo", storage=f"sqlite:///{tmp_path / 'study.db'}").trials
    assert [trial.params for trial in trials] == [proposed.candidate.params for proposed in started]


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_every_search_strategy_proposes_to_the_end(record: StudyRecord, space: SearchSpace, sampler: str) -> None:
    proposer = Proposer(record, space, share_fits(60), total=14, seed=3, sampler=sampler)
    assert len(run(proposer)) == 14


def test_nsga2_goes_from_generation_to_generation(record: StudyRecord, space: SearchSpace) -> None:
    run(Proposer(record, space, everything_fits, total=14, seed=3, sampler="nsga2"))
    notes = [
        value for trial in record.frozen_trials() for key, value in trial.system_attrs.items() if "generation" in key
    ]
    assert max(notes) >= 1, "what the strategy keeps with a trial is in the record"


def test_an_unknown_strategy_and_no_trials_are_refused(record: StudyRecord, space: SearchSpace) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'tpe'"):
        Proposer(record, space, everything_fits, total=1, seed=0, sampler="tpee")
    with pytest.raises(ConfigError, match="at least 1 trial"):
        Proposer(record, space, everything_fits, total=0, seed=0)


# ---- what does not fit ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("percent", [10, 1])
def test_a_search_never_stalls_where_most_of_the_space_does_not_fit(
    record: StudyRecord, space: SearchSpace, percent: float, seed: int
) -> None:
    fits = share_fits(percent, salt=seed)
    fitting = [shape for shape in space.shapes() if fits(shape) is None]
    assert 0 < len(fitting) < space.size * percent / 100 * 3
    asked: Counter[str] = Counter()

    def counted(candidate: Candidate) -> Refusal | None:
        asked[shape_key(candidate)] += 1
        return fits(candidate)

    started = run(Proposer(record, space, counted, total=12, seed=seed))
    assert len(started) == 12
    assert all(fits(proposed.candidate) is None for proposed in started)
    assert all(count == 1 for key, count in asked.items() if key not in {shape_key(one) for one in fitting})
    refused = {shape_key(row.candidate) for row in record.refusals()}
    assert refused == {key for key in asked if key not in {shape_key(one) for one in fitting}}
    assert len(record.trials()) == 12, "what is refused never becomes a trial"


def test_where_one_single_shape_fits_it_is_found_and_varied(record: StudyRecord, space: SearchSpace) -> None:
    only = shape_key(list(space.shapes())[123])
    refusal = Refusal(reason="no")
    started = run(
        Proposer(record, space, lambda candidate: None if shape_key(candidate) == only else refusal, total=5, seed=0)
    )
    assert {shape_key(proposed.candidate) for proposed in started} == {only}
    assert len({proposed.candidate.training["learning_rate"] for proposed in started}) == 5


def test_a_fitting_space_is_not_predicted_whole(record: StudyRecord, space: SearchSpace) -> None:
    asked: list[str] = []
    run(Proposer(record, space, lambda candidate: asked.append(shape_key(candidate)), total=8, seed=0))
    assert len(asked) <= 16, "predictions are slow, only what is drawn is predicted"


def test_a_method_that_does_not_fit_is_passed_over(record: StudyRecord, space: SearchSpace) -> None:
    def no_lora(candidate: Candidate) -> Refusal | None:
        return Refusal(reason="no") if candidate.method["name"] == "lora" else None

    names = [proposed.candidate.method["name"] for proposed in run(Proposer(record, space, no_lora, total=10, seed=0))]
    assert "lora" not in names
    assert set(names[:4]) == {"sherl", "linear_probe", "bitfit", "full"}


def test_nothing_fits_is_said_with_the_nearest(record: StudyRecord, space: SearchSpace) -> None:
    fits = share_fits(0)
    smallest = min(space.shapes(), key=lambda shape: fits(shape).predicted.device)  # type: ignore[union-attr]  # all are refused
    with pytest.raises(NothingFitsError) as caught:
        Proposer(record, space, fits, total=4, seed=0).next()
    message = str(caught.value)
    for words in (
        f"None of the {space.size} configurations",
        "'default'",
        smallest.label,
        "over the cap.",
        "--memory-cap",
    ):
        assert words in message
    assert record.trials() == []
    assert len(record.refusals()) == space.size


def test_nothing_fits_without_figures(record: StudyRecord, space: SearchSpace) -> None:
    with pytest.raises(NothingFitsError, match=r"suits this model and task\. this family carries no method"):
        Proposer(record, space, lambda _: Refusal(reason="this family carries no method"), total=4, seed=0).next()


def test_a_space_that_is_used_up_ends_the_search(record: StudyRecord, tmp_path: Path) -> None:
    small = of_text(tmp_path, DISCRETE)
    started = run(Proposer(record, small, everything_fits, total=100, seed=0))
    assert len(started) == 2 * 2 * 2 + 2 * 2, "every configuration once"
    assert len({str(proposed.candidate) for proposed in started}) == 12


def test_a_failed_configuration_is_not_drawn_again(record: StudyRecord, tmp_path: Path) -> None:
    proposer = Proposer(record, of_text(tmp_path, DISCRETE), everything_fits, total=100, seed=0)
    endings = [Status.FAILED, Status.DIVERGED, Status.OVER_CAP, Status.OUT_OF_MEMORY, Status.STOPPED]
    seen = []
    while (proposed := proposer.next()) is not None:
        seen.append(str(proposed.candidate))
        record.finish(proposed.number, Outcome(status=endings[len(seen) % len(endings)]))
    assert len(seen) == len(set(seen)) == 12


# ---- running and resuming ---------------------------------------------------------------------------------------


def test_trials_that_run_at_the_same_time_differ_and_count(record: StudyRecord, tmp_path: Path) -> None:
    proposer = Proposer(record, of_text(tmp_path, DISCRETE), everything_fits, total=9, seed=0)
    running = [proposer.next() for _ in range(9)]
    assert None not in running
    assert proposer.next() is None
    assert len({str(row.candidate) for row in record.trials()}) == 9


@pytest.mark.parametrize("stop_after", [1, 5, 9])
def test_a_resumed_study_goes_the_same_way(tmp_path: Path, space: SearchSpace, stop_after: int) -> None:
    def study(name: str) -> StudyRecord:
        return StudyRecord.create(tmp_path / f"{name}.db", name, settings={})

    fits = share_fits(30)
    with study("whole") as record:
        whole = [proposed.candidate for proposed in run(Proposer(record, space, fits, total=12, seed=5))]
    with study("cut") as record:
        first = Proposer(record, space, fits, total=12, seed=5)
        for _ in range(stop_after):
            proposed = first.next()
            assert proposed is not None
            record.finish(proposed.number, outcome_of(proposed.candidate))
    with StudyRecord.open(tmp_path / "cut.db", write=True) as record:
        run(Proposer(record, space, fits, total=12, seed=5))
        assert [row.candidate for row in record.trials()] == whole
    with study("other") as record:
        assert [proposed.candidate for proposed in run(Proposer(record, space, fits, total=12, seed=6))] != whole


def test_interrupted_trials_are_started_again_first_and_do_not_count(record: StudyRecord, space: SearchSpace) -> None:
    proposer = Proposer(record, space, everything_fits, total=4, seed=0)
    for _ in range(2):
        done = proposer.next()
        assert done is not None
        record.finish(done.number, outcome_of(done.candidate))
    running = [proposer.next(), proposer.next()]
    assert proposer.next() is None
    assert record.interrupt_running() == [one.candidate for one in running if one is not None]
    again = Proposer(record, space, everything_fits, total=4, seed=0)
    assert again.remaining == 2
    started = run(again)
    assert [one.candidate for one in started] == [one.candidate for one in running if one is not None]
    assert [one.number for one in started] == [4, 5], "a new trial each, the old ones stay in the record"
    ended = Counter(row.outcome.status for row in record.trials() if row.outcome is not None)
    assert ended == {Status.COMPLETE: 4, Status.INTERRUPTED: 2}


def test_a_configuration_that_is_interrupted_every_time_is_given_up(record: StudyRecord, space: SearchSpace) -> None:
    proposer = Proposer(record, space, everything_fits, total=3, seed=0)
    first = []
    for _ in range(MOST_STARTS):
        proposed = proposer.next()
        assert proposed is not None
        first.append(proposed.candidate)
        record.finish(proposed.number, Outcome(status=Status.INTERRUPTED, reason="the node went down"))
    assert first == [first[0]] * MOST_STARTS
    assert proposer.remaining == 2
    assert first[0] not in [proposed.candidate for proposed in run(proposer)]


def test_more_trials_may_be_asked_for_later(record: StudyRecord, space: SearchSpace) -> None:
    assert len(run(Proposer(record, space, everything_fits, total=3, seed=0))) == 3
    assert len(run(Proposer(record, space, everything_fits, total=5, seed=0))) == 2


def test_a_record_keeps_to_one_space(record: StudyRecord, tmp_path: Path) -> None:
    run(Proposer(record, of_text(tmp_path, DISCRETE), everything_fits, total=2, seed=0))
    Proposer(record, of_text(tmp_path, f"description: other words\n{DISCRETE}"), everything_fits, total=2, seed=0)
    with pytest.raises(StudyError, match=r"full\.learning_rate was .*1e-05.*now .*1e-06"):
        Proposer(record, of_text(tmp_path, DISCRETE.replace("1e-5", "1e-6")), everything_fits, total=2, seed=0)


def test_the_sampler_learns_from_the_record(tmp_path: Path) -> None:
    """With a plain best value, TPE comes nearer to it than chance does."""
    text = "methods: {full: {batch_size: 8, learning_rate: {float: {low: 1e-6, high: 1e-2, log: true}}}}"
    small = of_text(tmp_path, text)

    def distance(sampler: str, seed: int) -> float:
        with StudyRecord.create(tmp_path / f"{sampler}{seed}.db", "demo", settings={}) as record:
            proposer = Proposer(record, small, everything_fits, total=30, seed=seed, sampler=sampler)
            distances = []
            while (proposed := proposer.next()) is not None:
                away = abs(proposed.candidate.training["learning_rate"] / 1e-4 - 1)
                distances.append(min(away, 10))
                peak = MemoryFigures(allocated=100, device=100, meter="test")
                record.finish(proposed.number, Outcome(status=Status.COMPLETE, metric=-away, peak=peak))
            return sum(distances[-10:]) / 10

    assert sum(distance("tpe", seed) for seed in range(3)) < sum(distance("random", seed) for seed in range(3)) / 2


def test_fifty_draws_come_before_chance(record: StudyRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0
    ask = optuna.Study.ask

    def counted(study: optuna.Study, *arguments: Any) -> optuna.Trial:
        nonlocal asked
        asked += 1
        return ask(study, *arguments)

    monkeypatch.setattr(optuna.Study, "ask", counted)
    proposer = Proposer(
        record, of_text(tmp_path, "methods: {full: {learning_rate: 1e-4}}"), everything_fits, total=2, seed=0
    )
    assert proposer.next() is not None
    assert asked == 1
    assert proposer.next() is None, "the only configuration is running"
    assert asked == 1 + DRAWS
