"""A place on a machine that has no store has what its trials read brought there first, each of it once."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import ActorDiedError

from autotune.features.copying import Source, stems_of
from autotune.features.marks import PARTS
from autotune.features.shared import SharedFeatures
from autotune.features.store import FeatureStore
from autotune.outcome import Status
from autotune.runner import fetching
from autotune.runner.place import Errand, Place, read_report
from autotune.trial.request import Finished, TrialRequest
from sherl.features import Place as HiddenPlace

from .features.samples import KEY, build, ragged
from .features.test_copying import Near
from .stub_trials import STUB

FIRST, SECOND = HiddenPlace("blocks", 1), HiddenPlace("blocks", 2)
LAYOUTS = {FIRST: ragged(), SECOND: ragged()}


@dataclass
class Two:
    """The driver's machine, whose store holds two places, and this one, whose store is elsewhere.

    sources: what has been asked for there. spoil: sees all that is on its way.
    """

    home: Path
    away: Path
    sources: list[Near] = field(default_factory=list)
    spoil: Callable[[str, int, bytes], bytes] = lambda stem, offset, content: content

    def shared(self, *places: HiddenPlace) -> SharedFeatures:
        return SharedFeatures(root=str(self.away), key=KEY, places=places or (FIRST,), without=None)

    def request(self, *places: HiddenPlace, number: int = 0, **features: Any) -> TrialRequest:
        return TrialRequest(
            number=number,
            backbone_source="",
            prepared_dir="",
            output_dir=str(self.away.parent / f"{number}"),
            memory_cap=10**9,
            metric="accuracy",
            features={**self.shared(*places).to_dict(), **features},
        )

    def readable(self, *places: HiddenPlace) -> bool:
        found = self.shared(*places).readers(PARTS, [])
        for reader in (found or {}).values():
            reader.close()
        return found is not None


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Two:
    made = Two(tmp_path / "home", tmp_path / "away")
    for part in PARTS:
        build(FeatureStore.open(made.home, KEY), LAYOUTS, part)

    class Home:
        def __init__(self, shared: Mapping[str, Any], home: str, going_on: Callable[[], None]) -> None:
            assert home == "driver"
            self._places = [tuple(place) for place in shared["places"]]

        def opened(self) -> Source:
            made.sources.append(Near(made.home, self._places, lambda *chunk: made.spoil(*chunk)))
            return made.sources[-1]

        def close(self) -> None:
            for source in made.sources:
                source.giver.close()

    monkeypatch.setattr(fetching, "_Home", Home)
    return made


@pytest.fixture
def place_for() -> Iterator[Callable[[TrialRequest], Place]]:
    begun: list[Place] = []

    def make(request: TrialRequest, home: str = "driver") -> Place:
        place = Place.__new__(Place)  # without Ray's own set-up
        place.setup({"errand": Errand(request, {}, STUB, (), tuple(sys.path), home=home)})
        begun.append(place)
        return place

    yield make
    for place in begun:
        place.cleanup()


def next_trial(place: Place, request: TrialRequest) -> None:
    place.reset_config({"errand": replace(place._errand, request=request)})


def told_to_the_trial(place: Place) -> str:
    """Why it finds nothing, once it has been started; it then runs to its end."""
    deadline = time.monotonic() + 120
    why, messages = None, list[Any]()
    while not any(isinstance(message, Finished) for message in messages):
        assert time.monotonic() < deadline
        messages, _ = read_report(place.step())
        if place._process is not None:
            why = str((place._process.request.features or {})["not_stored"])
    assert messages[-1].outcome.status is Status.COMPLETE
    assert why is not None
    return why


def test_what_a_trial_reads_is_brought_first_and_once(two: Two, place_for: Callable[..., Place]) -> None:
    place = place_for(two.request())
    assert told_to_the_trial(place) == ""
    assert two.readable(FIRST)
    next_trial(place, two.request(number=1))
    assert told_to_the_trial(place) == ""
    assert len(two.sources) == 1


def test_a_later_trial_has_what_it_reads_itself(two: Two, place_for: Callable[..., Place]) -> None:
    place = place_for(two.request())
    told_to_the_trial(place)
    next_trial(place, two.request(FIRST, SECOND, number=1))
    assert told_to_the_trial(place) == ""
    assert two.readable(FIRST, SECOND)
    assert sorted(two.sources[1].brought) == sorted(stems_of([SECOND]))


def test_no_trial_starts_before_all_of_it_is_there(two: Two, place_for: Callable[..., Place]) -> None:
    come = threading.Event()

    def late(stem: str, offset: int, content: bytes) -> bytes:
        assert come.wait(60)
        return content

    two.spoil = late
    place = place_for(two.request())
    deadline = time.monotonic() + 60
    while not two.sources:
        assert time.monotonic() < deadline
        place.step()
    place.step()
    assert place._process is None
    come.set()
    assert told_to_the_trial(place) == ""


def test_a_trial_that_is_stopped_meanwhile_leaves_nothing_half_done(two: Two, place_for: Callable[..., Place]) -> None:
    here = threading.Event()

    def slow(stem: str, offset: int, content: bytes) -> bytes:
        here.set()
        time.sleep(0.4)
        return content

    two.spoil = slow
    place = place_for(two.request())
    deadline = time.monotonic() + 60
    while not here.is_set():
        assert time.monotonic() < deadline
        place.step()
    brought_by = place._fetching
    assert brought_by is not None
    place.request_stop("not wanted", Status.INTERRUPTED.value)
    (message,), _ = read_report(place.step())
    assert isinstance(message, Finished)
    place.cleanup()
    assert not brought_by._thread.is_alive()
    assert brought_by.answer is not None
    assert "ended before it was done" in brought_by.answer
    store = FeatureStore.open(two.away, KEY)
    values, manifests = (list(store.folder.glob(f"*.blocks.*{ending}")) for ending in (".bin", ".json"))
    assert len(values) == len(manifests) < 3


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError("the network is down"), "the network is down"),
        (ActorDiedError(), "actor died"),
        (KeyError("what nobody thought of"), "the thread that brought it broke off"),
    ],
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_what_cannot_be_brought_costs_no_trial_and_is_not_asked_for_again(
    two: Two, place_for: Callable[..., Place], error: Exception, said: str
) -> None:
    def fail(stem: str, offset: int, content: bytes) -> bytes:
        raise error

    two.spoil = fail
    place = place_for(two.request())
    for number in range(2):
        why = told_to_the_trial(place)
        assert why.startswith("what the study has stored could not be copied to this machine (")
        assert said in why
        next_trial(place, two.request(number=number + 1))
    assert len(two.sources) == 1


def test_the_budget_of_the_study_holds_there_too(two: Two, place_for: Callable[..., Place]) -> None:
    assert "of its budget of 100 B" in told_to_the_trial(place_for(two.request(budget=100)))
    assert not two.readable(FIRST)


def test_two_places_of_a_machine_both_have_what_they_read(two: Two, place_for: Callable[..., Place]) -> None:
    both = threading.Event()

    def late(stem: str, offset: int, content: bytes) -> bytes:
        assert both.wait(60)
        return content

    two.spoil = late
    first, second = place_for(two.request()), place_for(two.request(number=1))
    deadline = time.monotonic() + 60
    while first._fetching is None or second._fetching is None:
        assert time.monotonic() < deadline
        first.step()
        second.step()
    both.set()
    assert [told_to_the_trial(place) for place in (first, second)] == ["", ""]
    assert sum(len(source.brought) for source in two.sources) == 3


def test_on_the_drivers_machine_nothing_is_brought(two: Two, place_for: Callable[..., Place]) -> None:
    """What has gone there is gone; the trial says so itself."""
    place = place_for(two.request(), home="")
    assert told_to_the_trial(place) == ""
    assert two.sources == []
