"""Whole trials of the real backbone on a little real data, each in a process of its own as in a study."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autotune.memory.process import ProcessMeter
from autotune.memory.trace import Workload, trace
from autotune.outcome import Outcome, Status
from autotune.trial import confines
from autotune.trial.baseline import baseline_bytes
from autotune.trial.execution import execute
from autotune.trial.fork_server import ForkServer
from autotune.trial.process import EXECUTE, TrialProcess
from autotune.trial.request import Epoch, Finished, Message, Rehearsed, Steps, TrialRequest
from sherl.backbones import DEFAULT_BACKBONE, load_config
from sherl.checkpoint import load_checkpoint
from sherl.data import DataSpec, PreparedData, prepare
from sherl.evaluation import evaluate
from sherl.spec import TrainingConfig

pytestmark = pytest.mark.slow

SHERL: dict[str, Any] = {"name": "sherl", "reduction_factor": 8}
TRAINING: dict[str, Any] = {"learning_rate": 2e-3, "batch_size": 8, "epochs": 2, "seed": 5}
Run = Callable[..., list[Message]]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    spec = DataSpec(train_rows=40, valid_rows=24, test_rows=24)
    directory = tmp_path_factory.mktemp("data") / "prepared"
    return prepare(spec, backbone_source=DEFAULT_BACKBONE, directory=directory, max_length=16)


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    with ForkServer(backbone=DEFAULT_BACKBONE) as running:
        yield running


@pytest.fixture
def request_for(prepared: PreparedData, tmp_path: Path) -> Callable[..., TrialRequest]:
    def make(number: int = 0, **changes: Any) -> TrialRequest:
        base = TrialRequest(
            number=number,
            backbone_source=DEFAULT_BACKBONE,
            prepared_dir=str(prepared.directory),
            output_dir=str(tmp_path / str(number)),
            memory_cap=4 * 10**9,
            method=SHERL,
            training=TRAINING,
        )
        return replace(base, **changes)

    return make


@pytest.fixture
def run(server: ForkServer) -> Run:
    def go(request: TrialRequest, target: str = EXECUTE) -> list[Message]:
        return [*TrialProcess(request, server, ProcessMeter(), target=target).events()]

    return go


def outcome_of(messages: list[Message]) -> Outcome:
    assert isinstance(messages[-1], Finished)
    return messages[-1].outcome


def weights_of(request: TrialRequest) -> str:
    return hashlib.sha256((request.checkpoint_dir / "trainables.safetensors").read_bytes()).hexdigest()


# ---- targets that run in the trial's process


def without_rehearsal(request: TrialRequest, send: Callable[[Message], None]) -> Outcome:
    from autotune.trial import execution

    execution.rehearse = lambda *_, **__: None
    return execute(request, send)


def rehearsal_runs_out(request: TrialRequest, send: Callable[[Message], None]) -> Outcome:
    """Memory ends inside the rehearsal, and the machine has none left either."""
    from autotune.trial import execution

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes.")

    execution.rehearse = fail
    confines.CpuConfines.refused_by_cap = lambda _: False  # type: ignore[method-assign]  # this process ends soon
    return execute(request, send)


def tells_every_step(request: TrialRequest, send: Callable[[Message], None]) -> Outcome:
    from autotune.trial import execution

    execution.STEPS_EVERY = 0.0
    return execute(request, send)


# ---- a trial that ends well


def test_a_trial_is_complete_and_its_checkpoint_gives_its_metric_again(
    run: Run, request_for: Callable[..., TrialRequest], prepared: PreparedData
) -> None:
    request = request_for()
    messages = [message for message in run(request) if not isinstance(message, Steps)]
    assert [type(message) for message in messages] == [Rehearsed, Epoch, Epoch, Finished]
    outcome = outcome_of(messages)
    assert outcome.status is Status.COMPLETE, outcome
    assert outcome.reason == ""
    assert len(outcome.epochs) == 2
    best = max(outcome.epochs, key=lambda report: report.metrics["accuracy"])
    assert (outcome.metric, outcome.best_epoch) == (best.metrics["accuracy"], best.epoch)
    assert outcome.metrics == best.metrics
    assert outcome.step_seconds is not None
    assert outcome.trainable_parameters is not None
    assert outcome.checkpoint == str(request.checkpoint_dir)
    assert outcome.details["threads"] == 1
    model = load_checkpoint(outcome.checkpoint)
    assert evaluate(model, prepared.part("valid"), 8) == pytest.approx(outcome.metrics)


def test_a_trial_tells_how_far_its_epochs_are(run: Run, request_for: Callable[..., TrialRequest]) -> None:
    messages = run(request_for(), f"{__name__}:tells_every_step")
    told = [message for message in messages if isinstance(message, Steps | Epoch)]
    counted = [Steps(1, done, 5) for done in range(1, 6)], [Steps(2, done, 5) for done in range(1, 6)]
    assert told[:5] == counted[0]
    assert isinstance(told[5], Epoch)
    assert told[6:11] == counted[1]


def test_the_measured_tensor_bytes_are_what_the_predictor_traces(
    run: Run, request_for: Callable[..., TrialRequest], prepared: PreparedData
) -> None:
    workload = Workload(
        backbone_config=load_config(DEFAULT_BACKBONE).to_dict(),
        method=SHERL,
        task=prepared.task,
        training=TrainingConfig.from_dict(TRAINING),
        train_batch=prepared.part("train").largest_form(8),
        eval_batch=prepared.part("valid").largest_form(8),
    )
    outcome = outcome_of(run(request_for(training={**TRAINING, "epochs": 1})))
    assert outcome.peak is not None
    assert outcome.peak.allocated == trace(workload).allocated
    assert sum(outcome.details["peak_parts"].values()) == outcome.peak.allocated
    assert outcome.peak.device > outcome.peak.allocated


def test_a_seed_repeats_a_trial_bit_for_bit_and_the_rehearsal_changes_nothing(
    run: Run, request_for: Callable[..., TrialRequest]
) -> None:
    requests = [request_for(number) for number in range(3)]
    first = outcome_of(run(requests[0]))
    second = outcome_of(run(requests[1]))
    bare = outcome_of(run(requests[2], target=f"{__name__}:without_rehearsal"))
    losses = [[report.train_loss for report in outcome.epochs] for outcome in (first, second, bare)]
    assert losses[0] == losses[1] == losses[2]
    assert weights_of(requests[0]) == weights_of(requests[1]) == weights_of(requests[2])
    other = request_for(3, training={**TRAINING, "seed": 6})
    outcome_of(run(other))
    assert weights_of(other) != weights_of(requests[0])


def test_a_checkpoint_is_scored_once_on_the_part_that_was_asked_for(
    run: Run, request_for: Callable[..., TrialRequest], prepared: PreparedData
) -> None:
    trained = outcome_of(run(request_for(training={**TRAINING, "epochs": 1})))
    scoring = request_for(1, kind="score", checkpoint=trained.checkpoint)
    outcome = outcome_of(run(scoring))
    assert outcome.status is Status.COMPLETE, outcome
    assert trained.checkpoint is not None
    expected = evaluate(load_checkpoint(trained.checkpoint), prepared.part("test"), 8)
    assert outcome.metrics == pytest.approx(expected)
    assert outcome.metric == outcome.metrics["accuracy"]
    assert Path(trained.checkpoint).is_dir()


# ---- trials that end badly


def test_a_trial_over_its_cap_shows_it_before_training(
    run: Run, request_for: Callable[..., TrialRequest], server: ForkServer
) -> None:
    # Room for imports and weights, not for the activations of full fine-tuning.
    cap = baseline_bytes(server) + 150 * 10**6
    request = request_for(method={"name": "full"}, memory_cap=cap, training={**TRAINING, "batch_size": 40})
    messages = run(request)
    outcome = outcome_of(messages)
    assert outcome.status is Status.OVER_CAP, outcome
    assert [type(message) for message in messages] == [Finished]
    for word in ("Trial 0", "over the cap" if "over the cap" in outcome.reason else "more than the cap", "MB"):
        assert word in outcome.reason
    assert outcome.peak is not None
    assert outcome.peak.device < cap * 1.05
    assert not request.checkpoint_dir.exists()


def test_a_cap_below_the_weights_is_over_it_too(run: Run, request_for: Callable[..., TrialRequest]) -> None:
    outcome = outcome_of(run(request_for(memory_cap=200 * 10**6)))
    assert outcome.status is Status.OVER_CAP, outcome


def test_a_machine_without_memory_is_another_matter(run: Run, request_for: Callable[..., TrialRequest]) -> None:
    outcome = outcome_of(run(request_for(), target=f"{__name__}:rehearsal_runs_out"))
    assert outcome.status is Status.OUT_OF_MEMORY, outcome
    assert "rehearsing its largest batch (8 x 16 tokens)" in outcome.reason


def test_a_loss_that_is_not_finite_is_divergence(run: Run, request_for: Callable[..., TrialRequest]) -> None:
    training = {**TRAINING, "learning_rate": 1e30, "max_grad_norm": None}
    outcome = outcome_of(run(request_for(method={"name": "full"}, training=training)))
    assert outcome.status is Status.DIVERGED, outcome
    assert outcome.metric is None or not outcome.status.has_metric
    assert outcome.checkpoint is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prepared_dir": "/no/such/folder"}, "DataError"),
        ({"backbone_source": "./no-such-model"}, "SpecError"),
        ({"method": {"name": "shrel"}}, "sherl"),
        ({"training": {"batch_size": 8}}, "learning_rate"),
    ],
)
def test_an_error_is_an_outcome_with_its_cause(
    run: Run, request_for: Callable[..., TrialRequest], changes: dict[str, Any], words: str
) -> None:
    outcome = outcome_of(run(request_for(**changes)))
    assert outcome.status is Status.FAILED
    assert words in outcome.reason
    assert "Traceback" in outcome.details["traceback"]
