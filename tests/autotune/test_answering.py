"""What answering takes: measured in a trial's process, by generation where text is written, and under the cap."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import sherl.predictor
from autotune.features.shared import SharedFeatures
from autotune.memory.device import cpu_device
from autotune.memory.process import ProcessMeter
from autotune.outcome import MemoryFigures, Outcome, Status
from autotune.search import StudyRecord
from autotune.study.answering import figures_of, measure_front
from autotune.study.folder import StudyFolder
from autotune.study.source import TrialSettings
from autotune.trial import answering
from autotune.trial.ancestry import Ancestor
from autotune.trial.fork_server import ForkServer
from autotune.trial.process import TrialProcess
from autotune.trial.request import Finished, TrialRequest
from sherl.checkpoint import load_checkpoint
from sherl.data import DataSpec, PreparedData, prepare

from .search_samples import candidate, complete
from .task_inputs import inputs_of

TRAINING: dict[str, Any] = {"learning_rate": 1e-3, "batch_size": 8, "epochs": 1, "seed": 0}
METHOD: dict[str, Any] = {"name": "full"}


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    with ForkServer() as running:
        yield running


def request_of(case: str, folder: Path) -> tuple[TrialRequest, PreparedData]:
    options = {name.removeprefix("--").replace("-", "_"): value for name, value in inputs_of(case, folder).items()}
    model, length = options.pop("model"), int(options.pop("max_length", 32))
    spec = DataSpec.from_dict(options)
    data = prepare(spec, backbone_source=model, directory=folder / "prepared", max_length=length)
    request = TrialRequest(
        number=0,
        backbone_source=model,
        prepared_dir=str(data.directory),
        output_dir=str(folder / "trial"),
        memory_cap=3 * 10**9,
        method=METHOD,
        training=TRAINING,
    )
    return request, data


def run(server: ForkServer, request: TrialRequest) -> Outcome:
    *_, last = TrialProcess(request, server, ProcessMeter()).events()
    assert isinstance(last, Finished)
    return last.outcome


def measuring(trained: TrialRequest, **changes: Any) -> TrialRequest:
    return replace(
        trained,
        kind="measure",
        part="valid",
        checkpoint=str(trained.checkpoint_dir),
        output_dir=f"{trained.output_dir}-measured",
        settings={"batch_rows": 4},
        **changes,
    )


@pytest.mark.slow
@pytest.mark.parametrize("case", ["llama answers", "t5 answers", "gpt2 book", "bert tags", "dinov2 photos"])
def test_a_trained_model_is_measured_answering(case: str, server: ForkServer, tmp_path: Path) -> None:
    request, data = request_of(case, tmp_path)
    assert run(server, request).status is Status.COMPLETE
    outcome = run(server, measuring(request))
    assert outcome.status is Status.COMPLETE, outcome
    assert outcome.metric is None, "nothing is scored"
    figures = figures_of(outcome, "this machine")
    assert figures is not None
    assert figures.batch_rows == min(4, len(data.part("valid")))
    assert (figures.threads, figures.device) == (1, "this machine")
    assert 0 < figures.latency_seconds < 60
    assert figures.rows_per_second > 0
    weights = sum(one.numel() * one.element_size() for one in load_checkpoint(request.checkpoint_dir).parameters())
    assert figures.peak.allocated > weights
    assert figures.peak.device > figures.peak.allocated


@pytest.mark.slow
def test_what_does_not_fit_is_an_outcome_and_the_weights_stay(server: ForkServer, tmp_path: Path) -> None:
    request, _ = request_of("bert tags", tmp_path)
    assert run(server, request).status is Status.COMPLETE
    outcome = run(server, measuring(request, memory_cap=10**8))
    assert outcome.status is Status.OVER_CAP
    assert figures_of(outcome, "this machine") is None
    assert (request.checkpoint_dir / "trainables.safetensors").exists()


def test_figures_need_a_good_end_and_a_measured_peak() -> None:
    told = {"latency_seconds": 0.1, "rows_per_second": 5.0, "batch_rows": 4, "threads": 2}
    peak = MemoryFigures(allocated=1, device=2, meter="m")
    good = Outcome(status=Status.COMPLETE, peak=peak, details={"answering": told})
    figures = figures_of(good, "d")
    assert figures is not None
    assert (figures.latency_seconds, figures.peak) == (0.1, peak)
    assert figures_of(replace(good, details={}), "d") is None
    assert figures_of(replace(good, peak=None), "d") is None
    assert figures_of(replace(good, status=Status.FAILED), "d") is None


class _Part:
    """Ten rows; a batch holds their numbers."""

    order = torch.arange(10).numpy()

    def __len__(self) -> int:
        return 10

    def batch(self, rows: Any) -> dict[str, torch.Tensor]:
        return {"rows": torch.as_tensor(rows)}


def test_it_answers_as_the_predictor_does_and_full_batches_alone_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert answering.eval_step is sherl.predictor.eval_step, "by generation where a task writes text"
    answered: list[list[int]] = []
    clock = iter(range(1000))

    def eval_step(_model: object, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        answered.append(batch["rows"].tolist())
        return batch["rows"]

    monkeypatch.setattr(answering, "eval_step", eval_step)
    monkeypatch.setattr(answering.time, "perf_counter", lambda: next(clock))  # each batch takes one second
    rate = answering.rows_per_second_of(None, _Part(), 4)  # type: ignore[arg-type]  # neither is looked into
    assert rate == 4.0
    assert answered == [[0, 1, 2, 3], [0, 1, 2, 3], [4, 5, 6, 7]], "a warm-up, then each full batch"
    answered.clear()
    assert answering.latency_of(None, {"rows": torch.tensor([0])}) == 1.0  # type: ignore[arg-type]  # as above
    assert len(answered) == answering.WARM_UP + answering.LEAST_REPEATS, "slow answers are not repeated for ever"


# ---- the phase of a study


class _Valid:
    def part(self, name: str) -> range:
        assert name == "valid"
        return range(100)


@pytest.fixture
def measure(record: StudyRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[list, list]]:  # type: ignore[type-arg]  # requests; warnings
    """The phase with a stand-in for the process; gives the requests that it made and its warnings."""

    def go(outcome: Outcome, device: str = "a machine") -> tuple[list[TrialRequest], list[str]]:
        asked: list[TrialRequest] = []
        warned: list[str] = []

        def run_alone(request: TrialRequest, _server: object) -> Outcome:
            asked.append(request)
            told = dict.fromkeys(("latency_seconds", "rows_per_second"), 1.0)
            told |= {"batch_rows": request.settings["batch_rows"], "threads": request.threads}
            return replace(outcome, details={"answering": told})

        class Listener:
            phase = note = staticmethod(lambda *_: None)
            warning = staticmethod(warned.append)

        monkeypatch.setattr("autotune.study.answering.run_alone", run_alone)
        settings = TrialSettings(
            backbone_source="",
            folder=StudyFolder(tmp_path),
            memory_cap=10**9,
            metric="accuracy",
            device="cpu",
            threads=1,
            driver=Ancestor.of(),
            features=lambda _: SharedFeatures(root="r", key="k", places=(), without=None),
        )
        here = replace(cpu_device(), name=device)
        measure_front(record, settings, Listener(), None, _Valid(), here)  # type: ignore[arg-type]  # stand-ins
        return asked, warned

    return go


def test_members_are_measured_alike_once_and_anew_where_figures_would_not_compare(
    record: StudyRecord, measure: Callable[..., Any]
) -> None:
    peak = MemoryFigures(allocated=1, device=2, meter="m")
    for number, rows in enumerate((16, 64)):
        one = replace(candidate(1e-3 * (number + 1)), training={"learning_rate": 1e-3, "batch_size": rows})
        record.start(one, seed=0)
        record.finish(number, complete(0.7 + number / 10, peak=replace(peak, allocated=number + 1)))
    good = Outcome(status=Status.COMPLETE, peak=peak)
    asked, _ = measure(good)
    assert [request.settings["batch_rows"] for request in asked] == [16, 16], "as many as every evaluation went through"
    assert {request.kind for request in asked} == {"measure"}
    assert {request.part for request in asked} == {"valid"}
    assert {request.features for request in asked} == {None}, "the whole model answers"
    assert [row.inference is not None for row in record.trials()] == [True, True]
    assert measure(good)[0] == []
    assert len(measure(good, device="another machine")[0]) == 2


def test_a_member_that_cannot_be_measured_is_said_and_the_next_one_is_measured(
    record: StudyRecord, measure: Callable[..., Any]
) -> None:
    record.start(candidate(), seed=0)
    record.finish(0, complete(0.7))
    asked, warned = measure(Outcome(status=Status.OVER_CAP, reason="Trial 0 does not fit."))
    assert len(asked) == 1
    assert warned == ["what answering takes could not be measured for trial 0: Trial 0 does not fit."]
    assert record.trials()[0].inference is None
    assert len(measure(Outcome(status=Status.COMPLETE, peak=MemoryFigures(allocated=1, device=2, meter="m")))[0]) == 1
