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
    filling = place._filling
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
        assert steps_until_the_end(place)[0].status is Status.COMPLETE
    finally:
        place.cleanup()
