"""``autotune run`` and ``autotune resume``: their arguments."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autotune.cli.ending import drive
from autotune.cli.options import Json, Plugins, Quiet, absolute, absolute_file, load_plugins

if TYPE_CHECKING:
    from autotune.config import StudyConfig

RUN_HELP = """Search for the best fine-tuned models under a memory cap.

Without --model and --train it runs the packaged demonstration (MiniLM on movie reviews; `pip install -e '.[demo]'`).

Examples:

  autotune run --memory-cap 8GB

  autotune run --memory-cap 6GiB --model roberta-base --train train.csv --test test.csv --text review --label stars

  autotune run --memory-cap 8GB --method sherl --method lora --trials 40 --time-budget 2h

  autotune run --memory-cap 8GB --model t5-small --task text-to-text --train notes.csv --template "summarize: {text}"

  autotune run --memory-cap 8GB --model gpt2 --task language-modelling --unit stream --train book.txt

  autotune run --memory-cap 8GB --model roberta-base --task token-classification --train train.conll --metric entity_f1

  autotune run --memory-cap 8GB --model facebook/dinov2-small --task image-classification --train photos --image-size 56
"""


def _absolute_store(uri: str | None) -> str | None:
    """An SQLite store by its whole path; other addresses as they are."""
    prefix = "sqlite:///"
    if uri is None or not uri.startswith(prefix):
        return uri
    return prefix + str(Path(uri.removeprefix(prefix)).resolve())


def _settled(settings: dict[str, Any]) -> StudyConfig:
    """Settings and data settings checked together, so that all problems are told at once."""
    from autotune.config import StudyConfig
    from autotune.errors import ConfigError
    from sherl.data.settings import DataSpec
    from sherl.errors import SpecError

    problems: list[str] = []
    try:
        DataSpec.from_dict(settings["data"])
    except SpecError as error:
        problems.append(str(error))
    try:
        config = StudyConfig.parse(settings)
    except ConfigError as error:
        raise ConfigError([*error.problems, *problems], where="autotune run") from error
    if problems:
        raise ConfigError(problems, where="autotune run")
    return config


def run(
    memory_cap: Annotated[
        str,
        typer.Option(
            "--memory-cap", help="What a trial may hold of the device, evaluation included: 8GB (8e9 bytes), 7.5GiB."
        ),
    ],
    gpu_budget: Annotated[
        str | None,
        typer.Option(
            "--gpu-budget",
            help="What the trials on one GPU (without a GPU: on this machine) may hold together: 20GB, or all (what is "
            "free at the start less 5 %); default: the cap.",
        ),
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            "--model",
            help="A local folder or a hub id of a pretrained model: an encoder (bert, mpnet, ...), a decoder (gpt2, llama, ...), an "
            "encoder-decoder (t5, bart, ...), a vision transformer (vit, dinov2, ...) or a CNN (resnet, convnext, ...); default: the packaged MiniLM.",
        ),
    ] = "all-minilm-l6-v2",
    train: Annotated[
        str | None,
        typer.Option(
            "--train",
            help="csv, tsv, jsonl, json or parquet file, plain text or CoNLL for the tasks that read them, a folder with a folder of images for each class, a task of GLUE (glue:rte or glue:rte@FOLDER), or a hub "
            "id; default: movie reviews.",
        ),
    ] = None,
    valid: Annotated[
        str | None, typer.Option("--valid", help="Validation part; by default split off the training part.")
    ] = None,
    test: Annotated[
        str | None,
        typer.Option("--test", help="Test part, scored once at the end; by default split off the training part."),
    ] = None,
    text: Annotated[str | None, typer.Option("--text", help="Column of the text.")] = None,
    pair: Annotated[str | None, typer.Option("--pair", help="Column of the second text of a pair.")] = None,
    label: Annotated[str | None, typer.Option("--label", help="Column of the class or the number to predict.")] = None,
    task: Annotated[
        str,
        typer.Option(
            "--task",
            help="auto, classification, regression, text-to-text, language-modelling, token-classification or "
            "image-classification; auto decides between the first two by the labels, and takes folders and arrays for images.",
        ),
    ] = "auto",
    template: Annotated[
        str | None,
        typer.Option("--template", help='Text-to-text: the input, e.g. "rte sentence1: {text} sentence2: {pair}".'),
    ] = None,
    target_length: Annotated[
        int | None,
        typer.Option(
            "--target-length", help="Text-to-text: tokens that no target may exceed; default: the longest one's."
        ),
    ] = None,
    unit: Annotated[
        str,
        typer.Option("--unit", help="Language modelling: row (each text), or stream (blocks of --max-length tokens)."),
    ] = "row",
    image: Annotated[
        str | None, typer.Option("--image", help="Column of image paths, where images come as a table.")
    ] = None,
    image_size: Annotated[
        int | None, typer.Option("--image-size", help="Pixels of each side of images; default: the model's own.")
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            "--metric",
            help="What to maximise: accuracy, f1 (of the second of two classes; of more their mean), f1_macro, "
            "matthews, accuracy_f1; for regression spearman, pearson, pearson_spearman, r2, neg_rmse, neg_mae; for free text "
            "exact_match; for tags token_accuracy, token_f1, entity_f1; for language modelling, and the targets of text-to-text, "
            "neg_perplexity, neg_loss, next_token_accuracy.",
        ),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option("--method", help="Only these methods of the space (repeatable): sherl, full, lora, ..."),
    ] = None,
    precision: Annotated[str | None, typer.Option("--precision", help="fp32 or bf16; default: the space's.")] = None,
    space: Annotated[
        str, typer.Option("--space", help="A search space: a name in search_spaces/ or a YAML file.")
    ] = "default",
    trials: Annotated[int, typer.Option("--trials", help="How many configurations to try.")] = 16,
    time_budget: Annotated[
        str | None,
        typer.Option(
            "--time-budget",
            help="End training after this long, confirming included, for which up to half of it is kept: 20m, 2h.",
        ),
    ] = None,
    confirm: Annotated[
        int,
        typer.Option(
            "--confirm",
            min=0,
            help="At the end train each member of the front on this many other seeds and rank by their mean; 0: leave it out.",
        ),
    ] = 3,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the search, the splits and the trials.")] = 0,
    max_length: Annotated[
        int | None,
        typer.Option(
            "--max-length",
            help="Longest text in tokens, longer ones are cut; default: 128, or the model's limit where that is less; not for images.",
        ),
    ] = None,
    parallel: Annotated[
        int | None, typer.Option("--parallel", help="Trials at a time; default: what cores, devices and the cap allow.")
    ] = None,
    features: Annotated[
        str,
        typer.Option(
            "--features",
            help="Whether hidden states of frozen early blocks are computed once and read by all trials: auto (where it pays), on, "
            "off, or a folder to keep them in.",
        ),
    ] = "auto",
    features_budget: Annotated[
        str | None,
        typer.Option(
            "--features-budget",
            help="What the stored hidden states may take of the disk: 20GB; default: half of its free room.",
        ),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="The study's name; default: model, data and time.")] = None,
    study_dir: Annotated[
        Path | None, typer.Option("--study-dir", help="A new folder for the study; default: studies/NAME.")
    ] = None,
    mlflow_uri: Annotated[
        str | None,
        typer.Option(
            "--mlflow-uri",
            help="Where MLflow records; default: MLFLOW_TRACKING_URI, the better place for a password, else a SQLite file in the study's folder.",
        ),
    ] = None,
    ray_address: Annotated[
        str | None, typer.Option("--ray-address", help="A running Ray cluster; default: Ray on this machine.")
    ] = None,
    plugin: Plugins = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """See :data:`RUN_HELP`."""
    from autotune.study import run_study
    from autotune.study.folder import STUDIES, default_name, name_of

    load_plugins(plugin)
    data = {
        "train": absolute(train),
        "valid": absolute(valid),
        "test": absolute(test),
        "text": text,
        "pair": pair,
        "label": label,
        "template": template,
        "target_length": target_length,
        "unit": unit,
        "image": image,
        "image_size": image_size,
    }
    name = name or (default_name(model, train) if study_dir is None else name_of(study_dir))
    config = _settled(
        {
            "memory_cap": memory_cap,
            "gpu_budget": gpu_budget,
            "model": absolute(model),
            "data": {**data, "task": task, "metric": metric, "seed": seed},
            "methods": method or None,
            "metric": metric,
            "precision": precision,
            "space": absolute_file(space),
            "trials": trials,
            "time_budget": time_budget,
            "confirm": confirm,
            "seed": seed,
            "max_length": max_length,
            "parallel": parallel,
            "features": features if features in ("auto", "on", "off") else str(Path(features).expanduser().resolve()),
            "features_budget": features_budget,
            "name": name,
            "study_dir": str(study_dir or STUDIES / name),
            "mlflow_uri": _absolute_store(mlflow_uri),
            "ray_address": ray_address,
            "plugins": plugin or (),
        }
    )
    drive(lambda display: run_study(config, display), quiet=quiet, as_json=as_json)
