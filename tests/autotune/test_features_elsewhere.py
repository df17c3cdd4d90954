"""A place on a machine that has no store fills one of its own before the first trial that reads it."""

from __future__ import annotations

import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autotune.features.shared import SharedFeatures, store_key
from autotune.outcome import Status
from autotune.runner.place import Errand, Place, read_report
from autotune.trial.request import Finished, TrialRequest
from sherl.backbones import load_backbone
from sherl.data import DataSpec, PreparedData, prepare
from sherl.features import Place as HiddenPlace

from .small_study import make_inputs
from .stub_trials import STUB

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def request_of_another_machine(tmp_path_factory: pytest.TempPathFactory) -> TrialRequest:
    """Its store would lie where there is nothing here."""
    folder = tmp_path_factory.mktemp("elsewhere")
    options = make_inputs(folder)
    spec = DataSpec(train=options["--train"], text="review", label="stars")
    data = prepare(spec, backbone_source=options["--model"], directory=folder / "prepared", max_length=32)
    key = store_key(load_backbone(options["--model"]), "fp32", PreparedData.open(data.directory), "cpu")
    shared = SharedFeatures(
        root=str(folder / "no" / "store"), key=key, places=(HiddenPlace("blocks", 3),), without=None
    )
    return TrialRequest(
        number=0,
        backbone_source=options["--model"],
        prepared_dir=str(data.directory),
        output_dir=str(folder / "0"),
        memory_cap=10**9,
        metric="accuracy",
        features=shared.to_dict(),
    )


def place_for(request: TrialRequest) -> Place:
    place = Place.__new__(Place)  # without Ray's own set-up
    place.setup({"errand": Errand(request, {}, STUB, (), tuple(sys.path))})
    return place


def steps_until_the_end(place: Place) -> tuple[Any, list[dict[str, Any]]]:
    reports, deadline = [], time.monotonic() + 120
    while time.monotonic() < deadline:
        reports.append(place.step())
        messages, _ = read_report(reports[-1])
        for message in messages:
            if isinstance(message, Finished):
                return message.outcome, reports
    raise AssertionError("the trial did not end")


def test_the_store_is_filled_first_and_once(request_of_another_machine: TrialRequest) -> None:
    request = request_of_another_machine
    shared = SharedFeatures.from_dict(request.features or {})
    place = place_for(request)
    try:
        outcome, _ = steps_until_the_end(place)
        assert outcome.status is Status.COMPLETE
        readers = shared.readers(("train", "valid", "test"), [])
        assert readers is not None
        assert readers["train"].places == shared.places
        files = {path: path.stat().st_ino for path in Path(shared.root).rglob("*.bin")}
        place.reset_config({"errand": replace(place._errand, request=replace(request, number=1))})
        assert steps_until_the_end(place)[0].status is Status.COMPLETE
        assert {path: path.stat().st_ino for path in Path(shared.root).rglob("*.bin")} == files
    finally:
        place.cleanup()
        shutil.rmtree(shared.root)


def test_a_trial_that_is_stopped_meanwhile_leaves_nothing_running(request_of_another_machine: TrialRequest) -> None:
    place = place_for(request_of_another_machine)
    while place._filling is None:
        place.step()
    filling = place._filling._child
    assert filling is not None
    place.request_stop("not wanted", Status.INTERRUPTED.value)
    (message,), _ = read_report(place.step())
    assert isinstance(message, Finished)
    place.cleanup()
    assert filling.poll() is not None


def test_a_store_that_cannot_be_filled_costs_no_trial(request_of_another_machine: TrialRequest, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    features = {**(request_of_another_machine.features or {}), "root": str(tmp_path / "file")}
    place = place_for(replace(request_of_another_machine, features=features))
    try:
        assert "StoreError: Features cannot be stored under" in told_to_the_trial(place)
        assert steps_until_the_end(place)[0].status is Status.COMPLETE
    finally:
        place.cleanup()


def told_to_the_trial(place: Place) -> str:
    """Why it finds nothing, once it has been started."""
    deadline = time.monotonic() + 120
    while place._process is None:
        assert time.monotonic() < deadline
        place.step()
    return str((place._process.request.features or {})["not_stored"])


def test_the_budget_of_the_study_holds_there_too(request_of_another_machine: TrialRequest) -> None:
    features = request_of_another_machine.features or {}
    place = place_for(replace(request_of_another_machine, features={**features, "budget": 1000}))
    try:
        assert "there is room for" in told_to_the_trial(place)
        assert steps_until_the_end(place)[0].status is Status.COMPLETE
    finally:
        place.cleanup()
        shutil.rmtree(features["root"])


def test_what_holds_a_trial_holds_the_process_that_stores(request_of_another_machine: TrialRequest) -> None:
    place = place_for(replace(request_of_another_machine, memory_cap=20_000_000))
    try:
        assert "The process that computes them" in told_to_the_trial(place)
    finally:
        place.cleanup()


def test_a_later_trial_has_stored_what_it_reads_itself(request_of_another_machine: TrialRequest) -> None:
    request = request_of_another_machine
    place = place_for(request)
    other = SharedFeatures.from_dict({**(request.features or {}), "places": [["blocks", 1], ["blocks", 2]]})
    try:
        assert told_to_the_trial(place) == ""
        place.reset_config(
            {"errand": replace(place._errand, request=replace(request, number=1, features=other.to_dict()))}
        )
        assert told_to_the_trial(place) == ""
        notes: list[str] = []
        assert other.readers(("train", "valid", "test"), notes) is not None, notes
    finally:
        place.cleanup()
        shutil.rmtree(other.root)


def test_two_places_of_a_machine_both_have_what_they_read(request_of_another_machine: TrialRequest) -> None:
    shared = SharedFeatures.from_dict(request_of_another_machine.features or {})
    first, second = place_for(request_of_another_machine), place_for(replace(request_of_another_machine, number=1))
    begun: list[Place] = []
    try:
        deadline = time.monotonic() + 120
        while len(begun) < 2:
            assert time.monotonic() < deadline
            for place in (first, second):
                if place not in begun:
                    place.step()
                if place not in begun and place._process is not None:
                    begun.append(place)
                    assert place._process.request.features is not None
                    assert place._process.request.features["not_stored"] == ""
                    assert shared.readers(("train", "valid", "test"), []) is not None
    finally:
        first.cleanup()
        second.cleanup()
        shutil.rmtree(shared.root)
