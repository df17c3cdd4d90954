"""Looks at what the main job left behind; exits with a message where something is missing or wrong."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import mlflow
import optuna
from optuna.trial import TrialState

from autotune.memory.margin import rule_bytes


def require(condition: bool, message: str) -> None:
    if not condition:
        sys.exit(f"check_study: {message}")


def load(folder: Path) -> tuple[optuna.Study, dict]:
    settings = json.loads((folder / "study.json").read_text())
    url = f"sqlite:///{(folder / 'study.db').resolve()}"
    (name,) = optuna.get_all_study_names(url)
    return optuna.load_study(study_name=name, storage=url), settings


def low_cap(folder: Path) -> int:
    """A cap between the least and the most that trials of this study need where the heap is kept tight."""
    study, _ = load(folder)
    least = []
    for trial in study.trials:
        predicted = trial.user_attrs["outcome"]["predicted"]
        allocated = predicted["allocated"]
        baseline = predicted["device"] - allocated - rule_bytes("fast", allocated)
        least.append(baseline + allocated + rule_bytes("tight", allocated))
    require(min(least) < max(least), f"all trials need alike: {least}")
    return (min(least) + max(least)) // 2


def check_record(study: optuna.Study, settings: dict, trials: int) -> list[optuna.trial.FrozenTrial]:
    ended = [trial for trial in study.trials if trial.state.is_finished()]
    complete = [trial for trial in ended if trial.state is TrialState.COMPLETE]
    statuses = [(trial.number, trial.user_attrs["status"], trial.user_attrs["reason"]) for trial in ended]
    require(len(ended) == len(study.trials) == trials, f"{trials} trials were asked for, there are {statuses}")
    require(
        all(status in ("complete", "stopped") for _, status, _ in statuses), f"a trial did not end well: {statuses}"
    )
    require(bool(complete), f"no trial is complete: {statuses}")
    for trial in complete:
        device = trial.user_attrs["outcome"]["peak"]["device"]
        require(device <= settings["memory_cap"], f"trial {trial.number} held {device} bytes, over the cap")
    return complete


def check_report(folder: Path, complete: list[optuna.trial.FrozenTrial]) -> None:
    for name in ("front.csv", "front.json", "trials.csv", "front.png", "front.svg", "front.html", "report.html"):
        require((folder / "report" / name).stat().st_size > 0, f"report/{name} is empty")
    html = (folder / "report" / "front.html").read_text()
    require('src="http' not in html, "front.html loads a script from the network")
    front = json.loads(subprocess.check_output(["autotune", "report", "--study-dir", str(folder), "--json"]))["front"]
    require(bool(front), "the front is empty")
    numbers = {trial.number for trial in complete}
    for member in front:
        require(member["number"] in numbers, f"trial {member['number']} is on the front and not complete")
        require(
            bool(member["test_metrics"]),
            f"trial {member['number']} is on the front and was not scored on the test part",
        )


def check_mlflow(folder: Path, trials: int) -> None:
    client = mlflow.MlflowClient(f"sqlite:///{(folder / 'mlflow.db').resolve()}")
    runs = [run for experiment in client.search_experiments() for run in client.search_runs([experiment.experiment_id])]
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    require(len(parents) == 1, f"one parent run was expected, there are {len(parents)}")
    require(len(runs) == 1 + trials, f"{trials} nested runs were expected, there are {len(runs) - 1}")

    def files(path: str | None = None) -> list[str]:
        found = []
        for item in client.list_artifacts(parents[0].info.run_id, path):
            found += files(item.path) if item.is_dir else [item.path]
        return found

    names = {Path(path).name for path in files()}
    require({"front.png", "front.html"} <= names, f"the parent run lacks the front's figures: {sorted(names)}")


def check_model(folder: Path) -> None:
    """Select, export and load as a person does; the loaded model gives what the trial gave on the validation part."""
    import torch

    import sherl
    from sherl.data import PreparedData

    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / "model"
        subprocess.check_call(["autotune", "select", "--study-dir", str(folder), "--memory-cap", "8GB"])
        subprocess.check_call(["autotune", "export", str(target), "--study-dir", str(folder)])
        chosen = json.loads((folder / "selection.json").read_text())["point"]
        part = PreparedData.open(folder / "prepared").part("valid")
        predictor = sherl.load(target)
        answers = predictor.predict(list(part.texts))
        names = predictor.model.task.class_names
        right = [answer["label"] == names[int(label)] for answer, label in zip(answers, part.labels, strict=True)]
        accuracy = sum(right) / len(right)
        require(
            abs(accuracy - chosen["metric"]) < 1e-5, f"exported: {accuracy}, at the trial's end: {chosen['metric']}"
        )
        single, batch = predictor.logits([part.texts[0]]), predictor.logits(list(part.texts[:8]))[:1]
        require(torch.allclose(single, batch, atol=1e-5), f"one by one {single}, in a batch {batch}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--trials", type=int)
    parser.add_argument("--refused", action="store_true", help="part of the space must have been refused")
    parser.add_argument("--low-cap", action="store_true", help="only print a cap that would refuse part of the space")
    arguments = parser.parse_args()
    if arguments.low_cap:
        print(low_cap(arguments.folder))
        return
    study, settings = load(arguments.folder)
    complete = check_record(study, settings, arguments.trials)
    check_report(arguments.folder, complete)
    check_mlflow(arguments.folder, arguments.trials)
    if arguments.refused:
        refused = [key for key in study.user_attrs if key.startswith("refused:")]
        require(bool(refused), "nothing was refused under the low cap")
    check_model(arguments.folder)
    print(f"check_study: {arguments.folder.name}: {len(complete)} complete trials, all as it should be")


if __name__ == "__main__":
    main()
