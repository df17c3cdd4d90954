"""Whole trials of the real backbone on a little real data, each in a process of its own as in a study."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from autotune.errors import DeviceError
from autotune.memory.context import DEFAULT_CONTEXT_BYTES
from autotune.memory.process import ProcessMeter
from autotune.memory.trace import Workload, trace
from autotune.outcome import MemoryFigures, Outcome, Status
from autotune.trial import confines
from autotune.trial.baseline import baseline_bytes
from autotune.trial.confines import CudaConfines, OverCap
from autotune.trial.execution import execute
from autotune.trial.fork_server import ForkServer
from autotune.trial.process import EXECUTE, TrialProcess
from autotune.trial.request import Epoch, Finished, Message, Rehearsed, TrialRequest
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


# ---- a trial that ends well


def test_a_trial_is_complete_and_its_checkpoint_gives_its_metric_again(
    run: Run, request_for: Callable[..., TrialRequest], prepared: PreparedData
) -> None:
    request = request_for()
    messages = run(request)
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


def test_the_measured_tensor_bytes_are_what_the_predictor_traces(
    run: Run, request_for: Callable[..., TrialRequest], prepared: PreparedData
) -> None:
    workload = Workload(
        backbone_config=load_config(DEFAULT_BACKBONE).to_dict(),
        method=SHERL,
        task=prepared.task,
        training=TrainingConfig.from_dict(TRAINING),
        train_shape=prepared.part("train").largest_shape(8),
        eval_shape=prepared.part("valid").largest_shape(8),
        has_token_types=prepared.has_token_types,
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


def test_a_trial_over_its_cap_shows_it_before_training(run: Run, request_for: Callable[..., TrialRequest]) -> None:
    # Room for imports and weights, not for the activations of full fine-tuning.
    cap = baseline_bytes(backbone=DEFAULT_BACKBONE) + 150 * 10**6
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


# ---- the confines of a GPU, against a fake one


class FakeCuda:
    """What the confines ask of ``torch.cuda``, with figures that a test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reserved, self.most_reserved, self.allocated, self.free = 0, 0, 0, 70 * 10**9
        self.fractions: list[float] = []
        fake: dict[str, Any] = {
            "set_device": lambda _: None,
            "get_device_properties": lambda _: type("Properties", (), {"total_memory": 80 * 10**9}),
            "reset_peak_memory_stats": lambda _: None,
            "synchronize": lambda _: None,
            "memory_reserved": lambda _: self.reserved,
            "max_memory_reserved": lambda _: self.most_reserved,
            "max_memory_allocated": lambda _: self.allocated,
            "mem_get_info": lambda _: (self.free, 80 * 10**9),
            "set_per_process_memory_fraction": lambda fraction, _: self.fractions.append(fraction),
        }
        for name, function in fake.items():
            monkeypatch.setattr(torch.cuda, name, function)


class FakeMeter:
    name = "nvml"
    source = "nvml, this process"

    def __init__(self) -> None:
        self.held: int | None = None

    def device_bytes(self, pid: int) -> int | None:
        del pid
        return self.held


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> tuple[FakeCuda, FakeMeter]:
    meter = FakeMeter()
    monkeypatch.setattr(confines, "meter_for", lambda _: meter)
    return FakeCuda(monkeypatch), meter


def gpu_request(cap: int) -> TrialRequest:
    return TrialRequest(number=4, backbone_source="", prepared_dir="", output_dir="", memory_cap=cap, device="cuda")


def test_the_allocators_fraction_follows_what_is_measured_outside_it(gpu: tuple[FakeCuda, FakeMeter]) -> None:
    cuda, meter = gpu
    held = CudaConfines(gpu_request(8 * 10**9))
    assert cuda.fractions == [pytest.approx((8e9 - DEFAULT_CONTEXT_BYTES) / 80e9)]  # before the weights
    cuda.reserved = cuda.most_reserved = 2 * 10**9
    meter.held = 2_400_000_000
    held.settle(None)  # type: ignore[arg-type]  # the model plays no part on a GPU
    assert cuda.fractions[-1] == pytest.approx((8e9 - 0.4e9) / 80e9)
    with held.measured(None):  # type: ignore[arg-type]  # the same
        cuda.reserved = cuda.most_reserved = 3 * 10**9
        cuda.allocated = 2_700_000_000
        meter.held = 3_700_000_000
    held.check()
    assert cuda.fractions[-1] == pytest.approx((8e9 - 0.7e9) / 80e9)
    assert held.peak() == MemoryFigures(
        allocated=2_700_000_000, reserved=3 * 10**9, device=3_700_000_000, meter="nvml, this process"
    )


def test_a_rehearsal_over_the_cap_of_a_gpu_is_refused(gpu: tuple[FakeCuda, FakeMeter]) -> None:
    cuda, meter = gpu
    held = CudaConfines(gpu_request(4 * 10**9))
    cuda.reserved = cuda.most_reserved = 3_900_000_000
    meter.held = 4_300_000_000
    with pytest.raises(OverCap, match=r"Trial 4 does not fit: it held 4\.30 GB .* over the cap of 4\.00 GB"):
        held.check()


def test_a_gpu_without_figures_keeps_the_assumed_context(gpu: tuple[FakeCuda, FakeMeter]) -> None:
    cuda, _ = gpu
    held = CudaConfines(gpu_request(4 * 10**9))
    cuda.reserved = cuda.most_reserved = 10**9
    held.check()
    assert held.peak().device == 10**9 + DEFAULT_CONTEXT_BYTES


def test_a_cap_below_the_context_is_over_it(gpu: tuple[FakeCuda, FakeMeter]) -> None:
    del gpu
    with pytest.raises(OverCap, match="leaves nothing for tensors"):
        CudaConfines(gpu_request(10**8))


@pytest.mark.parametrize(("free", "refused"), [(70 * 10**9, True), (10**8, False)])
def test_what_refused_an_allocation_on_a_gpu(gpu: tuple[FakeCuda, FakeMeter], free: int, refused: bool) -> None:
    cuda, _ = gpu
    held = CudaConfines(gpu_request(4 * 10**9))
    cuda.reserved, cuda.free = 2 * 10**9, free
    assert held.refused_by_cap() is refused


def test_a_meter_that_fails_does_not_fail_the_trial(
    gpu: tuple[FakeCuda, FakeMeter], monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda, meter = gpu

    def fail(pid: int) -> int:
        raise DeviceError(f"no driver for {pid}")

    monkeypatch.setattr(meter, "device_bytes", fail)
    held = CudaConfines(gpu_request(4 * 10**9))
    cuda.most_reserved = 10**9
    held.check()
    assert held.peak().device == 10**9 + DEFAULT_CONTEXT_BYTES
