"""A trial of every task, in a process of its own as in a study: what was predicted for it is what it measures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from autotune.config import StudyConfig
from autotune.features.errand import Errand, Wanted
from autotune.features.marks import PARTS
from autotune.features.shared import SharedFeatures
from autotune.features.worker import fill
from autotune.memory.device import cpu_device
from autotune.memory.predict import Predictor
from autotune.memory.process import ProcessMeter
from autotune.outcome import Candidate, Outcome, Status
from autotune.study.features import StudyFeatures
from autotune.study.folder import StudyFolder
from autotune.study.prediction import predictor_for
from autotune.trial.fork_server import ForkServer
from autotune.trial.process import TrialProcess
from autotune.trial.request import Finished, TrialRequest
from sherl.backbones import backbone_from_config, load_config
from sherl.data import DataSpec, PreparedData, prepare
from sherl.forms import form_of, widest
from sherl.methods import method_from_dict
from sherl.sharing import needs_of

from .task_inputs import CASES, inputs_of

pytestmark = pytest.mark.slow

TRAINING: dict[str, Any] = {"learning_rate": 1e-3, "batch_size": 8, "epochs": 1, "seed": 0}
METHODS: dict[str, dict[str, Any]] = {
    "sherl": {"name": "sherl", "reduction_factor": 2, "start_layer": -2, "late_route": {"name": "lora", "rank": 2}},
    "full": {"name": "full"},
}


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    with ForkServer() as running:
        yield running


class _Notes:
    """Keeps what a study's record keeps of itself; the baseline is of no matter for tensor bytes."""

    def __init__(self) -> None:
        self.attributes = {f"baseline of {cpu_device().name}, 1 threads": 0}


def predictor_of(
    config: StudyConfig, data: PreparedData, folder: Path, features: StudyFeatures | None = None
) -> Predictor:
    return predictor_for(
        config,
        StudyFolder(folder),
        load_config(config.model),
        data,
        cpu_device(),
        _Notes(),  # type: ignore[arg-type]  # only its attributes are read
        threads=1,
        features=features,
    )


def settings_of(case: str, folder: Path) -> tuple[StudyConfig, PreparedData]:
    options = {name.removeprefix("--").replace("-", "_"): value for name, value in inputs_of(case, folder).items()}
    model, length = options.pop("model"), int(options.pop("max_length", 32))
    config = StudyConfig(memory_cap="3GB", model=model, data=options)
    spec = DataSpec.from_dict(config.data)
    return config, prepare(spec, backbone_source=model, directory=folder / "prepared", max_length=length)


def run(server: ForkServer, request: TrialRequest) -> Outcome:
    *_, last = TrialProcess(request, server, ProcessMeter()).events()
    assert isinstance(last, Finished)
    return last.outcome


@pytest.mark.parametrize("case", CASES)
def test_what_is_predicted_for_a_trial_is_what_it_measures(case: str, server: ForkServer, tmp_path: Path) -> None:
    config, data = settings_of(case, tmp_path)
    predictor = predictor_of(config, data, tmp_path)
    for number, (name, method) in enumerate(METHODS.items()):
        predicted = predictor.predict(Candidate(method=method, training=TRAINING, params={}))
        request = TrialRequest(
            number=number,
            backbone_source=config.model,
            prepared_dir=str(data.directory),
            output_dir=str(tmp_path / name),
            memory_cap=config.memory_cap,
            method=method,
            training=TRAINING,
            predicted=predicted,
        )
        outcome = run(server, request)
        assert outcome.status is Status.COMPLETE, outcome
        assert outcome.metric == outcome.metrics[data.task.metric]
        assert outcome.peak is not None
        assert outcome.peak.allocated == predicted.allocated, name


@pytest.mark.parametrize("case", CASES)
def test_a_trial_that_reads_stored_hidden_states_is_priced_and_scores_alike(
    case: str, server: ForkServer, tmp_path: Path
) -> None:
    config, data = settings_of(case, tmp_path)
    candidate = Candidate(method=METHODS["sherl"], training=TRAINING, params={})
    with torch.device("meta"):
        backbone = backbone_from_config(load_config(config.model))
    places = needs_of(method_from_dict(candidate.method), data.task, backbone)
    if case == "llama answers":  # it writes, and reads what it has written with its input
        assert not places
        return
    errand = Errand(
        source=config.model,
        prepared=str(data.directory),
        root=str(tmp_path / "store"),
        precision="fp32",
        device="cpu",
        threads=1,
        mode="on",
        wanted=(Wanted(places=tuple(sorted(places)), passes=1.0),),
    )
    stored = fill(errand, lambda _: None)
    whole = SharedFeatures(root=errand.root, key=stored.key, places=stored.places, without=None)
    readers = whole.readers(PARTS, [])
    assert readers is not None
    with StudyFeatures(backbone, data) as features:
        features.add("fp32", errand.root, stored, readers)
        shared = features.of(candidate)
        assert shared is not None
        predictor = predictor_of(config, data, tmp_path, features)
        predicted, live = predictor.predict(candidate), predictor_of(config, data, tmp_path).predict(candidate)
        outcomes = []
        for number, reads in enumerate((shared.to_dict(), None)):
            request = TrialRequest(
                number=number,
                backbone_source=config.model,
                prepared_dir=str(data.directory),
                output_dir=str(tmp_path / str(number)),
                memory_cap=config.memory_cap,
                method=candidate.method,
                training=TRAINING,
                predicted=predicted if reads else live,
                features=reads,
            )
            outcomes.append(run(server, request))
    read, computed = outcomes
    assert read.status is Status.COMPLETE, read
    assert read.details["features"]["read"] is True
    assert read.peak is not None
    assert read.peak.allocated == predicted.allocated
    assert read.metrics == pytest.approx(computed.metrics, rel=1e-5)
    assert read.epochs[0].train_loss == pytest.approx(computed.epochs[0].train_loss, rel=1e-5)


def test_the_rehearsal_is_as_wide_as_the_test_part(server: ForkServer, tmp_path: Path) -> None:
    """Evaluation decides the peak here, and the test part has the largest batch: it shows before training, not after."""
    config, data = settings_of("t5 answers", tmp_path)
    valid, test = (data.part(part).largest_batch(64) for part in ("valid", "test"))
    assert widest(form_of(valid), form_of(test)) != form_of(valid)
    training = {**TRAINING, "batch_size": 2, "eval_batch_size": 64}
    predictor = predictor_of(config, data, tmp_path)
    candidate = Candidate(method=METHODS["sherl"], training=training, params={})
    narrow = Candidate(method=METHODS["sherl"], training={**training, "eval_batch_size": 2}, params={})
    predicted = predictor.predict(candidate)
    assert predicted.allocated > predictor.predict(narrow).allocated
    request = TrialRequest(
        number=0,
        backbone_source=config.model,
        prepared_dir=str(data.directory),
        output_dir=str(tmp_path / "trial"),
        memory_cap=config.memory_cap,
        method=candidate.method,
        training=training,
        predicted=predicted,
    )
    outcome = run(server, request)
    assert outcome.peak is not None
    assert outcome.peak.allocated == predicted.allocated
