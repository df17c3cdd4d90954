"""A finished study of one trial, as a run would leave it, made in this process without a search: in about a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autotune.config import StudyConfig
from autotune.outcome import Candidate, EpochReport, MemoryFigures, Outcome, Status
from autotune.report import points_from
from autotune.search import StudyRecord
from autotune.study.folder import StudyFolder, create_folder
from autotune.study.selecting import current_selection
from autotune.tracking import Tracker
from sherl.backbones import load_backbone
from sherl.checkpoint import save_checkpoint
from sherl.data import DataSpec, PreparedData, prepare
from sherl.methods import method_from_dict
from sherl.model import build_model
from sherl.spec import TrainingConfig
from sherl.training import fit
from tests.autotune.small_study import make_inputs

SHERL = {
    "name": "sherl",
    "reduction_factor": 4,
    "start_layer": -1,
    "late_route": {"name": "lora", "rank": 2, "alpha": 4},
}


def finished_study(
    folder: Path, *, method: dict[str, Any] = SHERL, tracked: bool = False, rows: int = 120, **data: Any
) -> StudyFolder:
    """In ``folder / "study"``; the model and ``rows`` rows lie beside it. data: settings of the data. tracked: in MLflow too."""
    inputs = make_inputs(folder, rows=rows)
    config = StudyConfig(
        memory_cap="3GB",
        model=inputs["--model"],
        data={"train": inputs["--train"], "text": "review", "label": "stars", **data},
        max_length=24,
        name="small",
        space=inputs["--space"],
        study_dir=str(folder / "study"),
    )
    study, _ = create_folder(config)
    study.keep_space(config.space)
    prepared = prepare(
        DataSpec.from_dict(config.data), backbone_source=config.model, directory=study.prepared, max_length=24
    )
    candidate = Candidate(
        method=method_from_dict(method).to_dict(),
        training={"learning_rate": 3e-3, "batch_size": 8, "epochs": 2},
        params={"method": method["name"]},
        plan={"accumulation": 2},
    )
    with StudyRecord.create(study.record_file, config.name, settings=config.to_dict()) as record:
        number = record.start(candidate, seed=5)
        record.finish(number, _trained(candidate, prepared, config.model, study.trial(number) / "checkpoint"))
        record.set_test_metrics(number, {"accuracy": 0.75})
        trials = record.trials()
    current_selection(study, points_from(trials, metric_name="accuracy"), save=True)
    if tracked:
        tracker = Tracker.open(None, study_dir=study.path, study_name=config.name)
        tracker.study_started(config.to_dict())
        tracker.trial_finished(trials[0])
        assert tracker.deliver_pending() == 0
        tracker.close()
    return study


def _trained(candidate: Candidate, prepared: PreparedData, source: str, kept: Path) -> Outcome:
    training = TrainingConfig.from_dict({**candidate.training, "seed": 5})
    model = build_model(load_backbone(source), method_from_dict(candidate.method), prepared.task, seed=5)
    *_, last = fit(model, prepared.part("train"), prepared.part("valid"), training)
    save_checkpoint(model, kept, max_length=prepared.max_length)
    report = EpochReport(epoch=last.epoch, train_loss=last.train_loss, metrics=last.metrics, seconds=last.seconds)
    return Outcome(
        status=Status.COMPLETE,
        metric=last.metrics["accuracy"],
        metrics=last.metrics,
        best_epoch=last.epoch,
        epochs=(report,),
        peak=MemoryFigures(allocated=10_000_000, device=500_000_000, meter="process private bytes"),
        checkpoint=str(kept),
    )
